"""Compiled kernels for the CPU: vectorised by LLVM, on all threads that torch may use."""

from __future__ import annotations

from typing import Any

import numba
import torch
from torch import Tensor

from ...contract import STATISTICS, LossWeights, RatioLinear, RegionInput, Request
from . import finalise, pointwise, softmax, threads
from .confusion import confusion_counts
from .memory import empty_like
from .tiles import CHUNKS, NO_GRADIENT, combine, pack, view

__all__ = [
    "confusion_counts",
    "region_loss",
    "region_sums",
    "region_sums_backward",
    "unavailable_reason",
    "unsupported_reasons",
]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def unavailable_reason() -> str | None:
    """Why nothing runs here: only where a user switched compilation off."""
    return "NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else None


def unsupported_reasons(request: Request) -> list[str]:
    """Logits in float32 or a half format; labels of any integer type."""
    if request.op == "region_sums" and request.dtype not in _DTYPES:
        return [f"takes logits in float32, bfloat16 and float16, not {request.dtype}"]
    return []


def _run(serial: Any, parallel: Any, elements: int, arguments: tuple[Any, ...]) -> None:
    number = threads.count(elements)
    if number == 1:
        serial(*arguments)
    else:
        with threads.limit(number):
            parallel(*arguments)


def _kernels(operands: RegionInput) -> Any:
    return softmax if operands.activation == "softmax" else pointwise


def region_sums(operands: RegionInput, nll: bool) -> tuple[Tensor, Tensor]:
    """See `Backend.region_sums`."""
    n, c, _ = operands.input.shape
    stacked = torch.zeros((STATISTICS, n, c), dtype=torch.float64)
    if not operands.input.numel():
        return stacked, torch.zeros(n, dtype=torch.int64)
    *memory, layout = pack(operands, NO_GRADIENT, nll)
    chunks = layout[CHUNKS]
    partials = torch.empty((n, c, chunks, STATISTICS), dtype=torch.float64)
    invalid = torch.empty((n, chunks), dtype=torch.int64)
    kernels = _kernels(operands)
    arguments = (*memory, layout, partials.numpy(), invalid.numpy())
    _run(kernels.sums_serial, kernels.sums_parallel, operands.input.numel(), arguments)
    combine(partials.numpy(), invalid.numpy(), stacked.numpy())
    return stacked, invalid.sum(1)


def region_loss(operands: RegionInput, loss: RatioLinear, weights: LossWeights) -> tuple[Tensor, Tensor, Tensor]:
    """See `FusedBackend.region_loss`."""
    stacked, invalid = region_sums(operands, loss.lambda_nll != 0)
    value, gradient = finalise.ratio_linear(stacked, loss, weights, operands.activation == "sigmoid")
    return torch.tensor(value, dtype=torch.float32), gradient.to(torch.float32), invalid


def region_sums_backward(operands: RegionInput, gradient: Tensor, scale: Tensor | None) -> Tensor:
    """See `Backend.region_sums_backward`."""
    grad_input = empty_like(operands.input)
    if not operands.input.numel():
        return grad_input
    scaled = gradient if scale is None else gradient * scale
    by = scaled.to(torch.float32).permute(1, 2, 0).contiguous().numpy()
    destination = view(grad_input)
    *memory, layout = pack(operands, destination, False)
    kernels = _kernels(operands)
    arguments = (*memory, layout, by, destination.memory)
    _run(kernels.gradient_serial, kernels.gradient_parallel, operands.input.numel(), arguments)
    return grad_input
