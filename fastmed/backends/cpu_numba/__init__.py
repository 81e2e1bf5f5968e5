"""Compiled kernels for the CPU: vectorised by LLVM, on all threads that torch may use."""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from ...contract import BASIC, STATISTICS, LossWeights, RatioLinear, RegionInput, Request, Wanted
from . import finalise, launch
from .confusion import confusion_counts
from .histogram import score_histogram
from .memory import empty_like
from .ranks import rank_statistics
from .tiles import combine

__all__ = [
    "confusion_counts",
    "rank_statistics",
    "region_loss",
    "region_step",
    "region_sums",
    "region_sums_backward",
    "score_histogram",
    "unavailable_reason",
    "unsupported_reasons",
]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def unavailable_reason() -> str | None:
    """Why nothing runs here: an old Numba, or a user who switched compilation off."""
    if numba.version_info.short < (0, 61):
        return f"needs Numba 0.61 or newer, not {numba.__version__}, which may call a kernel compiled for other types"
    return "NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else None


def unsupported_reasons(request: Request) -> list[str]:
    """Logits in float32 or a half format; labels of any integer type."""
    if request.op == "region_sums" and request.dtype not in _DTYPES:
        return [f"takes logits in float32, bfloat16 and float16, not {request.dtype}"]
    return []


def _sums(operands: RegionInput, flags: launch.Flags) -> tuple[Any, Tensor]:
    n, c, voxels = operands.input.shape
    stacked, invalid = np.zeros((STATISTICS, n, c)), np.zeros(n, dtype=np.int64)
    if n * c * voxels:
        combine(launch.partial_sums(operands, flags), stacked, invalid)
    return stacked, torch.from_numpy(invalid)


def region_sums(operands: RegionInput, wanted: Wanted) -> tuple[Tensor, Tensor]:
    """See `Backend.region_sums`."""
    stacked, invalid = _sums(operands, launch.Flags(wanted.nll, True, wanted.soft, wanted.hard))
    return torch.from_numpy(stacked), invalid


@functools.lru_cache(maxsize=256)
def _flags(loss: RatioLinear) -> launch.Flags:
    return launch.Flags(nll=loss.lambda_nll != 0, region=loss.lambda_ratio != 0)


def region_loss(operands: RegionInput, loss: RatioLinear, weights: LossWeights) -> tuple[Tensor, Tensor, Tensor]:
    """See `FusedBackend.region_loss`."""
    stacked, invalid = _sums(operands, _flags(loss))
    value, gradient = np.empty((), np.float32), np.empty((BASIC, *stacked.shape[1:]), np.float32)
    arrays = finalise.arrays(weights, operands.activation, stacked.shape[2])
    finalise.ratio_linear(stacked, finalise.numbers(loss), *arrays, value, gradient)
    return torch.from_numpy(value), torch.from_numpy(gradient), invalid


def region_step(operands: RegionInput, loss: RatioLinear, weights: LossWeights) -> tuple[Tensor, Tensor, int] | None:
    """See `FusedBackend.region_step`."""
    input, flags = operands.input, _flags(loss)
    if input.dtype != torch.float32:
        return None
    if launch.takes_step(operands, flags):
        _, *of_nll = finalise.arrays(weights, operands.activation, input.shape[1])
        gradient = torch.empty_like(input)
        value, invalid = launch.step_of_table(operands, (finalise.numbers(loss), *of_nll), gradient, flags)
        return torch.scalar_tensor(value, dtype=torch.float32), gradient, invalid
    if input.ndim == 2 or not launch.is_small(input):
        return None
    of_volume, by_sums, invalid_targets = region_loss(operands, loss, weights)
    gradient = torch.empty_like(input)
    launch.gradient_of_input(operands, by_sums.numpy(), gradient)
    return of_volume, gradient, int(invalid_targets.sum())


def region_sums_backward(
    operands: RegionInput, gradient: Tensor, scale: Tensor | None, into: Tensor | None = None
) -> Tensor:
    """See `Backend.region_sums_backward`."""
    grad_input = empty_like(operands.input) if into is None else into
    if operands.input.numel():
        if gradient.requires_grad or gradient.dtype != torch.float32 or not gradient.is_contiguous():
            gradient = gradient.detach().to(torch.float32).contiguous()
        by = gradient.numpy()
        if scale is not None:
            by = by * np.float32(scale.item())
        launch.gradient_of_input(operands, by, grad_input, adds=into is not None)
    return grad_input
