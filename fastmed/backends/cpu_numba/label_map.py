"""Kernels for the softmax against a label map without weights: what most training steps compute.

The statistics of `softmax.py` for a target of 0 and 1 and a weight of 1, for which most of their products fall away.
A removed voxel has the label -1 and the reciprocal 0, so that every probability of it is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...contract import NLL_POS, PRED, PRED_SQ, TP, WEIGHT
from .compilation import compiled, elementwise, reduction
from .job import CHUNKS, INVALID, ITEMS, NLL, VOXELS, gradient_of_sums, partial_sums
from .job import gradient as job_gradient
from .job import operands as job_operands
from .kernel import Kernel, read, take
from .memory import borrow, copy, in_place, keep
from .tiles import (
    TILE,
    TILES_PER_CHUNK,
    add_class,
    add_up,
    below,
    forget,
    gradient_tile,
    is_apart,
    load_labels,
    load_view,
    put_gradient,
    remove,
    tile_of,
    tile_size,
)
from .vector_math import exp_non_positive, log_positive

_F = np.float32


@elementwise
def _highest_of_two(a: Any, b: Any, highest: Any) -> None:
    for i in range(a.size):
        highest[i] = a[i] if a[i] > b[i] else b[i]


@elementwise
def _highest_of_three(a: Any, b: Any, before: Any, highest: Any) -> None:
    # Out of place: LLVM makes a masked store of the update in place, which some processors run in microcode.
    for i in range(a.size):
        both = a[i] if a[i] > b[i] else b[i]
        highest[i] = both if both > before[i] else before[i]


@elementwise
def _exponentials(x: Any, highest: Any, e: Any, total: Any) -> None:
    for i in range(x.size):
        e[i] = exp_non_positive(x[i] - highest[i])
        total[i] += e[i]


@elementwise
def _logarithms(total: Any, log_total: Any) -> None:
    for i in range(total.size):
        log_total[i] = log_positive(total[i])


@elementwise
def _reciprocals(total: Any, kept: Any) -> None:
    # The total of a removed voxel may be NaN.
    for i in range(total.size):
        total[i] = kept[i] / total[i] if kept[i] != _F(0.0) else _F(0.0)


@reduction
def _add(e: Any, reciprocal: Any, labels: Any, c: Any, sums: Any) -> None:
    """Adds the statistics of one class of a tile but for the nll."""
    tp = pred = pred_sq = target = _F(0.0)
    for i in range(e.size):
        p = e[i] * reciprocal[i]
        g = _F(1.0) if labels[i] == c else _F(0.0)
        tp += p * g
        pred += p
        pred_sq += p * p
        target += g
    add_class(sums, tp, pred, pred_sq, target)


@reduction
def _add_with_nll(
    e: Any, reciprocal: Any, labels: Any, c: Any, x: Any, highest: Any, log_total: Any, sums: Any
) -> None:
    """Adds the statistics of one class of a tile."""
    tp = pred = pred_sq = target = nll_pos = _F(0.0)
    for i in range(e.size):
        p = e[i] * reciprocal[i]
        g = _F(1.0) if labels[i] == c else _F(0.0)
        # Of another class it may be infinite.
        nll = log_total[i] + below(highest[i], x[i])
        tp += p * g
        pred += p
        pred_sq += p * p
        target += g
        nll_pos += nll if labels[i] == c else _F(0.0)
    add_class(sums, tp, pred, pred_sq, target)
    sums[NLL_POS] += nll_pos


@elementwise
def _products(e: Any, reciprocal: Any, labels: Any, c: Any, by: Any, total: Any) -> None:
    """Turns e into probabilities, and adds to the softmax's own term: `r_c` of `softmax.py`."""
    elsewhere, here, by_sq, by_pos = by[PRED], by[PRED] + by[TP], _F(2.0) * by[PRED_SQ], by[NLL_POS]
    for i in range(e.size):
        p = e[i] * reciprocal[i]
        e[i] = p
        slope = here if labels[i] == c else elsewhere
        total[i] += p * (slope + by_sq * p) - (by_pos if labels[i] == c else _F(0.0))


@elementwise
def _gradient(p: Any, labels: Any, c: Any, by: Any, total: Any, gradient: Any) -> None:
    """`dx_c = r_c - p_c sum_k r_k`."""
    elsewhere, here, by_sq, by_pos = by[PRED], by[PRED] + by[TP], _F(2.0) * by[PRED_SQ], by[NLL_POS]
    for i in range(p.size):
        slope = here if labels[i] == c else elsewhere
        gradient[i] = p[i] * (slope + by_sq * p[i] - total[i]) - (by_pos if labels[i] == c else _F(0.0))


@compiled
def _load(x: Any, input: Any, n: int, v: int) -> None:
    """Fills the tiles of all classes, where memory cannot be read itself."""
    if not in_place(input.converter, input.voxel):
        for c in range(x.shape[0]):
            load_view(x[c], input, n, c, v)


