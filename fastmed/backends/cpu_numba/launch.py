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
from . import channels_last, pointwise, softmax, step, threads
from .memory import ELEMENTS, kind, span
from .tiles import GRADIENT, INPUT, MASK, TARGET, TILE, TILES_PER_CHUNK

_Operand = tuple[tuple[int, ...], tuple[int, ...], torch.dtype] | None


class Plan(NamedTuple):
    """The kernels for operands of some shapes, strides and types; arguments but for what each call brings."""

    kernels: Any
    elements: int
    partials: tuple[int, ...]
    types: tuple[Any, ...]
    layout: Any


def _operand(tensor: Tensor | None) -> _Operand:
    return None if tensor is None else (tensor.shape, tensor.stride(), tensor.dtype)


def _table_operand(tensor: Tensor | None) -> _Operand:
    """A table (N, C) as the one volume (1, C, N) that it is to the kernels."""
    if tensor is None:
        return None
    (rows, columns), (by_row, by_column) = tensor.shape, tensor.stride()
    return (1, columns, rows), (0, by_column, by_row), tensor.dtype


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


def _layout(plan: Plan, operands: RegionInput, gradient: Tensor | None = None) -> Any:
    """The plan's numbers with the addresses of these operands."""
    layout = plan.layout.copy()
    layout[INPUT], layout[TARGET] = operands.input.data_ptr(), operands.target.data_ptr()
    if operands.mask is not None:
        layout[MASK] = operands.mask.data_ptr()
    if gradient is not None:
        layout[GRADIENT] = gradient.data_ptr()
    return layout


def _plan_of(
    operands: RegionInput, nll: bool, region: bool, gradient: Tensor | None = None, describe: Any = _operand
) -> Plan:
    input, target, mask, activation, ignore_index, uncertain = operands[:6]
    described = (describe(input), describe(target), describe(mask), describe(gradient))
    return _plan(described, activation, ignore_index, (nll, region, uncertain is not None))


def partial_sums(operands: RegionInput, *, nll: bool, region: bool) -> Any:
    """Partial sums (N, C, chunks, statistics), with one more column for targets out of range."""
    plan = _plan_of(operands, nll, region)
    partials = np.empty(plan.partials)
    arguments = (*plan.types, _layout(plan, operands), _numbers(operands), partials)
    _run(plan.kernels.sums_serial, plan.kernels.sums_parallel, plan.elements, arguments)
    return partials


def gradient_of_input(operands: RegionInput, by: Any, gradient: Tensor) -> None:
    """Writes the gradient of the input from that of the stacked sums."""
    plan = _plan_of(operands, False, False, gradient)
    arguments = (*plan.types, _layout(plan, operands, gradient), _numbers(operands), by)
    _run(plan.kernels.gradient_serial, plan.kernels.gradient_parallel, plan.elements, arguments)


def has_table_step(operands: RegionInput) -> bool:
    """Whether loss and gradient are best computed in one call: a table (N, C) for one thread, in full precision."""
    input = operands.input
    if input.ndim != 2 or input.dtype != torch.float32 or not 0 < input.numel() < threads.SERIAL_BELOW:
        return False
    return input.shape[1] > 1 and input.is_contiguous()


def table_step(
    operands: RegionInput, loss: tuple[Any, ...], value: Any, gradient: Tensor, *, nll: bool, region: bool
) -> int:
    """Writes the loss and the gradient of the input; returns the number of targets out of range."""
    plan = _plan_of(operands, nll, region, gradient, _table_operand)
    arguments = (*plan.types, _layout(plan, operands, gradient), _numbers(operands), *loss)
    return int(step.table_step(*arguments, np.empty(plan.partials), value))
