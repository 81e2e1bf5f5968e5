"""Kernels for the softmax of two to four classes against a label map without weights: one loop over the voxels.

All that belongs to a voxel stays in vector registers, which hold no more classes than these; `label_map.py` goes over
tiles once for each class and step. Three classes are four of which the last is never there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from ...contract import NLL_POS, PRED, PRED_SQ, TARGET, TARGET_SQ, TP, WEIGHT
from .compilation import compiled, elementwise, reduction
from .job import CHUNKS, INVALID, ITEMS, NLL, VOXELS, gradient_of_sums, partial_sums
from .job import gradient as job_gradient
from .job import operands as job_operands
from .kernel import Kernel, read, take
from .memory import borrow, copy, in_place, keep
from .tiles import (
    TILE,
    TILES_PER_CHUNK,
    below,
    forget,
    gradient_tile,
    is_apart,
    load_labels,
    load_view,
    put_gradient,
    remove,
    tile_of,
)
from .vector_math import exp_non_positive, log_positive

_F = np.float32
_ABSENT = _F(-np.inf)
MOST = 4


def applies(classes: int) -> bool:
    """Whether there are so few classes."""
    return classes <= MOST


@elementwise
def _larger(a: Any, b: Any) -> Any:
    return a if a > b else b


def _log(nll: Any, total: Any) -> Any:
    """The logarithm of a total; 0 where no nll is wanted."""
    raise NotImplementedError("compiled code only")


@overload(_log, inline="always")
def _overload_log(nll: Any, total: Any) -> Any:
    def nothing(nll: Any, total: Any) -> Any:
        return _F(0.0)

    def logarithm(nll: Any, total: Any) -> Any:
        return log_positive(total)

    return nothing if isinstance(nll, types.NoneType) else logarithm


def _nll(nll: Any, log_total: Any, highest: Any, x: Any) -> Any:
    """The nll of a class; 0 where it is not wanted."""
    raise NotImplementedError("compiled code only")


@overload(_nll, inline="always")
def _overload_nll(nll: Any, log_total: Any, highest: Any, x: Any) -> Any:
    def nothing(nll: Any, log_total: Any, highest: Any, x: Any) -> Any:
        return _F(0.0)

    def of_class(nll: Any, log_total: Any, highest: Any, x: Any) -> Any:
        return log_total + below(highest, x)

    return nothing if isinstance(nll, types.NoneType) else of_class


@reduction
def _add_two(a: Any, b: Any, labels: Any, kept: Any, nll: Any, sums: Any) -> None:
    """Adds the statistics of two classes of a tile but for the weight; `nll` is None where that is not wanted."""
    tp_a = tp_b = pred_a = pred_b = sq_a = sq_b = target_a = target_b = nll_a = nll_b = _F(0.0)
    for i in range(a.size):
        highest = _larger(a[i], b[i])
        e_a, e_b = exp_non_positive(a[i] - highest), exp_non_positive(b[i] - highest)
        total = e_a + e_b
        log_total = _log(nll, total)
        reciprocal = kept[i] / total
        p_a, p_b = e_a * reciprocal, e_b * reciprocal
        g_a = _F(1.0) if labels[i] == 0 else _F(0.0)
        g_b = _F(1.0) if labels[i] == 1 else _F(0.0)
        tp_a, tp_b = tp_a + p_a * g_a, tp_b + p_b * g_b
        pred_a, pred_b = pred_a + p_a, pred_b + p_b
        sq_a, sq_b = sq_a + p_a * p_a, sq_b + p_b * p_b
        target_a, target_b = target_a + g_a, target_b + g_b
        # Of another class it may be infinite.
        nll_a += _nll(nll, log_total, highest, a[i]) if labels[i] == 0 else _F(0.0)
        nll_b += _nll(nll, log_total, highest, b[i]) if labels[i] == 1 else _F(0.0)
    _put_down(sums[0], tp_a, pred_a, sq_a, target_a, nll_a)
    _put_down(sums[1], tp_b, pred_b, sq_b, target_b, nll_b)


@reduction
def _add_four(a: Any, b: Any, c: Any, d: Any, labels: Any, kept: Any, nll: Any, sums: Any) -> None:
    """As `_add_two`, of four classes."""
    tp_a = tp_b = tp_c = tp_d = pred_a = pred_b = pred_c = pred_d = sq_a = sq_b = sq_c = sq_d = _F(0.0)
    target_a = target_b = target_c = target_d = nll_a = nll_b = nll_c = nll_d = _F(0.0)
    for i in range(a.size):
        highest = _larger(_larger(a[i], b[i]), _larger(c[i], d[i]))
        e_a, e_b = exp_non_positive(a[i] - highest), exp_non_positive(b[i] - highest)
        e_c, e_d = exp_non_positive(c[i] - highest), exp_non_positive(d[i] - highest)
        total = (e_a + e_b) + (e_c + e_d)
        log_total = _log(nll, total)
        reciprocal = kept[i] / total
        p_a, p_b, p_c, p_d = e_a * reciprocal, e_b * reciprocal, e_c * reciprocal, e_d * reciprocal
        g_a = _F(1.0) if labels[i] == 0 else _F(0.0)
        g_b = _F(1.0) if labels[i] == 1 else _F(0.0)
        g_c = _F(1.0) if labels[i] == 2 else _F(0.0)
        g_d = _F(1.0) if labels[i] == 3 else _F(0.0)
        tp_a, tp_b, tp_c, tp_d = tp_a + p_a * g_a, tp_b + p_b * g_b, tp_c + p_c * g_c, tp_d + p_d * g_d
        pred_a, pred_b, pred_c, pred_d = pred_a + p_a, pred_b + p_b, pred_c + p_c, pred_d + p_d
        sq_a, sq_b, sq_c, sq_d = sq_a + p_a * p_a, sq_b + p_b * p_b, sq_c + p_c * p_c, sq_d + p_d * p_d
        target_a, target_b, target_c, target_d = target_a + g_a, target_b + g_b, target_c + g_c, target_d + g_d
        nll_a += _nll(nll, log_total, highest, a[i]) if labels[i] == 0 else _F(0.0)
        nll_b += _nll(nll, log_total, highest, b[i]) if labels[i] == 1 else _F(0.0)
        nll_c += _nll(nll, log_total, highest, c[i]) if labels[i] == 2 else _F(0.0)
        nll_d += _nll(nll, log_total, highest, d[i]) if labels[i] == 3 else _F(0.0)
    _put_down(sums[0], tp_a, pred_a, sq_a, target_a, nll_a)
    _put_down(sums[1], tp_b, pred_b, sq_b, target_b, nll_b)
    _put_down(sums[2], tp_c, pred_c, sq_c, target_c, nll_c)
    _put_down(sums[3], tp_d, pred_d, sq_d, target_d, nll_d)


@compiled
def _put_down(sums: Any, tp: Any, pred: Any, pred_sq: Any, target: Any, nll: Any) -> None:
    sums[TP] += tp
    sums[PRED] += pred
    sums[PRED_SQ] += pred_sq
    sums[TARGET] += target
    sums[TARGET_SQ] += target
    sums[NLL_POS] += nll


@elementwise
def _pull(p: Any, is_here: bool, elsewhere: Any, here: Any, by_sq: Any, by_pos: Any) -> Any:
    """`r_c` of `softmax.py`."""
    return p * ((here if is_here else elsewhere) + by_sq * p) - (by_pos if is_here else _F(0.0))


@elementwise
def _gradient_of_two(a: Any, b: Any, labels: Any, kept: Any, by: Any, dx_a: Any, dx_b: Any) -> None:
    """`dx_c = r_c - p_c sum_k r_k` of two classes."""
    rest_a, here_a, sq_a, pos_a = _coefficients(by[:, 0])
    rest_b, here_b, sq_b, pos_b = _coefficients(by[:, 1])
    for i in range(a.size):
        highest = _larger(a[i], b[i])
        e_a, e_b = exp_non_positive(a[i] - highest), exp_non_positive(b[i] - highest)
        reciprocal = kept[i] / (e_a + e_b)
        p_a, p_b = e_a * reciprocal, e_b * reciprocal
        r_a = _pull(p_a, labels[i] == 0, rest_a, here_a, sq_a, pos_a)
        r_b = _pull(p_b, labels[i] == 1, rest_b, here_b, sq_b, pos_b)
        shared = r_a + r_b
        dx_a[i] = r_a - p_a * shared
        dx_b[i] = r_b - p_b * shared


@elementwise
def _gradient_of_four(
    a: Any, b: Any, c: Any, d: Any, labels: Any, kept: Any, by: Any, dx_a: Any, dx_b: Any, dx_c: Any, dx_d: Any
) -> None:
    """As `_gradient_of_two`, of four classes."""
    rest_a, here_a, sq_a, pos_a = _coefficients(by[:, 0])
    rest_b, here_b, sq_b, pos_b = _coefficients(by[:, 1])
    rest_c, here_c, sq_c, pos_c = _coefficients(by[:, 2])
    rest_d, here_d, sq_d, pos_d = _coefficients(by[:, 3])
    for i in range(a.size):
        highest = _larger(_larger(a[i], b[i]), _larger(c[i], d[i]))
        e_a, e_b = exp_non_positive(a[i] - highest), exp_non_positive(b[i] - highest)
        e_c, e_d = exp_non_positive(c[i] - highest), exp_non_positive(d[i] - highest)
        reciprocal = kept[i] / ((e_a + e_b) + (e_c + e_d))
        p_a, p_b, p_c, p_d = e_a * reciprocal, e_b * reciprocal, e_c * reciprocal, e_d * reciprocal
        r_a = _pull(p_a, labels[i] == 0, rest_a, here_a, sq_a, pos_a)
        r_b = _pull(p_b, labels[i] == 1, rest_b, here_b, sq_b, pos_b)
        r_c = _pull(p_c, labels[i] == 2, rest_c, here_c, sq_c, pos_c)
        r_d = _pull(p_d, labels[i] == 3, rest_d, here_d, sq_d, pos_d)
        shared = (r_a + r_b) + (r_c + r_d)
        dx_a[i] = r_a - p_a * shared
        dx_b[i] = r_b - p_b * shared
        dx_c[i] = r_c - p_c * shared
        dx_d[i] = r_d - p_d * shared


@elementwise
def _coefficients(by: Any) -> Any:
    return by[PRED], by[PRED] + by[TP], _F(2.0) * by[PRED_SQ], by[NLL_POS]


@compiled
def _logits(x: Any, input: Any, has_removed: bool, kept: Any, n: int, c: int, v: int) -> Any:
    """The tile of a class: memory itself, or scratch; that of removed voxels is 0, whatever it was."""
    if in_place(input.converter, input.voxel) and not has_removed:
        return tile_of(x, input, n, c, v)
    load_view(x, input, n, c, v)
    if has_removed:
        remove(x, kept)
    return x


@compiled
def _tiles(scratch: Any, labels: Any, input: Any, target: Any, classes: int, n: int, v: int) -> Any:
    """The logits of four classes, those that there are not below all others; what is kept; labels out of range."""
    size, removes = labels.size, target.has_ignore
    kept = scratch[MOST, :size]
    if removes:
        kept[:] = _F(1.0)
    invalid = load_labels(labels, kept, target, classes, n, v)
    if removes:
        forget(labels, kept)
    # Numbers, not literals, for each of which the function would be compiled anew.
    a = _logits(scratch[0, :size], input, removes, kept, n, np.int64(0), v)
    b = _logits(scratch[1, :size], input, removes, kept, n, np.int64(1), v)
    c = _logits(scratch[2, :size], input, removes, kept, n, np.int64(2), v) if classes > 2 else scratch[2, :size]
    d = _logits(scratch[3, :size], input, removes, kept, n, np.int64(3), v) if classes > 3 else scratch[3, :size]
    return a, b, c, d, kept, invalid


@compiled
def _scratch() -> Any:
    """Tiles for the logits of four classes, where those that there are not stay absent, and for what is kept: all."""
    tiles = np.empty((MOST + 1, TILE), np.float32)
    tiles[2:MOST] = _ABSENT
    tiles[MOST] = _F(1.0)
    return tiles


@compiled
def _add(tiles: Any, labels: Any, kept: Any, nll: Any, classes: int, sums: Any) -> None:
    a, b, c, d = tiles
    if classes == 2:
        _add_two(a, b, labels, kept, nll, sums)
    else:
        _add_four(a, b, c, d, labels, kept, nll, sums)


@compiled
def _chunk_sums(job: Any, item: int, partials: Any) -> None:
    input, target, _ = job_operands(job)
    voxels, nll = job[VOXELS], job[NLL] != 0
    classes, chunks = partials.shape[1], partials.shape[2]
    n, chunk = item // chunks, item % chunks
    owned = _scratch(), np.empty(TILE, np.int32), np.zeros((MOST, partials.shape[3]))
    scratch, all_labels, sums = borrow(owned)
    weight = 0.0
    first = chunk * TILES_PER_CHUNK * TILE
    for v in range(first, min(first + TILES_PER_CHUNK * TILE, voxels), TILE):
        size = min(TILE, voxels - v)
        labels = all_labels[:size]
        a, b, c, d, kept, invalid = _tiles(scratch, labels, input, target, classes, n, v)
        sums[0, INVALID] += invalid
        weight += float(kept.sum()) if target.has_ignore else float(size)
        if nll:
            _add((a, b, c, d), labels, kept, True, classes, sums)
        else:
            _add((a, b, c, d), labels, kept, None, classes, sums)
    for c in range(classes):
        sums[c, WEIGHT] = weight
        copy(sums[c], partials[n, c, chunk])
    keep(owned)


@compiled
def _chunk_gradient(job: Any, item: int, by: Any) -> None:
    input, target, _ = job_operands(job)
    gradient = job_gradient(job)
    voxels, chunks, classes = job[VOXELS], job[CHUNKS], by.shape[2]
    n, chunk = item // chunks, item % chunks
    owned = _scratch(), np.empty((MOST, TILE), np.float32), np.empty(TILE, np.int32)
    scratch, results, all_labels = borrow(owned)
    of_class = np.zeros((by.shape[0], MOST), np.float32)
    for c in range(classes):
        for s in range(len(by)):
            of_class[s, c] = by[s, n, c]
    first = chunk * TILES_PER_CHUNK * TILE
    for v in range(first, min(first + TILES_PER_CHUNK * TILE, voxels), TILE):
        size = min(TILE, voxels - v)
        labels = all_labels[:size]
        a, b, c, d, kept, _ = _tiles(scratch, labels, input, target, classes, n, v)
        dx_a = gradient_tile(results[0, :size], gradient, n, np.int64(0), v)
        dx_b = gradient_tile(results[1, :size], gradient, n, np.int64(1), v)
        if classes == 2:
            _gradient_of_two(a, b, labels, kept, of_class, dx_a, dx_b)
        else:
            dx_c = gradient_tile(results[2, :size], gradient, n, np.int64(2), v)
            dx_d = gradient_tile(results[3, :size], gradient, n, np.int64(3), v) if classes > 3 else results[3, :size]
            _gradient_of_four(a, b, c, d, labels, kept, of_class, dx_a, dx_b, dx_c, dx_d)
        if is_apart(gradient):
            for k in range(classes):
                put_gradient(results[k, :size], gradient, n, k, v)
    keep(owned)


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
