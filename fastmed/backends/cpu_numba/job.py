"""The job of a kernel: one vector of int64 that says what to read, what to compute and where to put it.

A kernel takes nothing else, so that there is one of each for operands of any type and layout.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import carray

from ...contract import STATISTICS
from .compilation import compiled
from .memory import F32, F64, flat, pointer
from .vector_math import float_of_bits

# Partial sums have one more column after the statistics: targets out of range.
INVALID = STATISTICS

# What is counted of each class before its gradient is known: weighted targets, weights, and in place of the first
# class's number the targets out of range of all.
TARGETS, WEIGHTS, OUTSIDE, COUNTS = range(4)

# The next item to be taken, how many there are, sizes, which statistics, smoothing and gamma as bits of float32;
# address, converter and strides of each operand; the address of the values that -1 stands for, flags; the address of
# partial sums, of counts, of factors, or of the gradient by the sums and how many rows that has; whether the gradient
# is added to what is there, and the converter that reads that; the address of the loss of each chunk, if it is computed
# with the gradient.
NEXT, ITEMS, SAMPLES, CLASSES, VOXELS, CHUNKS, SIGMOID, NLL, REGION, SOFT, HARD, _SMOOTHING, _GAMMA = range(13)
INPUT, TARGET, MASK, GRADIENT, UNCERTAIN, _FLAGS, SUMS, ROWS = 13, 18, 23, 28, 33, 34, 38, 39
_ADDS, _BEFORE, LOSSES, SIZE = 40, 41, 42, 43


class View(NamedTuple):
    """An operand as memory with element strides, and the C function that reads or writes it.

    `channel` is 0 where all classes share its values.
    """

    address: int
    converter: int
    sample: int
    channel: int
    voxel: int


class Target(NamedTuple):
    """The target, dense or labels, the label to remove, and what -1 stands for in each class, if it does."""

    values: View
    dense: bool
    has_ignore: bool
    ignore_index: int
    has_uncertain: bool
    uncertain: Any


class Mask(NamedTuple):
    """Voxel weights; `values` is unused where there are none."""

    values: View
    present: bool


class Gradient(NamedTuple):
    """Where the gradient of the input goes, and whether it is added to what is there, which `before` reads."""

    values: View
    adds: bool
    before: int


@compiled
def _view(job: Any, at: int) -> Any:
    return View(job[at], job[at + 1], job[at + 2], job[at + 3], job[at + 4])


@compiled
def operands(job: Any) -> Any:
    """Input, target and mask."""
    flags = job[_FLAGS:]
    uncertain = flat(job[UNCERTAIN], F32, 0, job[CLASSES])
    return (
        _view(job, INPUT),
        Target(_view(job, TARGET), flags[0] != 0, flags[1] != 0, flags[2], job[UNCERTAIN] != 0, uncertain),
        Mask(_view(job, MASK), flags[3] != 0),
    )


@compiled
def gradient(job: Any) -> Any:
    """Where the gradient of the input goes."""
    return Gradient(_view(job, GRADIENT), job[_ADDS] != 0, job[_BEFORE])


@compiled
def exponents(job: Any) -> Any:
    """Label smoothing and the focal exponent."""
    return float_of_bits(job[_SMOOTHING]), float_of_bits(job[_GAMMA])


@compiled
def partial_sums(job: Any) -> Any:
    """Float64 (N, C, chunks, statistics and one more)."""
    shape = (job[SAMPLES], job[CLASSES], job[CHUNKS], INVALID + 1)
    return carray(pointer(job[SUMS], F64), shape)


@compiled
def gradient_of_sums(job: Any) -> Any:
    """Float32 (statistics, N, C)."""
    return carray(pointer(job[SUMS], F32), (job[ROWS], job[SAMPLES], job[CLASSES]))


@compiled
def counts(job: Any) -> Any:
    """Float64 (chunks, `COUNTS`, C)."""
    return carray(pointer(job[SUMS], F64), (job[CHUNKS], COUNTS, job[CLASSES]))


@compiled
def factors(job: Any) -> Any:
    """Float32 (2, C): what the nll of positives and that of negatives are multiplied with."""
    return carray(pointer(job[SUMS], F32), (2, job[CLASSES]))


@compiled
def losses(job: Any) -> Any:
    """Float64 (chunks,)."""
    return flat(job[LOSSES], F64, 0, job[CHUNKS])