@compiled
def _highest(x: Any, input: Any, n: int, v: int, first: Any, second: Any) -> Any:
    """The largest logit of each voxel, in one of two tiles."""
    classes = x.shape[0]
    _highest_of_two(tile_of(x[0], input, n, 0, v), tile_of(x[1], input, n, 1, v), first)
    for c in range(2, classes, 2):
        last = min(c + 1, classes - 1)
        _highest_of_three(tile_of(x[c], input, n, c, v), tile_of(x[last], input, n, last, v), first, second)
        first, second = second, first
    return first


@compiled
def _softmax(
    x: Any, e: Any, labels: Any, kept: Any, total: Any, input: Any, target: Any, n: int, v: int, highest: Any
) -> None:
    """Fills e with the exponentials of logits less their highest, 0 where a voxel is removed, and their total."""
    total[:] = _F(0.0)
    for c in range(x.shape[0]):
        _exponentials(tile_of(x[c], input, n, c, v), highest, e[c], total)
    if target.has_ignore:
        forget(labels, kept)
        for c in range(x.shape[0]):
            remove(e[c], kept)


@compiled
def _chunk_sums(
    job: Any,
    item: int,
    partials: Any,
) -> None:
    input, target, _ = job_operands(job)
    voxels, nll = job[VOXELS], job[NLL] != 0
    classes, chunks = partials.shape[1], partials.shape[2]
    n, chunk = item // chunks, item % chunks
    tile = tile_size(classes)
    large = np.empty(classes * tile, np.float32), np.empty(classes * tile, np.float32)
    small = np.empty((5, tile), np.float32), np.empty(tile, np.int32), np.zeros((classes, partials.shape[3]))
    (logits, exponentials), (scratch, all_labels, sums) = borrow(large), borrow(small)
    weight = 0.0
    first = chunk * TILES_PER_CHUNK * TILE
    for v in range(first, min(first + TILES_PER_CHUNK * TILE, voxels), tile):
        size = min(tile, voxels - v)
        x, e = logits[: classes * size].reshape(classes, size), exponentials[: classes * size].reshape(classes, size)
        labels, kept, total, log_total = all_labels[:size], scratch[0, :size], scratch[1, :size], scratch[2, :size]
        kept[:] = _F(1.0)
        sums[0, INVALID] += load_labels(labels, kept, target, classes, n, v)
        _load(x, input, n, v)
        highest = _highest(x, input, n, v, scratch[3, :size], scratch[4, :size])
        _softmax(x, e, labels, kept, total, input, target, n, v, highest)
        if nll:
            _logarithms(total, log_total)
        _reciprocals(total, kept)
        weight += float(add_up(kept)) if target.has_ignore else float(size)
        for c in range(classes):
            if nll:
                logit = tile_of(x[c], input, n, c, v)
                _add_with_nll(e[c], total, labels, np.int32(c), logit, highest, log_total, sums[c])
            else:
                _add(e[c], total, labels, np.int32(c), sums[c])
    for c in range(classes):
        copy(sums[c], partials[n, c, chunk])
        partials[n, c, chunk, WEIGHT] = weight
    keep((large, small))


@compiled
def _chunk_gradient(
    job: Any,
    item: int,
    by: Any,
) -> None:
    input, target, _ = job_operands(job)
    gradient = job_gradient(job)
    voxels, chunks, classes = job[VOXELS], job[CHUNKS], by.shape[2]
    n, chunk = item // chunks, item % chunks
    tile = tile_size(classes)
    large = np.empty(classes * tile, np.float32), np.empty(classes * tile, np.float32)
    small = np.empty((5, tile), np.float32), np.empty(tile, np.int32)
    (logits, exponentials), (scratch, all_labels) = borrow(large), borrow(small)
    first = chunk * TILES_PER_CHUNK * TILE
    for v in range(first, min(first + TILES_PER_CHUNK * TILE, voxels), tile):
        size = min(tile, voxels - v)
        x, e = logits[: classes * size].reshape(classes, size), exponentials[: classes * size].reshape(classes, size)
        labels, kept, total, products = all_labels[:size], scratch[0, :size], scratch[1, :size], scratch[2, :size]
        kept[:] = _F(1.0)
        load_labels(labels, kept, target, classes, n, v)
        _load(x, input, n, v)
        highest = _highest(x, input, n, v, scratch[3, :size], scratch[4, :size])
        _softmax(x, e, labels, kept, total, input, target, n, v, highest)
        _reciprocals(total, kept)
        products[:] = _F(0.0)
        for c in range(classes):
            _products(e[c], total, labels, np.int32(c), by[:, n, c], products)
        for c in range(classes):
            dx = gradient_tile(x[c], gradient, n, c, v)
            _gradient(e[c], labels, np.int32(c), by[:, n, c], products, dx)
            if is_apart(gradient):
                put_gradient(dx, gradient, n, c, v)
    keep((large, small))


@Kernel
def sums(pointer: Any) -> None:
    """Partial sums of every chunk."""
    job = read(pointer)
    partials, item = partial_sums(job), take(pointer)
    while item < job[ITEMS]:
        _chunk_sums(job, item, partials)
        item = take(pointer)


@Kernel
def gradient(pointer: Any) -> None:
    """The gradient of every chunk."""
    job = read(pointer)
    by, item = gradient_of_sums(job), take(pointer)
    while item < job[ITEMS]:
        _chunk_gradient(job, item, by)
        item = take(pointer)
