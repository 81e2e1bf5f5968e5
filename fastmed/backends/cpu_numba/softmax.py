"""Kernels for the softmax: every class of a tile of voxels at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...contract import DIFFERENCE, NLL_POS, PRED, PRED_SQ, TARGET, TARGET_SQ, TP, TP_SQ, WEIGHT
from .compilation import compiled, elementwise, reduction
from .job import CHUNKS, HARD, INVALID, ITEMS, NLL, SOFT, VOXELS, exponents, gradient_of_sums, partial_sums
from .job import gradient as job_gradient
from .job import operands as job_operands
from .kernel import Kernel, read, take
from .memory import borrow, copy, keep
from .optional import add_hard, add_soft, choose, soft_slope
from .tiles import (
    TILE,
    TILES_PER_CHUNK,
    load_dense,
    load_labels,
    load_view,
    load_weight,
    one_hot,
    put_gradient,
    remove,
    removes,
    tile_size,
)
from .vector_math import exp_non_positive, log_positive

_F = np.float32
# Less than any 1 - p but 0, and its reciprocal is finite.
_TINY = _F(1e-30)


@elementwise
def _maximum(before: Any, x: Any, highest: Any) -> None:
    # Out of place: LLVM makes a masked store of the update in place, which some processors run in microcode.
    for i in range(x.size):
        highest[i] = x[i] if x[i] > before[i] else before[i]


@elementwise
def _exponentials(x: Any, highest: Any, p: Any, total: Any) -> None:
    """X becomes x - max, p its exponential; the total of the classes grows."""
    for i in range(x.size):
        x[i] -= highest[i]
        p[i] = exp_non_positive(x[i])
        total[i] += p[i]


@elementwise
def _reciprocals(total: Any) -> None:
    for i in range(total.size):
        total[i] = _F(1.0) / total[i]


@elementwise
def _logarithms(total: Any, log_total: Any) -> None:
    for i in range(total.size):
        log_total[i] = log_positive(total[i])


@elementwise
def _normalise(p: Any, reciprocal: Any) -> None:
    for i in range(p.size):
        p[i] *= reciprocal[i]


@reduction
def _add(p: Any, target: Any, weight: Any, sums: Any) -> None:
    """Adds the statistics of one class of a tile but for the nll."""
    tp = pred = pred_sq = target_sum = target_sq = total = _F(0.0)
    for i in range(p.size):
        wp, wg = weight[i] * p[i], weight[i] * target[i]
        tp += wp * target[i]
        pred += wp
        pred_sq += wp * p[i]
        target_sum += wg
        target_sq += wg * target[i]
        total += weight[i]
    sums[TP] += tp
    sums[PRED] += pred
    sums[PRED_SQ] += pred_sq
    sums[TARGET] += target_sum
    sums[TARGET_SQ] += target_sq
    sums[WEIGHT] += total


@reduction
def _add_nll(x: Any, log_total: Any, target: Any, weight: Any, kept: Any, spread: Any, sums: Any) -> None:
    """Adds the nll of one class of a tile against `kept g + spread`; x holds logits minus their maximum."""
    nll_pos = _F(0.0)
    for i in range(x.size):
        # A class of logit -inf and no target would give 0 * inf.
        share = weight[i] * (kept * target[i] + spread)
        cost = share * (log_total[i] - x[i])
        nll_pos += cost if share != _F(0.0) else _F(0.0)
    sums[NLL_POS] += nll_pos


@elementwise
def _focal_factor(inverse: Any, gamma: Any) -> Any:
    """(1 - p)^gamma from 1 / (1 - p), which is positive."""
    # The caller divides: with a division in it, LLVM no longer inlines what Numba makes of Python 3.13.
    return exp_non_positive(-gamma * log_positive(inverse))


@reduction
def _add_focal_nll(
    p: Any, x: Any, log_total: Any, target: Any, weight: Any, kept: Any, spread: Any, gamma: Any, sums: Any
) -> None:
    """As `_add_nll`, of the focal nll."""
    nll_pos = _F(0.0)
    for i in range(x.size):
        share = weight[i] * (kept * target[i] + spread)
        cost = share * _focal_factor(_F(1.0) / max(_F(1.0) - p[i], _TINY), gamma) * (log_total[i] - x[i])
        nll_pos += cost if share != _F(0.0) else _F(0.0)
    sums[NLL_POS] += nll_pos


@elementwise
def _products(p: Any, target: Any, weight: Any, kept: Any, spread: Any, by: Any, r: Any, total: Any) -> None:
    """`r_c = p_c u_c - e_c`, u the gradient by p and e that by log p; their total is the softmax's own term."""
    by_tp, by_pred, by_sq = by[TP], by[PRED], _F(2.0) * by[PRED_SQ]
    by_kept, by_spread = kept * by[NLL_POS], spread * by[NLL_POS]
    for i in range(p.size):
        g = target[i]
        r[i] = weight[i] * (p[i] * (by_tp * g + by_pred + by_sq * p[i]) - by_kept * g - by_spread)
        total[i] += r[i]


