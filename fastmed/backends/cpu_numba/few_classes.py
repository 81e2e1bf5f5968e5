"""Kernels for the softmax of two to four classes against a label map without weights: all classes in one loop.

Vector registers hold the exponentials of no more classes than these; `label_map.py` goes over tiles once for each class
and step. The sums of all classes at once would not fit beside them, so each class adds up its own, in a loop that
follows. Three classes are four of which the last is never there.
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


@elementwise
def _probabilities_of_two(a: Any, b: Any, labels: Any, kept: Any, p_a: Any, p_b: Any, total: Any, margin: Any) -> None:
    """Fills the tiles of probabilities, of the exponentials' total, and of the label's logit less the highest."""
    for i in range(a.size):
        highest = _larger(a[i], b[i])
        x_a, x_b = a[i] - highest, b[i] - highest
        e_a, e_b = exp_non_positive(x_a), exp_non_positive(x_b)
        total[i] = e_a + e_b
        reciprocal = kept[i] / total[i]
        p_a[i], p_b[i] = e_a * reciprocal, e_b * reciprocal
        margin[i] = x_b if labels[i] == 1 else x_a


@elementwise
def _probabilities_of_four(
    a: Any,
    b: Any,
    c: Any,
    d: Any,
    labels: Any,
    kept: Any,
    p_a: Any,
    p_b: Any,
    p_c: Any,
    p_d: Any,
    total: Any,
    margin: Any,
) -> None:
    """As `_probabilities_of_two`, of four classes."""
    for i in range(a.size):
        highest = _larger(_larger(a[i], b[i]), _larger(c[i], d[i]))
        x_a, x_b, x_c, x_d = a[i] - highest, b[i] - highest, c[i] - highest, d[i] - highest
        e_a, e_b = exp_non_positive(x_a), exp_non_positive(x_b)
        e_c, e_d = exp_non_positive(x_c), exp_non_positive(x_d)
        total[i] = (e_a + e_b) + (e_c + e_d)
        reciprocal = kept[i] / total[i]
        p_a[i], p_b[i], p_c[i], p_d[i] = e_a * reciprocal, e_b * reciprocal, e_c * reciprocal, e_d * reciprocal
        of_first_two = x_b if labels[i] == 1 else x_a
        of_last_two = x_d if labels[i] == 3 else x_c
        margin[i] = of_last_two if labels[i] >= 2 else of_first_two


@elementwise
def _nll(total: Any, margin: Any) -> None:
    """Turns the label's logit less the highest into its nll."""
    for i in range(total.size):
        margin[i] = log_positive(total[i]) - margin[i]


@reduction
def _add(p: Any, labels: Any, c: Any, sums: Any) -> None:
    """Adds the statistics of one class of a tile but for the nll and the weight."""
    tp = pred = pred_sq = target = _F(0.0)
    for i in range(p.size):
        g = _F(1.0) if labels[i] == c else _F(0.0)
        tp += p[i] * g
        pred += p[i]
        pred_sq += p[i] * p[i]
        target += g
    add_class(sums, tp, pred, pred_sq, target)


@reduction
def _add_with_nll(p: Any, labels: Any, c: Any, nll: Any, sums: Any) -> None:
    """Adds the statistics of one class of a tile but for the weight."""
    tp = pred = pred_sq = target = nll_pos = _F(0.0)
    for i in range(p.size):
        g = _F(1.0) if labels[i] == c else _F(0.0)
        tp += p[i] * g
        pred += p[i]
        pred_sq += p[i] * p[i]
        target += g
        # Of another class it may be infinite.
        nll_pos += nll[i] if labels[i] == c else _F(0.0)
    add_class(sums, tp, pred, pred_sq, target)
    sums[NLL_POS] += nll_pos


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
def _chunk_sums(job: Any, item: int, partials: Any) -> None:
    input, target, _ = job_operands(job)
    voxels, nll = job[VOXELS], job[NLL] != 0
    classes, chunks = partials.shape[1], partials.shape[2]
    n, chunk = item // chunks, item % chunks
    owned = (
        _scratch(),
        np.empty((MOST + 2, TILE), np.float32),
        np.empty(TILE, np.int32),
        np.zeros((MOST, partials.shape[3])),
    )
    scratch, results, all_labels, sums = borrow(owned)
    weight = 0.0
    first = chunk * TILES_PER_CHUNK * TILE
    for v in range(first, min(first + TILES_PER_CHUNK * TILE, voxels), TILE):
        size = min(TILE, voxels - v)
        labels = all_labels[:size]
        a, b, c, d, kept, invalid = _tiles(scratch, labels, input, target, classes, n, v)
        sums[0, INVALID] += invalid
        weight += float(add_up(kept)) if target.has_ignore else float(size)
        p_a, p_b, total, margin = results[0, :size], results[1, :size], results[MOST, :size], results[MOST + 1, :size]
        if classes == 2:
            _probabilities_of_two(a, b, labels, kept, p_a, p_b, total, margin)
        else:
            p_c, p_d = results[2, :size], results[3, :size]
            _probabilities_of_four(a, b, c, d, labels, kept, p_a, p_b, p_c, p_d, total, margin)
        if nll:
            _nll(total, margin)
        for k in range(classes):
            if nll:
                _add_with_nll(results[k, :size], labels, np.int32(k), margin, sums[k])
            else:
                _add(results[k, :size], labels, np.int32(k), sums[k])
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
