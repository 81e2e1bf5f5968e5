"""The cross entropy of a table (N, C) and its gradient in one pass: both take the same exponential.

What they are multiplied with depends on labels and weights alone, which a pass over those counts before. The gradient
is that of the loss itself: half precision, in which it could underflow before a gradient scaler multiplies it, takes
the two passes of any other loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from .binary import focal
from .channels_last import are_rows, load_target, repeat
from .compilation import compiled, elementwise, reduction
from .finalise import nll_factors
from .job import (
    CHUNKS,
    CLASSES,
    COUNTS,
    GRADIENT,
    INPUT,
    ITEMS,
    LOSSES,
    MASK,
    OUTSIDE,
    TARGET,
    TARGETS,
    UNCERTAIN,
    VOXELS,
    WEIGHTS,
    counts,
    exponents,
    factors,
    losses,
)
from .job import gradient as job_gradient
from .job import operands as job_operands
from .kernel import Kernel, read, run, take
from .memory import F32, borrow, flat, keep, prefetch
from .vector_math import exp_non_positive, log1p_unit

# Elements of a tile: each of its sides, the values of the classes over and over, is to stay in the first-level cache.
_TILE = 2048
# Elements between two requests for those that come so much later: a processor holds some tens of lines that it waits
# for, and stands still where more are asked for at once.
_PIECE = 128
_AHEAD = 1024
# A tile of a multiple of so many rows leaves nothing over after the last vectors.
_ROWS = 32

_F = np.float32


@compiled
def _rows_per_tile(classes: int) -> int:
    rows, multiple = max(_TILE // classes, 1), _ROWS
    while multiple > rows:
        multiple //= 2
    return rows - rows % multiple


@elementwise
def _known(label: Any, policy: Any) -> Any:
    """What a label stands for, and 1; twice 0 where it is missing."""
    value = policy if label == _F(-1.0) else label
    known = value == value
    return value if known else _F(0.0), _F(1.0) if known else _F(0.0)


@reduction
def _count_known(label: Any, policy: Any, targets: Any, weights: Any) -> Any:
    """Adds targets and weights to those of the classes; returns how many targets are out of range."""
    outside = _F(0.0)
    for i in range(label.size):
        target, weight = _known(label[i], policy[i])
        targets[i] += target
        weights[i] += weight
        outside += _F(1.0) if (target < _F(0.0)) | (target > _F(1.0)) else _F(0.0)
    return outside


@elementwise
def _count_weighted(target: Any, weight: Any, targets: Any, weights: Any) -> None:
    for i in range(target.size):
        targets[i] += weight[i] * target[i]
        weights[i] += weight[i]


@compiled
def _count(job: Any, item: int, result: Any) -> None:
    """The weighted targets and weights of each class in one chunk, and the number of targets out of range."""
    _, target, mask = job_operands(job)
    classes, rows, chunks = job[CLASSES], job[VOXELS], job[CHUNKS]
    step = min(_rows_per_tile(classes), rows)
    size = step * classes
    owned = np.empty((3, size), np.float32), np.zeros((2, size), np.float32)
    scratch, sums = borrow(owned)
    policy, g, w, outside = scratch[0], scratch[1], scratch[2], 0.0
    is_plain = _is_plain(target, mask, classes)
    if target.has_uncertain:
        repeat(target.uncertain, policy)
    per_chunk = -(-rows // (chunks * step)) * step
    for row in range(item * per_chunk, min((item + 1) * per_chunk, rows), step):
        size = min(step, rows - row) * classes
        if is_plain:
            label = flat(target.values.address, F32, row * classes, size)
            outside += _count_known(label, policy[:size], sums[0, :size], sums[1, :size])
        else:
            outside += load_target(g[:size], w[:size], target, mask, policy[:size], classes, 0, row)
            _count_weighted(g[:size], w[:size], sums[0, :size], sums[1, :size])
    result[item] = 0.0
    result[item, OUTSIDE, 0] = outside
    for start in range(0, sums.shape[1], classes):
        for c in range(classes):
            result[item, TARGETS, c] += sums[0, start + c]
            result[item, WEIGHTS, c] += sums[1, start + c]
    keep(owned)


@compiled
def _is_plain(target: Any, mask: Any, classes: int) -> Any:
    """Whether a label in memory, as it is, is all that there is to know of an element."""
    is_masked = mask.present or target.has_ignore or not target.has_uncertain
    return target.values.converter == 0 and are_rows(target.values, classes) and not is_masked


def _nll(x: Any, gamma: Any, positive: Any, negative: Any) -> Any:
    """Loss and slope of a logit from the factors of its nll as a positive and as a negative; no gamma is None."""
    raise NotImplementedError("compiled code only")


@overload(_nll, inline="always")
def _overload_nll(x: Any, gamma: Any, positive: Any, negative: Any) -> Any:
    def without_gamma(x: Any, gamma: Any, positive: Any, negative: Any) -> Any:
        # The sign of a logit says which of the two factors belongs to the larger softplus and sigmoid.
        size = abs(x)
        t = exp_non_positive(-size)
        larger, smaller = (negative, positive) if x >= _F(0.0) else (positive, negative)
        slope = (larger - smaller * t) / (_F(1.0) + t)
        return larger * size + (positive + negative) * log1p_unit(t), slope if x >= _F(0.0) else -slope

    def with_gamma(x: Any, gamma: Any, positive: Any, negative: Any) -> Any:
        t = exp_non_positive(-abs(x))
        of_pos, slope_of_pos = focal(x, t, gamma)
        of_neg, slope_of_neg = focal(-x, t, gamma)
        return positive * of_pos + negative * of_neg, positive * slope_of_pos - negative * slope_of_neg

    return without_gamma if isinstance(gamma, types.NoneType) else with_gamma


@elementwise
def _factors(target: Any, weight: Any, smoothing: Any, by_pos: Any, by_neg: Any) -> Any:
    """What the nll of an element is multiplied with, as a positive and as a negative."""
    smoothed = weight * (target + smoothing * (_F(0.5) - target))
    return smoothed * by_pos, (weight - smoothed) * by_neg


@elementwise
def _kept(x: Any, weight: Any) -> Any:
    """The logit; 0 without weight, for then it may be anything."""
    return x if weight != _F(0.0) else _F(0.0)


@compiled
def _piece(tile: Any, start: int) -> Any:
    return tile[start : min(start + _PIECE, tile.size)]


@reduction
def _of_known(
    x: Any, label: Any, policy: Any, smoothing: Any, gamma: Any, by_pos: Any, by_neg: Any, gradient: Any
) -> Any:
    """Writes the gradient of a tile of labels as they are; returns its loss."""
    total = _F(0.0)
    for start in range(0, x.size, _PIECE):
        prefetch(x, start + _AHEAD, _PIECE)
        prefetch(label, start + _AHEAD, _PIECE)
        logits, labels, policies = _piece(x, start), _piece(label, start), _piece(policy, start)
        pos, neg, slopes = _piece(by_pos, start), _piece(by_neg, start), _piece(gradient, start)
        for i in range(logits.size):
            target, weight = _known(labels[i], policies[i])
            positive, negative = _factors(target, weight, smoothing, pos[i], neg[i])
            loss, slope = _nll(_kept(logits[i], weight), gamma, positive, negative)
            total += loss
            slopes[i] = slope
    return total


@reduction
def _of_weighted(
    x: Any, target: Any, weight: Any, smoothing: Any, gamma: Any, by_pos: Any, by_neg: Any, gradient: Any
) -> Any:
    """As `_of_known`, of targets with weights."""
    total = _F(0.0)
    for start in range(0, x.size, _PIECE):
        prefetch(x, start + _AHEAD, _PIECE)
        logits, targets, weights = _piece(x, start), _piece(target, start), _piece(weight, start)
        pos, neg, slopes = _piece(by_pos, start), _piece(by_neg, start), _piece(gradient, start)
        for i in range(logits.size):
            positive, negative = _factors(targets[i], weights[i], smoothing, pos[i], neg[i])
            loss, slope = _nll(_kept(logits[i], weights[i]), gamma, positive, negative)
            total += loss
            slopes[i] = slope
    return total


@compiled
def _differentiate(job: Any, item: int, by: Any) -> float:
    """Writes the gradient of one chunk; returns its loss."""
    input, target, mask = job_operands(job)
    classes, rows, chunks = job[CLASSES], job[VOXELS], job[CHUNKS]
    smoothing, gamma = exponents(job)
    step = min(_rows_per_tile(classes), rows)
    size = step * classes
    owned = (np.empty((5, size), np.float32),)
    (scratch,) = borrow(owned)
    policy, by_pos, by_neg, g, w, loss = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4], 0.0
    is_plain = _is_plain(target, mask, classes)
    repeat(by[0], by_pos)
    repeat(by[1], by_neg)
    if target.has_uncertain:
        repeat(target.uncertain, policy)
    per_chunk = -(-rows // (chunks * step)) * step
    for row in range(item * per_chunk, min((item + 1) * per_chunk, rows), step):
        size = min(step, rows - row) * classes
        x = flat(input.address, F32, row * classes, size)
        dx = flat(job_gradient(job).values.address, F32, row * classes, size)
        pos, neg = by_pos[:size], by_neg[:size]
        if is_plain:
            label = flat(target.values.address, F32, row * classes, size)
            if gamma == _F(0.0):
                loss += _of_known(x, label, policy[:size], smoothing, None, pos, neg, dx)
            else:
                loss += _of_known(x, label, policy[:size], smoothing, gamma, pos, neg, dx)
        else:
            load_target(g[:size], w[:size], target, mask, policy[:size], classes, 0, row)
            if gamma == _F(0.0):
                loss += _of_weighted(x, g[:size], w[:size], smoothing, None, pos, neg, dx)
            else:
                loss += _of_weighted(x, g[:size], w[:size], smoothing, gamma, pos, neg, dx)
    keep(owned)
    return loss


@Kernel
def count(pointer: Any) -> None:
    """Counts of every chunk."""
    job = read(pointer)
    result, item = counts(job), take(pointer)
    while item < job[ITEMS]:
        _count(job, item, result)
        item = take(pointer)


@Kernel
def differentiate(pointer: Any) -> None:
    """Gradient and loss of every chunk."""
    job = read(pointer)
    by, result, item = factors(job), losses(job), take(pointer)
    while item < job[ITEMS]:
        result[item] = _differentiate(job, item, by)
        item = take(pointer)


def addresses() -> tuple[int, int]:
    """Of the two kernels, for compiled code."""
    return count.address, differentiate.address


@compiled
def combine(counted: Any, loss: Any, positive: Any, negative: Any, by: Any) -> int:
    """Writes the factors (2, C) by the counts, NaN if targets are out of range; returns how many are."""
    total = np.zeros(counted.shape[1:])
    for chunk in range(len(counted)):
        for row in range(COUNTS):
            for c in range(total.shape[1]):
                total[row, c] += counted[chunk, row, c]
    nll_factors(total[TARGETS], total[WEIGHTS], loss, positive, negative, by)
    if total[OUTSIDE, 0] > 0.0:
        by[:] = np.nan
    return int(total[OUTSIDE, 0])


@compiled
def in_one_call(
    plan: Any, addresses: Any, loss: Any, positive: Any, negative: Any, kernels: Any, team: int, number: int
) -> Any:
    """Loss and targets out of range; on several threads by the kernels of this module at their addresses.

    A batch takes no longer than the way from Python to a kernel and back.
    """
    job = plan.copy()
    job[INPUT], job[TARGET], job[MASK], job[UNCERTAIN], job[GRADIENT] = addresses
    counted, by = np.empty((job[CHUNKS], COUNTS, job[CLASSES])), np.empty((2, job[CLASSES]), np.float32)
    of_chunks, value = np.empty(job[CHUNKS]), 0.0
    job[LOSSES] = of_chunks.ctypes.data
    if number == 1:
        for item in range(job[ITEMS]):
            _count(job, item, counted)
    else:
        run(kernels[0], job, counted, team, number)
    invalid = combine(counted, loss, positive, negative, by)
    if number == 1:
        for item in range(job[ITEMS]):
            of_chunks[item] = _differentiate(job, item, by)
    else:
        run(kernels[1], job, by, team, number)
    # In order, so that the bits do not depend on the number of threads.
    for of_chunk in of_chunks:
        value += of_chunk
    return value, invalid
