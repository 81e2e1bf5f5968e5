"""Kernels for activations of one class at a time: the sigmoid, and none."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...contract import (
    DIFFERENCE,
    NLL_NEG,
    NLL_POS,
    PRED,
    PRED_SQ,
    TARGET,
    TARGET_SQ,
    TP,
    TP_SQ,
    WEIGHT,
)
from .binary import focal_nll, focal_slope, sigmoid, sigmoids, softplus
from .compilation import compiled, elementwise, reduction
from .job import CHUNKS, HARD, INVALID, ITEMS, NLL, SIGMOID, SOFT, VOXELS, exponents, gradient_of_sums, partial_sums
from .job import gradient as job_gradient
from .job import operands as job_operands
from .kernel import Kernel, read, take
from .memory import borrow, copy, in_place, keep, prefetch
from .optional import add_hard, add_soft, soft_slope
from .tiles import (
    TILE,
    TILES_PER_CHUNK,
    at,
    gradient_tile,
    is_apart,
    load_dense,
    load_labels,
    load_view,
    load_weight,
    one_hot,
    put_gradient,
    remove,
    removes,
    tile_of,
)
from .vector_math import exp_non_positive, log1p_unit

# Logits of the next tile that are asked for: it is in another page, and a processor looks on from there by itself.
_AHEAD = 256

_F = np.float32


@reduction
def _add_sigmoid(x: Any, target: Any, weight: Any, sums: Any) -> None:
    """Adds the statistics of a tile of logits but for the nll."""
    tp = pred = pred_sq = target_sum = target_sq = total = _F(0.0)
    for i in range(x.size):
        w, p = at(weight, i), sigmoid(x[i], exp_non_positive(-abs(x[i])))
        wp, wg = w * p, w * target[i]
        tp += wp * target[i]
        pred += wp
        pred_sq += wp * p
        target_sum += wg
        target_sq += wg * target[i]
        total += w
    sums[TP] += tp
    sums[PRED] += pred
    sums[PRED_SQ] += pred_sq
    sums[TARGET] += target_sum
    sums[TARGET_SQ] += target_sq
    sums[WEIGHT] += total


@reduction
def _add_sigmoid_and_nll(x: Any, target: Any, weight: Any, smoothing: Any, sums: Any) -> None:
    """Adds the statistics of a tile of logits."""
    tp = pred = pred_sq = target_sum = target_sq = nll_pos = nll_neg = total = _F(0.0)
    for i in range(x.size):
        t = exp_non_positive(-abs(x[i]))
        p = sigmoid(x[i], t)
        log_sum = log1p_unit(t)
        w = at(weight, i)
        wp, wg = w * p, w * target[i]
        tp += wp * target[i]
        pred += wp
        pred_sq += wp * p
        target_sum += wg
        target_sq += wg * target[i]
        total += w
        smoothed = wg + smoothing * (_F(0.5) * w - wg)
        nll_pos += smoothed * softplus(-x[i], log_sum)
        nll_neg += (w - smoothed) * softplus(x[i], log_sum)
    sums[TP] += tp
    sums[PRED] += pred
    sums[PRED_SQ] += pred_sq
    sums[TARGET] += target_sum
    sums[TARGET_SQ] += target_sq
    sums[NLL_POS] += nll_pos
    sums[NLL_NEG] += nll_neg
    sums[WEIGHT] += total


@reduction
def _add_focal_nll(x: Any, target: Any, weight: Any, smoothing: Any, gamma: Any, sums: Any) -> None:
    """Adds the focal nll of a tile of logits."""
    nll_pos = nll_neg = _F(0.0)
    for i in range(x.size):
        t = exp_non_positive(-abs(x[i]))
        w = at(weight, i)
        smoothed = w * (target[i] + smoothing * (_F(0.5) - target[i]))
        nll_pos += smoothed * focal_nll(x[i], t, gamma)
        nll_neg += (w - smoothed) * focal_nll(-x[i], t, gamma)
    sums[NLL_POS] += nll_pos
    sums[NLL_NEG] += nll_neg


@reduction
def _add_identity(p: Any, target: Any, weight: Any, sums: Any) -> None:
    """Adds the statistics of a tile of probabilities."""
    tp = pred = pred_sq = target_sum = target_sq = total = _F(0.0)
    for i in range(p.size):
        w = at(weight, i)
        wp, wg = w * p[i], w * target[i]
        tp += wp * target[i]
        pred += wp
        pred_sq += wp * p[i]
        target_sum += wg
        target_sq += wg * target[i]
        total += w
    sums[TP] += tp
    sums[PRED] += pred
    sums[PRED_SQ] += pred_sq
    sums[TARGET] += target_sum
    sums[TARGET_SQ] += target_sq
    sums[WEIGHT] += total


@elementwise
def _probabilities(x: Any, p: Any) -> None:
    for i in range(x.size):
        p[i] = sigmoid(x[i], exp_non_positive(-abs(x[i])))


@elementwise
def _sigmoid_gradient(x: Any, target: Any, weight: Any, smoothing: Any, by: Any, gradient: Any) -> None:
    """`w { p (1-p) (a_tp g + a_pred + 2 a_sq p) + a_pos s (p-1) + a_neg (1-s) p }` of a tile."""
    by_tp, by_pred, by_sq, by_pos, by_neg = by[TP], by[PRED], _F(2.0) * by[PRED_SQ], by[NLL_POS], by[NLL_NEG]
    for i in range(x.size):
        t = exp_non_positive(-abs(x[i]))
        p, q = sigmoids(x[i], t)
        g = target[i]
        smoothed = g + smoothing * (_F(0.5) - g)
        region = p * q * (by_tp * g + by_pred + by_sq * p)
        gradient[i] = at(weight, i) * (region - by_pos * smoothed * q + by_neg * (_F(1.0) - smoothed) * p)


@elementwise
def _focal_gradient(x: Any, target: Any, weight: Any, smoothing: Any, gamma: Any, by: Any, gradient: Any) -> None:
    """As `_sigmoid_gradient`, with the focal nll."""
    by_tp, by_pred, by_sq, by_pos, by_neg = by[TP], by[PRED], _F(2.0) * by[PRED_SQ], by[NLL_POS], by[NLL_NEG]
    for i in range(x.size):
        t = exp_non_positive(-abs(x[i]))
        p, q = sigmoids(x[i], t)
        g = target[i]
        smoothed = g + smoothing * (_F(0.5) - g)
        region = p * q * (by_tp * g + by_pred + by_sq * p)
        nll = by_pos * smoothed * focal_slope(x[i], t, gamma)
        nll -= by_neg * (_F(1.0) - smoothed) * focal_slope(-x[i], t, gamma)
        gradient[i] = at(weight, i) * (region + nll)


@elementwise
def _identity_gradient(p: Any, target: Any, weight: Any, by: Any, gradient: Any) -> None:
    """`w (a_tp g + a_pred + 2 a_sq p)` of a tile."""
    by_tp, by_pred, by_sq = by[TP], by[PRED], _F(2.0) * by[PRED_SQ]
    for i in range(p.size):
        gradient[i] = at(weight, i) * (by_tp * target[i] + by_pred + by_sq * p[i])


@elementwise
def _add_soft_gradient(x: Any, target: Any, weight: Any, is_sigmoid: bool, by: Any, gradient: Any) -> None:
    """Adds the gradient of the soft statistics of a tile."""
    by_tp_sq, by_difference = by[TP_SQ], by[DIFFERENCE]
    if is_sigmoid:
        for i in range(x.size):
            t = exp_non_positive(-abs(x[i]))
            p, q = sigmoids(x[i], t)
            gradient[i] += at(weight, i) * p * q * soft_slope(p, target[i], by_tp_sq, by_difference)
    else:
        for i in range(x.size):
            gradient[i] += at(weight, i) * soft_slope(x[i], target[i], by_tp_sq, by_difference)


@compiled
def _load(
    x: Any, g: Any, w: Any, labels: Any, input: Any, target: Any, mask: Any, classes: int, n: int, c: int, v: int
) -> Any:
    """Fills the tiles of logits, target and weights; returns labels out of range."""
    load_weight(w, mask, n, c, v)
    if target.dense:
        invalid = load_dense(g, w, target, n, c, v)
    else:
        invalid = _F(load_labels(labels, w, target, classes, n, v))
        one_hot(g, labels, c)
    load_view(x, input, n, c, v)
    remove(x, w)
    remove(g, w)
    return invalid


@compiled
def _load_unweighted(x: Any, g: Any, labels: Any, input: Any, target: Any, classes: int, n: int, c: int, v: int) -> Any:
    """The tiles of logits and target, memory itself where it can be, and labels out of range."""
    invalid = _F(0.0)
    if in_place(input.converter, input.voxel):
        prefetch(tile_of(x, input, n, c, v), x.size, _AHEAD)
    else:
        load_view(x, input, n, c, v)
    if not target.dense:
        invalid = _F(load_labels(labels, g, target, classes, n, v))
        one_hot(g, labels, c)
        return tile_of(x, input, n, c, v), g, invalid
    if not in_place(target.values.converter, target.values.voxel):
        load_view(g, target.values, n, c, v)
    return tile_of(x, input, n, c, v), tile_of(g, target.values, n, c, v), invalid


@compiled
def _add(x: Any, g: Any, w: Any, p: Any, job: Any, sums: Any) -> None:
    """Adds what is wanted of a tile; p is scratch."""
    is_sigmoid, nll = job[SIGMOID] != 0, job[NLL] != 0
    smoothing, gamma = exponents(job)
    if not is_sigmoid:
        _add_identity(x, g, w, sums)
    elif nll and gamma == _F(0.0):
        _add_sigmoid_and_nll(x, g, w, smoothing, sums)
    else:
        _add_sigmoid(x, g, w, sums)
        if nll and gamma == _F(2.0):
            _add_focal_nll(x, g, w, smoothing, 2, sums)
        elif nll:
            _add_focal_nll(x, g, w, smoothing, gamma, sums)
    if job[HARD] != 0:
        add_hard(x, _F(0.0) if is_sigmoid else _F(0.5), g, w, sums)
    if job[SOFT] != 0:
        if is_sigmoid:
            _probabilities(x, p)
        else:
            copy(x, p)
        add_soft(p, g, w, sums)


@compiled
def _chunk_sums(
    job: Any,
    item: int,
    partials: Any,
) -> None:
    input, target, mask = job_operands(job)
    voxels, weighted = job[VOXELS], removes(target, mask)
    classes, chunks = partials.shape[1], partials.shape[2]
    row, chunk = item // chunks, item % chunks
    n, c = row // classes, row % classes
    owned = np.empty((4, TILE), np.float32), np.empty(TILE, np.int32), np.zeros(partials.shape[3])
    scratch, all_labels, sums = borrow(owned)
    first = chunk * TILES_PER_CHUNK * TILE
    for v in range(first, min(first + TILES_PER_CHUNK * TILE, voxels), TILE):
        size = min(TILE, voxels - v)
        x, g, w, p, labels = (
            scratch[0, :size],
            scratch[1, :size],
            scratch[2, :size],
            scratch[3, :size],
            all_labels[:size],
        )
        if weighted:
            wrong = _load(x, g, w, labels, input, target, mask, classes, n, c, v)
            _add(x, g, w, p, job, sums)
        else:
            x, g, wrong = _load_unweighted(x, g, labels, input, target, classes, n, c, v)
            _add(x, g, None, p, job, sums)
        # All classes share the labels of a map, which count once.
        if c == 0 or target.dense:
            sums[INVALID] += wrong
    copy(sums, partials[n, c, chunk])
    keep(owned)


@compiled
def _fill_gradient(x: Any, g: Any, w: Any, job: Any, by: Any, dx: Any) -> None:
    is_sigmoid = job[SIGMOID] != 0
    smoothing, gamma = exponents(job)
    if not is_sigmoid:
        _identity_gradient(x, g, w, by, dx)
    elif gamma == _F(0.0):
        _sigmoid_gradient(x, g, w, smoothing, by, dx)
    elif gamma == _F(2.0):
        _focal_gradient(x, g, w, smoothing, 2, by, dx)
    else:
        _focal_gradient(x, g, w, smoothing, gamma, by, dx)
    if job[SOFT] != 0:
        _add_soft_gradient(x, g, w, is_sigmoid, by, dx)


@compiled
def _chunk_gradient(
    job: Any,
    item: int,
    by: Any,
) -> None:
    input, target, mask = job_operands(job)
    gradient = job_gradient(job)
    voxels, chunks, weighted = job[VOXELS], job[CHUNKS], removes(target, mask)
    classes = by.shape[2]
    row, chunk = item // chunks, item % chunks
    n, c = row // classes, row % classes
    owned = np.empty((4, TILE), np.float32), np.empty(TILE, np.int32)
    scratch, all_labels = borrow(owned)
    first = chunk * TILES_PER_CHUNK * TILE
    for v in range(first, min(first + TILES_PER_CHUNK * TILE, voxels), TILE):
        size = min(TILE, voxels - v)
        x, g, w, labels = scratch[0, :size], scratch[1, :size], scratch[2, :size], all_labels[:size]
        dx = gradient_tile(scratch[3, :size], gradient, n, c, v)
        if weighted:
            _load(x, g, w, labels, input, target, mask, classes, n, c, v)
            _fill_gradient(x, g, w, job, by[:, n, c], dx)
            remove(dx, w)
        else:
            x, g, _ = _load_unweighted(x, g, labels, input, target, classes, n, c, v)
            _fill_gradient(x, g, None, job, by[:, n, c], dx)
        if is_apart(gradient):
            put_gradient(dx, gradient, n, c, v)
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
