"""Which kernels run, with what: planned once for each kind of operands, and filled in with addresses at each call.

A small batch takes no longer than the calls that lead to its kernel, so there are few of them.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...contract import STATISTICS, RegionInput
from . import channels_last, pointwise, softmax, threads
from .memory import ELEMENTS, kind, span
from .tiles import GRADIENT, INPUT, MASK, TARGET, TILE, TILES_PER_CHUNK

_Operand = tuple[torch.Size, tuple[int, ...], torch.dtype] | None


class Plan(NamedTuple):
    """The kernels for operands of some shapes, strides and types; arguments but for what each call brings."""

    kernels: Any
    elements: int
    partials: tuple[int, ...]
    types: tuple[Any, ...]
    layout: Any


def _operand(tensor: Tensor | None) -> _Operand:
    return None if tensor is None else (tensor.shape, tensor.stride(), tensor.dtype)


def _describe(operand: _Operand) -> tuple[int, ...]:
    """Room for the address, then span, kind and strides of an operand (N, C, V), or (N, V) without channels."""
    if operand is None:
        return (0,) * 6
    shape, strides, dtype = operand
    sample, *channel, voxel = strides
    by_channel = channel[0] if channel and shape[1] > 1 else 0
    return 0, span(shape, strides), kind(dtype), sample, by_channel, voxel


@functools.lru_cache(maxsize=4096)
def _plan(operands: tuple[_Operand, ...], activation: str, ignore_index: int | None, flags: tuple[bool, ...]) -> Plan:
    input, target, mask, _ = operands
    nll, region, has_uncertain = flags
    assert input is not None
    assert target is not None
    samples, classes, voxels = input[0]
    dense = len(target[0]) == 3
    kernels: Any = pointwise
    voxels_per_chunk = TILE * TILES_PER_CHUNK
    if activation == "softmax":
        kernels = softmax
    elif activation == "sigmoid" and dense and channels_last.applies(classes, input[1]):
        kernels = channels_last
        voxels_per_chunk = channels_last.voxels_per_chunk(classes)
    chunks = -(-voxels // voxels_per_chunk)
    numbers = (
        *(voxels, chunks, activation == "sigmoid", nll, region),
        *(number for operand in operands for number in _describe(operand)),
        *(dense, ignore_index is not None, ignore_index or 0, mask is not None, has_uncertain),
    )
    dtypes = (input[2], target[2], torch.uint8 if mask is None else mask[2], input[2])
    return Plan(
        kernels,
        samples * classes * voxels,
        (samples, classes, chunks, STATISTICS + 1),
        tuple(ELEMENTS[dtype] for dtype in dtypes),
        np.array(numbers, dtype=np.int64),
    )


@functools.lru_cache(maxsize=256)
def _no_uncertain(label_smoothing: float, gamma: float) -> Any:
    return np.array((label_smoothing, gamma), dtype=np.float32)


def _numbers(operands: RegionInput) -> Any:
    """What kernels take as floating numbers."""
    numbers = _no_uncertain(operands.label_smoothing, operands.gamma)
    uncertain = operands.uncertain
    return numbers if uncertain is None else np.concatenate((numbers, uncertain.numpy()))


def _run(serial: Any, parallel: Any, elements: int, arguments: tuple[Any, ...]) -> None:
    number = threads.count(elements)
    if number == 1:
        serial(*arguments)
    else:
        with threads.limit(number):
            parallel(*arguments)


def partial_sums(operands: RegionInput, *, nll: bool, region: bool) -> Any:
    """Partial sums (N, C, chunks, statistics), with one more column for targets out of range."""
    input, target, mask, activation, ignore_index, uncertain = operands[:6]
    described = (_operand(input), _operand(target), _operand(mask), None)
    plan = _plan(described, activation, ignore_index, (nll, region, uncertain is not None))
    layout = plan.layout.copy()
    layout[INPUT], layout[TARGET] = input.data_ptr(), target.data_ptr()
    if mask is not None:
        layout[MASK] = mask.data_ptr()
    partials = np.empty(plan.partials)
    arguments = (*plan.types, layout, _numbers(operands), partials)
    _run(plan.kernels.sums_serial, plan.kernels.sums_parallel, plan.elements, arguments)
    return partials


def gradient_of_input(operands: RegionInput, by: Any, gradient: Tensor) -> None:
    """Writes the gradient of the input from that of the stacked sums."""
    input, target, mask, activation, ignore_index, uncertain = operands[:6]
    described = (_operand(input), _operand(target), _operand(mask), _operand(gradient))
    plan = _plan(described, activation, ignore_index, (False, False, uncertain is not None))
    layout = plan.layout.copy()
    layout[INPUT], layout[TARGET], layout[GRADIENT] = input.data_ptr(), target.data_ptr(), gradient.data_ptr()
    if mask is not None:
        layout[MASK] = mask.data_ptr()
    arguments = (*plan.types, layout, _numbers(operands), by)
    _run(plan.kernels.gradient_serial, plan.kernels.gradient_parallel, plan.elements, arguments)
