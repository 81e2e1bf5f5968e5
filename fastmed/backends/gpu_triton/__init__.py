"""Triton on NVIDIA GPUs, and in Triton's interpreter on the CPU.

Forward is two launches: a pass over the voxels leaves float32 partial sums of each program, and a second
stage combines them in float64 in a fixed order. A small table needs one. Backward is one. Nothing waits for the
device.
"""

from __future__ import annotations

import contextlib

import torch
import triton
from torch import Tensor

from ...contract import BASIC, STATISTICS, LossWeights, RatioLinear, RegionInput, Request, Wanted
from . import launch
from .primitives import INTERPRETED

_INPUT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def unavailable_reason() -> str | None:
    """Why no kernel runs here, or None."""
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
        return f"needs Triton 3.3 or newer, not {triton.__version__}, which cannot return a tuple of tensors"
    if INTERPRETED or torch.cuda.is_available():
        return None
    return "finds no CUDA device (TRITON_INTERPRET=1, set before the import, runs it on the CPU, slowly)"


def unsupported_reasons(request: Request) -> list[str]:
    """Every reason why this request cannot run; empty if it can."""
    reasons = []
    if request.device == "cpu" and not INTERPRETED:
        reasons.append("runs on the CPU in Triton's interpreter only (TRITON_INTERPRET=1, set before the import)")
    if request.dtype not in _INPUT_DTYPES:
        reasons.append(f"takes float32, bfloat16 and float16 input, not {request.dtype}")
    if request.target_dtype.is_complex:
        reasons.append(f"takes integer and floating targets, not {request.target_dtype}")
    return reasons


def _device(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device."""
    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():
        return torch.cuda.device(tensor.device)
    return contextlib.nullcontext()


def _first_stage(operands: RegionInput, statistics: frozenset[int]) -> Tensor:
    """Partial sums (STATISTICS + 1, N, C, programs); with no voxel there are no programs."""
    samples, classes, voxels = operands.input.shape
    if samples * classes * voxels == 0:
        return operands.input.new_empty((STATISTICS + 1, samples, classes, 0), dtype=torch.float32)
    pass_over_voxels, partials = launch.partial_sums(operands, statistics, launch.processors(operands.input.device))
    pass_over_voxels.run()
    return partials


def region_sums(operands: RegionInput, wanted: Wanted) -> tuple[Tensor, Tensor]:
    """See `Backend.region_sums`."""
    input = operands.input
    samples, classes, _ = input.shape
    if input.numel() == 0:
        sums = input.new_zeros((STATISTICS, samples, classes), dtype=torch.float64)
        return sums, input.new_zeros((samples,), dtype=torch.int64)
    statistics = launch.statistics_of_sums(operands, wanted)
    sums = input.new_empty((STATISTICS, samples, classes), dtype=torch.float64)
    invalid = input.new_empty((samples,), dtype=torch.int64)
    with _device(input):
        partials = _first_stage(operands, statistics)
        launch.combination(operands, partials, statistics, sums, invalid).run()
    return sums, invalid


def region_loss(operands: RegionInput, loss: RatioLinear, weights: LossWeights) -> tuple[Tensor, Tensor, Tensor]:
    """Loss value, its gradient by the stacked sums (both float32), and labels out of range, int64 (N,)."""
    input = operands.input
    samples, classes, _ = input.shape
    statistics = launch.statistics_of_loss(operands, loss)
    value = input.new_empty((), dtype=torch.float32)
    gradient = input.new_empty((BASIC, samples, classes), dtype=torch.float32)
    invalid = input.new_empty((samples,), dtype=torch.int64)
    with _device(input):
        if launch.is_small_table(operands, loss):
            launch.table_loss(operands, loss, weights, value, gradient, invalid).run()
            return value, gradient, invalid
        partials = _first_stage(operands, statistics)
        launch.finalisation(operands, partials, statistics, loss, weights, value, gradient, invalid).run()
    return value, gradient, invalid


def region_sums_backward(
    operands: RegionInput, gradient: Tensor, scale: Tensor | None, into: Tensor | None = None
) -> Tensor:
    """See `Backend.region_sums_backward`."""
    input = operands.input
    dx = torch.empty_like(input) if into is None else into
    if input.numel():
        processors = launch.processors(input.device)
        with _device(input):
            launch.gradient_of_input(operands, gradient, scale, dx, processors, add=into is not None).run()
    return dx
