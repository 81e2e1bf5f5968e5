"""Which kernels run, with what: planned once for each kind of operands, and filled in with addresses at each call.

A small batch takes no longer than the calls that lead to its kernel, so there are few of them.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...contract import BASIC, STATISTICS, RegionInput
from . import channels_last, pointwise, softmax, step, threads
from .memory import ELEMENTS, kind, span
from .tiles import GRADIENT, INPUT, MASK, TARGET, TILE, TILES_PER_CHUNK, UNCERTAIN

_Operand = tuple[tuple[int, ...], tuple[int, ...], torch.dtype] | None

# Where a call's layout differs from its plan's.
_ADDRESSES = [INPUT, TARGET, MASK, UNCERTAIN, GRADIENT]


class Flags(NamedTuple):
    """Which statistics a kernel computes, or takes a gradient of; `region` are those of overlaps."""

    nll: bool = False
    region: bool = False
    soft: bool = False
    hard: bool = False


class Plan(NamedTuple):
    """The kernels for operands of some shapes, strides and types; arguments but for what each call brings."""

    kernels: Any
    elements: int
    partials: tuple[int, ...]
    types: tuple[Any, ...]
    layout: Any


def _operand(tensor: Tensor | None) -> _Operand:
    return None if tensor is None else (tensor.shape, tensor.stride(), tensor.dtype)


def _as_volume(operand: _Operand) -> _Operand:
    """A table (N, C) as the one volume (1, C, N) that it is to the kernels."""
    if operand is None:
        return None
    (rows, columns), (by_row, by_column), dtype = operand
    return (1, columns, rows), (0, by_column, by_row), dtype


def _describe(operand: _Operand) -> tuple[int, ...]:
    """Room for the address, then span, kind and strides of an operand (N, C, V), or (N, V) without channels."""
    if operand is None:
        return (0,) * 6
    shape, strides, dtype = operand
    sample, *channel, voxel = strides
    by_channel = channel[0] if channel and shape[1] > 1 else 0
    return 0, span(shape, strides), kind(dtype), sample, by_channel, voxel


@functools.lru_cache(maxsize=4096)
def _plan(operands: tuple[_Operand, ...], activation: str, ignore_index: int | None, flags: Flags) -> Plan:
    if operands[0] is not None and len(operands[0][0]) == 2:
        operands = tuple(map(_as_volume, operands))
    input, target, mask, _ = operands
    assert input is not None
    assert target is not None
    samples, classes, voxels = input[0]
    dense = len(target[0]) == 3
    kernels: Any = pointwise
    voxels_per_chunk = TILE * TILES_PER_CHUNK
    if activation == "softmax":
        kernels = softmax
    elif activation == "sigmoid" and dense and channels_last.applies(classes, input[1], flags.soft or flags.hard):
        kernels = channels_last
        voxels_per_chunk = channels_last.voxels_per_chunk(classes)
    chunks = -(-voxels // voxels_per_chunk)
    numbers = (
        *(voxels, chunks, activation == "sigmoid", *flags),
        *(number for operand in operands for number in _describe(operand)),
        *(0, classes),
        *(dense, ignore_index is not None, ignore_index or 0, mask is not None),
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
def _numbers(label_smoothing: float, gamma: float) -> Any:
    return np.array((label_smoothing, gamma), dtype=np.float32)


def _run(serial: Any, parallel: Any, elements: int, arguments: tuple[Any, ...]) -> None:
    number = threads.count(elements)
    if number == 1:
        serial(*arguments)
    else:
        with threads.limit(number):
            parallel(*arguments)


def _addresses(operands: RegionInput, gradient: Tensor | None) -> tuple[int, ...]:
    """Of input, target, mask, the values of uncertain labels, and the gradient; 0 for what there is none of."""
    input, target, mask, uncertain = operands.input, operands.target, operands.mask, operands.uncertain
    return (
        input.data_ptr(),
        target.data_ptr(),
        0 if mask is None else mask.data_ptr(),
        0 if uncertain is None else uncertain.data_ptr(),
        0 if gradient is None else gradient.data_ptr(),
    )


def _operands(plan: Plan, operands: RegionInput, gradient: Tensor | None = None) -> tuple[Any, ...]:
    """What every kernel takes first."""
    layout = plan.layout.copy()
    layout[_ADDRESSES] = _addresses(operands, gradient)
    return *plan.types, layout, _numbers(operands.label_smoothing, operands.gamma)


def _plan_of(operands: RegionInput, flags: Flags, gradient: Tensor | None = None) -> Plan:
    input, target, mask, activation, ignore_index = operands[:5]
    described = (_operand(input), _operand(target), _operand(mask), _operand(gradient))
    return _plan(described, activation, ignore_index, flags)


def partial_sums(operands: RegionInput, flags: Flags) -> Any:
    """Partial sums (N, C, chunks, statistics), with one more column for targets out of range."""
    plan = _plan_of(operands, flags)
    partials = np.empty(plan.partials)
    arguments = (*_operands(plan, operands), partials)
    _run(plan.kernels.sums_serial, plan.kernels.sums_parallel, plan.elements, arguments)
    return partials


def gradient_of_input(operands: RegionInput, by: Any, gradient: Tensor) -> None:
    """Writes the gradient of the input from that of the stacked sums."""
    plan = _plan_of(operands, Flags(soft=len(by) > BASIC), gradient)
    arguments = (*_operands(plan, operands, gradient), by)
    _run(plan.kernels.gradient_serial, plan.kernels.gradient_parallel, plan.elements, arguments)


def has_table_step(operands: RegionInput) -> bool:
    """Whether loss and gradient are best computed in one call: a table (N, C) for one thread, in full precision."""
    input = operands.input
    if input.ndim != 2 or input.dtype != torch.float32:
        return False
    rows, columns = input.shape
    return 0 < rows * columns < threads.SERIAL_BELOW and columns > 1 and input.is_contiguous()


def table_step(operands: RegionInput, loss: tuple[Any, ...], gradient: Tensor, flags: Flags) -> tuple[float, int]:
    """Writes the gradient of the input; returns the loss and the number of targets out of range."""
    plan = _plan_of(operands, flags, gradient)
    numbers = _numbers(operands.label_smoothing, operands.gamma)
    value, invalid = step.table_step(*plan.types, plan.layout, _addresses(operands, gradient), numbers, *loss)
    return value, invalid