@elementwise
def _focal_products(
    p: Any, x: Any, log_total: Any, target: Any, weight: Any, kept: Any, spread: Any, gamma: Any, by: Any, total: Any
) -> None:
    """As `_products`, of the focal nll, in place of x."""
    by_tp, by_pred, by_sq, by_pos = by[TP], by[PRED], _F(2.0) * by[PRED_SQ], by[NLL_POS]
    for i in range(p.size):
        g, others = target[i], max(_F(1.0) - p[i], _TINY)
        # -log p / (1 - p), by its series where the difference has few digits left.
        by_others = (log_total[i] - x[i]) / others if others > _F(1e-3) else _F(1.0) + _F(0.5) * others
        share = by_pos * (kept * g + spread)
        pull = share * _focal_factor(_F(1.0) / others, gamma) * (_F(1.0) + gamma * p[i] * by_others)
        pull = pull if share != _F(0.0) else _F(0.0)
        x[i] = weight[i] * (p[i] * (by_tp * g + by_pred + by_sq * p[i]) - pull)
        total[i] += x[i]


@elementwise
def _add_soft_products(p: Any, target: Any, weight: Any, by: Any, r: Any, total: Any) -> None:
    """Adds the share of the soft statistics to `r` and its total."""
    by_tp_sq, by_difference = by[TP_SQ], by[DIFFERENCE]
    for i in range(p.size):
        share = weight[i] * p[i] * soft_slope(p[i], target[i], by_tp_sq, by_difference)
        r[i] += share
        total[i] += share


@compiled
def _has_nll(target: Any, spread: Any) -> bool:
    """Whether a class costs anything in a tile: a label map has few of many classes in each."""
    has_target = False
    for i in range(target.size):
        has_target |= target[i] != _F(0.0)
    return has_target or spread != _F(0.0)


@elementwise
def _project(r: Any, p: Any, total: Any) -> None:
    """`dx_c = r_c - p_c sum_k r_k`."""
    for i in range(r.size):
        r[i] -= p[i] * total[i]


@compiled
def _load_class(g: Any, w: Any, labels: Any, removed: Any, target: Any, mask: Any, n: int, c: int, v: int) -> None:
    """Fills target and weight of one class; `removed` is 0 where the label removes the voxel."""
    load_weight(w, mask, n, c, v)
    if target.dense:
        load_dense(g, w, target, n, c, v)
    else:
        one_hot(g, labels, c)
        if target.has_ignore:
            for i in range(w.size):
                w[i] *= removed[i]
    if removes(target, mask):
        remove(g, w)


@compiled
def _add_weight(used: Any, w: Any) -> None:
    for i in range(w.size):
        used[i] += abs(w[i])


@compiled
def _softmax(
    x: Any,
    p: Any,
    g: Any,
    w: Any,
    used: Any,
    total: Any,
    removed: Any,
    labels: Any,
    input: Any,
    target: Any,
    mask: Any,
    n: int,
    v: int,
) -> int:
    """Fills x with logits minus their maximum, p with exponentials, total with their sum.

    A voxel that no class gives weight is removed: its logits count as 0. Returns labels out of range.
    """
    classes = x.shape[0]
    invalid = 0
    removed[:] = _F(1.0)
    if not target.dense:
        invalid = load_labels(labels, removed, target, classes, n, v)
    if removes(target, mask):
        used[:] = _F(0.0)
        for c in range(classes):
            _load_class(g, w, labels, removed, target, mask, n, c, v)
            _add_weight(used, w)
    highest, spare = w, g
    for c in range(classes):
        load_view(x[c], input, n, c, v)
        if removes(target, mask):
            remove(x[c], used)
        if c == 0:
            copy(x[0], highest)
        else:
            _maximum(highest, x[c], spare)
            highest, spare = spare, highest
    total[:] = _F(0.0)
    for c in range(classes):
        _exponentials(x[c], highest, p[c], total)
    return invalid


@compiled
def _first_six(tiles: Any) -> Any:
    """The tiles that both directions compute on: Numba takes no array apart, whose length it does not know."""
    return tiles[0], tiles[1], tiles[2], tiles[3], tiles[4], tiles[5]


