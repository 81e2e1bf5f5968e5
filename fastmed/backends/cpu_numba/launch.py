"""Which kernels run, with what: planned once for each kind of operands, and filled in with addresses at each call.

A small batch takes no longer than the calls that lead to its kernel, so there are few of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...contract import BASIC, RegionInput
from . import channels_last, few_classes, label_map, pointwise, softmax, step, threads
from .conversion import label_reader, reader, writer
from .job import GRADIENT, INPUT, INVALID, MASK, ROWS, SUMS, TARGET, UNCERTAIN
from .tiles import TILE, TILES_PER_CHUNK

_Operand = tuple[tuple[int, ...], tuple[int, ...], torch.dtype] | None

# A label that is out of range, whether it is ignored or not.
_NOTHING = -(2**63)


class Flags(NamedTuple):
    """Which statistics a kernel computes, or takes a gradient of; `region` are those of overlaps."""

    nll: bool = False
    region: bool = False
    soft: bool = False
    hard: bool = False


class Plan(NamedTuple):
    """The kernels for operands of some shapes, strides and types, and their job but for what each call brings."""

    kernels: Any
    elements: int
    partials: tuple[int, ...]
    job: Any


def _operand(tensor: Tensor | None) -> _Operand:
    return None if tensor is None else (tensor.shape, tensor.stride(), tensor.dtype)


def _as_volume(operand: _Operand) -> _Operand:
    """A table (N, C) as the one volume (1, C, N) that it is to the kernels."""
    if operand is None:
        return None
    (rows, columns), (by_row, by_column), dtype = operand
    return (1, columns, rows), (0, by_column, by_row), dtype


def _describe(operand: _Operand, converter: Callable[[torch.dtype], int]) -> tuple[int, ...]:
    """Room for the address, then converter and strides of an operand (N, C, V), or (N, V) without channels."""
    if operand is None:
        return (0,) * 5
    shape, strides, dtype = operand
    sample, *channel, voxel = strides
    by_channel = channel[0] if channel and shape[1] > 1 else 0
    return 0, converter(dtype), sample, by_channel, voxel


def _bits(number: float) -> int:
    """Those of a float32."""
    return int(np.float32(number).view(np.int32))


@functools.lru_cache(maxsize=4096)
def _plan(
    operands: tuple[_Operand, ...],
    activation: str,
    ignore_index: int | None,
    exponents: tuple[float, float],
    flags: Flags,
    adds: bool,
) -> Plan:
    if operands[0] is not None and len(operands[0][0]) == 2:
        operands = tuple(map(_as_volume, operands))
    input, target, mask, gradient = operands
    assert input is not None
    assert target is not None
    samples, classes, voxels = input[0]
    dense, optional = len(target[0]) == 3, flags.soft or flags.hard
    kernels: Any = pointwise
    voxels_per_chunk = TILE * TILES_PER_CHUNK
    if activation == "softmax":
        is_plain = not (dense or optional or mask is not None or any(exponents))
        of_labels = few_classes if few_classes.applies(classes) else label_map
        kernels = of_labels if is_plain else softmax
    elif activation == "sigmoid" and dense and channels_last.applies(classes, input[1], optional):
        kernels = channels_last
        voxels_per_chunk = channels_last.voxels_per_chunk(classes)
    converters = (reader, reader if dense else label_reader, reader, writer)
    chunks = -(-voxels // voxels_per_chunk)
    items = samples * chunks * (classes if kernels is pointwise else 1)
    numbers = (
        *(0, items, samples, classes, voxels, chunks),
        *(activation == "sigmoid", *flags, *map(_bits, exponents)),
        *(number for pair in zip(operands, converters, strict=True) for number in _describe(*pair)),
        *(0, dense, ignore_index is not None, _NOTHING if ignore_index is None else ignore_index, mask is not None),
        *(0, 0),
        *(adds, 0 if gradient is None else reader(gradient[2]), 0),
    )
    return Plan(
        kernels,
        samples * classes * voxels,
        (samples, classes, chunks, INVALID + 1),
        np.array(numbers, dtype=np.int64),
    )


def _addresses(operands: RegionInput, gradient: Tensor | None) -> tuple[int, ...]:
    """Of input, target, mask, the values of uncertain labels, and the gradient; 0 for what there is none of."""
    mask, uncertain = operands.mask, operands.uncertain
    return (
        operands.input.data_ptr(),
        operands.target.data_ptr(),
        0 if mask is None else mask.data_ptr(),
        0 if uncertain is None else uncertain.data_ptr(),
        0 if gradient is None else gradient.data_ptr(),
    )


def _job(plan: Plan, operands: RegionInput, gradient: Tensor | None, sums: Any) -> Any:
    """The plan's, with the addresses of this call."""
    job = plan.job.copy()
    job[INPUT], job[TARGET], job[MASK], job[UNCERTAIN], job[GRADIENT] = _addresses(operands, gradient)
    job[SUMS], job[ROWS] = sums.ctypes.data, len(sums)
    return job


def _plan_of(operands: RegionInput, flags: Flags, gradient: Tensor | None = None, *, adds: bool = False) -> Plan:
    input, target, mask, activation, ignore_index = operands[:5]
    described = (_operand(input), _operand(target), _operand(mask), _operand(gradient))
    return _plan(described, activation, ignore_index, (operands.label_smoothing, operands.gamma), flags, adds)


def partial_sums(operands: RegionInput, flags: Flags) -> Any:
    """Partial sums (N, C, chunks, statistics), with one more column for targets out of range."""
    plan = _plan_of(operands, flags)
    partials = np.empty(plan.partials)
    plan.kernels.sums(_job(plan, operands, None, partials), threads.count(plan.elements))
    return partials


def gradient_of_input(operands: RegionInput, by: Any, gradient: Tensor, *, adds: bool = False) -> None:
    """Writes the gradient of the input from that of the stacked sums, contiguous float32, or adds it."""
    plan = _plan_of(operands, Flags(soft=len(by) > BASIC), gradient, adds=adds)
    plan.kernels.gradient(_job(plan, operands, gradient, by), threads.count(plan.elements))


def is_small(input: Tensor) -> bool:
    """Whether one thread does it all."""
    return 0 < input.numel() < threads.SERIAL_BELOW


def takes_step(operands: RegionInput, flags: Flags) -> bool:
    """Whether loss and gradient are computed together: for the binary cross entropy of a table (N, C)."""
    input, is_binary = operands.input, operands.activation == "sigmoid" and operands.target.ndim == operands.input.ndim
    is_table = input.ndim == 2 and input.shape[1] > 1 and input.is_contiguous() and input.numel() > 0
    return is_table and is_binary and not flags.region


def step_of_table(operands: RegionInput, loss: tuple[Any, ...], gradient: Tensor, flags: Flags) -> tuple[float, int]:
    """Writes the gradient of the input; returns the loss and the number of targets out of range."""
    plan = _plan_of(operands, flags, gradient)
    number = threads.count(plan.elements)
    # Those that are not needed are not compiled.
    kernels, team = ((0, 0), 0) if number == 1 else (step.addresses(), threads.team_address())
    value, invalid = step.in_one_call(plan.job, _addresses(operands, gradient), *loss, kernels, team, number)
    return value, invalid
