"""Kernels for activations of one class at a time: the sigmoid, and none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from ...contract import NLL_NEG, NLL_POS, PRED, PRED_SQ, TARGET, TARGET_SQ, TP, WEIGHT
from .memory import store
from .tiles import (
    CHUNKS,
    NLL,
    SIGMOID,
    TILE,
    TILES_PER_CHUNK,
    VOXELS,
    compiled,
    load_dense,
    load_labels,
    load_view,
    load_weight,
    one_hot,
    parallel,
    remove,
    unpack,
    unpack_gradient,
)
from .vector_math import elementwise, exp_non_positive, log1p_unit, reduction

_F = np.float32


@elementwise
def _sigmoid(x: Any, t: Any) -> Any:
    """The sigmoid of x from t = exp(-|x|)."""
    reciprocal = _F(1.0) / (_F(1.0) + t)
    return reciprocal if x >= _F(0.0) else t * reciprocal


@reduction
def _add_sigmoid(x: Any, target: Any, weight: Any, nll: bool, sums: Any) -> None:
    """Adds the statistics of a tile of logits."""
    tp = pred = pred_sq = target_sum = target_sq = nll_pos = nll_neg = total = _F(0.0)
    if nll:
        for i in range(x.size):
            t = exp_non_positive(-abs(x[i]))
            p = _sigmoid(x[i], t)
            log_sum = log1p_unit(t)
            wp, wg = weight[i] * p, weight[i] * target[i]
            tp += wp * target[i]
            pred += wp
            pred_sq += wp * p
            target_sum += wg
            target_sq += wg * target[i]
            total += weight[i]
            nll_pos += wg * (max(-x[i], _F(0.0)) + log_sum)
            nll_neg += (weight[i] - wg) * (max(x[i], _F(0.0)) + log_sum)
    else:
        for i in range(x.size):
            p = _sigmoid(x[i], exp_non_positive(-abs(x[i])))
            wp, wg = weight[i] * p, weight[i] * target[i]
            tp += wp * target[i]
            pred += wp
            pred_sq += wp * p
            target_sum += wg
            target_sq += wg * target[i]
            total += weight[i]
    sums[TP] += tp
    sums[PRED] += pred
    sums[PRED_SQ] += pred_sq
    sums[TARGET] += target_sum
    sums[TARGET_SQ] += target_sq
    sums[NLL_POS] += nll_pos
    sums[NLL_NEG] += nll_neg
    sums[WEIGHT] += total


@reduction
def _add_identity(p: Any, target: Any, weight: Any, sums: Any) -> None:
    """Adds the statistics of a tile of probabilities."""
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


@elementwise
def _sigmoid_gradient(x: Any, target: Any, weight: Any, by: Any, gradient: Any) -> None:
    """`w { p (1-p) (a_tp g + a_pred + 2 a_sq p) + a_pos g (p-1) + a_neg (1-g) p }` of a tile."""
    by_tp, by_pred, by_sq, by_pos, by_neg = by[TP], by[PRED], _F(2.0) * by[PRED_SQ], by[NLL_POS], by[NLL_NEG]
    for i in range(x.size):
        t = exp_non_positive(-abs(x[i]))
        p = _sigmoid(x[i], t)
        # 1 - p without cancellation: the sigmoid of -x.
        q = _sigmoid(-x[i], t)
        g = target[i]
        region = p * q * (by_tp * g + by_pred + by_sq * p)
        gradient[i] = weight[i] * (region - by_pos * g * q + by_neg * (_F(1.0) - g) * p)


@elementwise
def _identity_gradient(p: Any, target: Any, weight: Any, by: Any, gradient: Any) -> None:
    """`w (a_tp g + a_pred + 2 a_sq p)` of a tile."""
    by_tp, by_pred, by_sq = by[TP], by[PRED], _F(2.0) * by[PRED_SQ]
    for i in range(p.size):
        gradient[i] = weight[i] * (by_tp * target[i] + by_pred + by_sq * p[i])


@compiled
def _load(
    x: Any,
    g: Any,
    w: Any,
    labels: Any,
    input: Any,
    target: Any,
    mask: Any,
    classes: int,
    n: int,
    c: int,
    v: int,
) -> int:
    """Fills the tiles of logits, target and weights; returns labels out of range."""
    invalid = 0
    load_weight(w, mask, n, c, v)
    if target.dense:
        load_dense(g, w, target, n, c, v)
    else:
        invalid = load_labels(labels, w, target, classes, n, v)
        one_hot(g, labels, c)
    load_view(x, input, n, c, v)
    if mask.present or target.has_ignore:
        remove(x, w)
        remove(g, w)
    return invalid


@compiled
def _chunk_sums(
    input_memory: Any,
    target_memory: Any,
    mask_memory: Any,
    layout: Any,
    item: int,
    partials: Any,
    invalid: Any,
) -> None:
    input, target, mask = unpack(input_memory, target_memory, mask_memory, layout)
    voxels, sigmoid, nll = layout[VOXELS], layout[SIGMOID] != 0, layout[NLL] != 0
    classes, chunks = partials.shape[1], partials.shape[2]
    row, chunk = item // chunks, item % chunks
    n, c = row // classes, row % classes
    x, g, w = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    labels = np.empty(TILE, np.int32)
    sums = np.zeros(partials.shape[3])
    wrong = 0
    first = chunk * TILES_PER_CHUNK * TILE
    for v in range(first, min(first + TILES_PER_CHUNK * TILE, voxels), TILE):
        size = min(TILE, voxels - v)
        wrong += _load(x[:size], g[:size], w[:size], labels[:size], input, target, mask, classes, n, c, v)
        if sigmoid:
            _add_sigmoid(x[:size], g[:size], w[:size], nll, sums)
        else:
            _add_identity(x[:size], g[:size], w[:size], sums)
    partials[n, c, chunk] = sums
    if c == 0:
        invalid[n, chunk] = wrong


@compiled
def _chunk_gradient(
    input_memory: Any,
    target_memory: Any,
    mask_memory: Any,
    layout: Any,
    item: int,
    by: Any,
    gradient_memory: Any,
) -> None:
    input, target, mask = unpack(input_memory, target_memory, mask_memory, layout)
    gradient = unpack_gradient(gradient_memory, layout)
    voxels, chunks, sigmoid = layout[VOXELS], layout[CHUNKS], layout[SIGMOID] != 0
    classes = by.shape[1]
    row, chunk = item // chunks, item % chunks
    n, c = row // classes, row % classes
    x, g, w = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    dx = np.empty(TILE, np.float32)
    labels = np.empty(TILE, np.int32)
    first = chunk * TILES_PER_CHUNK * TILE
    for v in range(first, min(first + TILES_PER_CHUNK * TILE, voxels), TILE):
        size = min(TILE, voxels - v)
        _load(x[:size], g[:size], w[:size], labels[:size], input, target, mask, classes, n, c, v)
        if sigmoid:
            _sigmoid_gradient(x[:size], g[:size], w[:size], by[n, c], dx[:size])
        else:
            _identity_gradient(x[:size], g[:size], w[:size], by[n, c], dx[:size])
        if mask.present or target.has_ignore:
            remove(dx[:size], w[:size])
        start = n * gradient.sample + c * gradient.channel + v * gradient.voxel
        store(dx[:size], gradient.memory, gradient.kind, start, gradient.voxel)


@compiled
def sums_serial(input: Any, target: Any, mask: Any, layout: Any, partials: Any, invalid: Any) -> None:
    """Partial sums of every chunk, on the calling thread."""
    for item in range(partials.shape[0] * partials.shape[1] * layout[CHUNKS]):
        _chunk_sums(input, target, mask, layout, item, partials, invalid)


@parallel
def sums_parallel(input: Any, target: Any, mask: Any, layout: Any, partials: Any, invalid: Any) -> None:
    """Partial sums of every chunk, on Numba's threads."""
    for item in prange(partials.shape[0] * partials.shape[1] * layout[CHUNKS]):
        _chunk_sums(input, target, mask, layout, np.int64(item), partials, invalid)


@compiled
def gradient_serial(input: Any, target: Any, mask: Any, layout: Any, by: Any, gradient: Any) -> None:
    """The gradient of every chunk, on the calling thread."""
    for item in range(by.shape[0] * by.shape[1] * layout[CHUNKS]):
        _chunk_gradient(input, target, mask, layout, item, by, gradient)


@parallel
def gradient_parallel(input: Any, target: Any, mask: Any, layout: Any, by: Any, gradient: Any) -> None:
    """The gradient of every chunk, on Numba's threads."""
    for item in prange(by.shape[0] * by.shape[1] * layout[CHUNKS]):
        _chunk_gradient(input, target, mask, layout, np.int64(item), by, gradient)