@compiled
def _chunk_sums(
    job: Any,
    item: int,
    partials: Any,
) -> None:
    input, target, mask = job_operands(job)
    voxels, nll, soft, hard = job[VOXELS], job[NLL] != 0, job[SOFT] != 0, job[HARD] != 0
    smoothing, gamma = exponents(job)
    classes, chunks = partials.shape[1], partials.shape[2]
    kept, spread = _F(1.0) - smoothing, smoothing / _F(classes)
    n, chunk = item // chunks, item % chunks
    tile = tile_size(classes)
    large = np.empty(classes * tile, np.float32), np.empty(classes * tile, np.float32)
    small = np.empty((8, tile), np.float32), np.empty(tile, np.int32), np.zeros((classes, partials.shape[3]))
    (logits, probabilities), (scratch, labels, sums) = borrow(large), borrow(small)
    g, w, used, total, log_total, removed = _first_six(scratch)
    free, chosen = scratch[6], scratch[7]
    first = chunk * TILES_PER_CHUNK * TILE
    for v in range(first, min(first + TILES_PER_CHUNK * TILE, voxels), tile):
        size = min(tile, voxels - v)
        x = logits[: classes * size].reshape(classes, size)
        p = probabilities[: classes * size].reshape(classes, size)
        sums[0, INVALID] += _softmax(
            x,
            p,
            g[:size],
            w[:size],
            used[:size],
            total[:size],
            removed[:size],
            labels[:size],
            input,
            target,
            mask,
            n,
            v,
        )
        if nll:
            _logarithms(total[:size], log_total[:size])
        _reciprocals(total[:size])
        free[:] = _F(1.0)
        for c in range(classes):
            _normalise(p[c], total[:size])
            _load_class(g[:size], w[:size], labels[:size], removed[:size], target, mask, n, c, v)
            _add(p[c], g[:size], w[:size], sums[c])
            if nll and gamma == _F(0.0):
                _add_nll(x[c], log_total[:size], g[:size], w[:size], kept, spread, sums[c])
            elif nll and _has_nll(g[:size], spread):
                _add_focal_nll(p[c], x[c], log_total[:size], g[:size], w[:size], kept, spread, gamma, sums[c])
            if soft:
                add_soft(p[c], g[:size], w[:size], sums[c])
            if hard:
                choose(x[c], p[c], free[:size], chosen[:size])
                add_hard(chosen[:size], _F(0.5), g[:size], w[:size], sums[c])
    for c in range(classes):
        copy(sums[c], partials[n, c, chunk])
    keep((large, small))


@compiled
def _chunk_gradient(
    job: Any,
    item: int,
    by: Any,
) -> None:
    input, target, mask = job_operands(job)
    gradient = job_gradient(job)
    voxels, chunks, soft = job[VOXELS], job[CHUNKS], job[SOFT] != 0
    smoothing, gamma = exponents(job)
    classes = by.shape[2]
    kept, spread = _F(1.0) - smoothing, smoothing / _F(classes)
    n, chunk = item // chunks, item % chunks
    tile = tile_size(classes)
    large = np.empty(classes * tile, np.float32), np.empty(classes * tile, np.float32)
    small = np.empty((7, tile), np.float32), np.empty(tile, np.int32)
    (logits, probabilities), (scratch, labels) = borrow(large), borrow(small)
    g, w, used, total, log_total, removed = _first_six(scratch)
    product_total = scratch[6]
    first = chunk * TILES_PER_CHUNK * TILE
    for v in range(first, min(first + TILES_PER_CHUNK * TILE, voxels), tile):
        size = min(tile, voxels - v)
        x = logits[: classes * size].reshape(classes, size)
        p = probabilities[: classes * size].reshape(classes, size)
        _softmax(
            x,
            p,
            g[:size],
            w[:size],
            used[:size],
            total[:size],
            removed[:size],
            labels[:size],
            input,
            target,
            mask,
            n,
            v,
        )
        if gamma != _F(0.0):
            _logarithms(total[:size], log_total[:size])
        _reciprocals(total[:size])
        product_total[:size] = _F(0.0)
        for c in range(classes):
            _normalise(p[c], total[:size])
            _load_class(g[:size], w[:size], labels[:size], removed[:size], target, mask, n, c, v)
            of_class, sum_of_products = by[:, n, c], product_total[:size]
            if gamma == _F(0.0) or not _has_nll(g[:size], spread):
                _products(p[c], g[:size], w[:size], kept, spread, of_class, x[c], sum_of_products)
            else:
                _focal_products(
                    p[c], x[c], log_total[:size], g[:size], w[:size], kept, spread, gamma, of_class, sum_of_products
                )
            if soft:
                _add_soft_products(p[c], g[:size], w[:size], of_class, x[c], sum_of_products)
        for c in range(classes):
            _project(x[c], p[c], product_total[:size])
            if removes(target, mask):
                remove(x[c], used[:size])
            put_gradient(x[c], gradient, n, c, v)
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
