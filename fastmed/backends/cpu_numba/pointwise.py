"""Kernels for activations of one class at a time: the sigmoid, and none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

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
from .binary import focal_nll, focal_slope, sigmoid, softplus
from .memory import store
from .optional import add_hard, add_soft, soft_slope
from .tiles import (
    CHUNKS,
    GAMMA,
    HARD,
    INVALID,
    NLL,
    SIGMOID,
    SMOOTHING,
    SOFT,
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
    removes,
    unpack,
    unpack_gradient,
)
from .vector_math import elementwise, exp_non_positive, log1p_unit, reduction

_F = np.float32


@reduction
def _add_sigmoid(x: Any, target: Any, weight: Any, sums: Any) -> None:
    """Adds the statistics of a tile of logits but for the nll."""
    tp = pred = pred_sq = target_sum = target_sq = total = _F(0.0)
    for i in range(x.size):
        p = sigmoid(x[i], exp_non_positive(-abs(x[i])))
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
    sums[WEIGHT] += total


@reduction
def _add_sigmoid_and_nll(x: Any, target: Any, weight: Any, smoothing: Any, sums: Any) -> None:
    """Adds the statistics of a tile of logits."""
    tp = pred = pred_sq = target_sum = target_sq = nll_pos = nll_neg = total = _F(0.0)
    for i in range(x.size):
        t = exp_non_positive(-abs(x[i]))
        p = sigmoid(x[i], t)
        log_sum = log1p_unit(t)
        wp, wg = weight[i] * p, weight[i] * target[i]
        tp += wp * target[i]
        pred += wp
        pred_sq += wp * p
        target_sum += wg
        target_sq += wg * target[i]
        total += weight[i]
        smoothed = wg + smoothing * (_F(0.5) * weight[i] - wg)
        nll_pos += smoothed * softplus(-x[i], log_sum)
        nll_neg += (weight[i] - smoothed) * softplus(x[i], log_sum)
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
        smoothed = weight[i] * (target[i] + smoothing * (_F(0.5) - target[i]))
        nll_pos += smoothed * focal_nll(x[i], t, gamma)
        nll_neg += (weight[i] - smoothed) * focal_nll(-x[i], t, gamma)
    sums[NLL_POS] += nll_pos
    sums[NLL_NEG] += nll_neg


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
def _probabilities(x: Any, p: Any) -> None:
    for i in range(x.size):
        p[i] = sigmoid(x[i], exp_non_positive(-abs(x[i])))


@elementwise
def _sigmoid_gradient(x: Any, target: Any, weight: Any, smoothing: Any, by: Any, gradient: Any) -> None:
    """`w { p (1-p) (a_tp g + a_pred + 2 a_sq p) + a_pos s (p-1) + a_neg (1-s) p }` of a tile."""
    by_tp, by_pred, by_sq, by_pos, by_neg = by[TP], by[PRED], _F(2.0) * by[PRED_SQ], by[NLL_POS], by[NLL_NEG]
    for i in range(x.size):
        t = exp_non_positive(-abs(x[i]))
        p = sigmoid(x[i], t)
        q = sigmoid(-x[i], t)
        g = target[i]
        smoothed = g + smoothing * (_F(0.5) - g)
        region = p * q * (by_tp * g + by_pred + by_sq * p)
        gradient[i] = weight[i] * (region - by_pos * smoothed * q + by_neg * (_F(1.0) - smoothed) * p)


@elementwise
def _focal_gradient(x: Any, target: Any, weight: Any, smoothing: Any, gamma: Any, by: Any, gradient: Any) -> None:
    """As `_sigmoid_gradient`, with the focal nll."""
    by_tp, by_pred, by_sq, by_pos, by_neg = by[TP], by[PRED], _F(2.0) * by[PRED_SQ], by[NLL_POS], by[NLL_NEG]
    for i in range(x.size):
        t = exp_non_positive(-abs(x[i]))
        p = sigmoid(x[i], t)
        g = target[i]
        smoothed = g + smoothing * (_F(0.5) - g)
        region = p * sigmoid(-x[i], t) * (by_tp * g + by_pred + by_sq * p)
        nll = by_pos * smoothed * focal_slope(x[i], t, gamma)
        nll -= by_neg * (_F(1.0) - smoothed) * focal_slope(-x[i], t, gamma)
        gradient[i] = weight[i] * (region + nll)


@elementwise
def _identity_gradient(p: Any, target: Any, weight: Any, by: Any, gradient: Any) -> None:
    """`w (a_tp g + a_pred + 2 a_sq p)` of a tile."""
    by_tp, by_pred, by_sq = by[TP], by[PRED], _F(2.0) * by[PRED_SQ]
    for i in range(p.size):
        gradient[i] = weight[i] * (by_tp * target[i] + by_pred + by_sq * p[i])


@elementwise
def _add_soft_gradient(x: Any, target: Any, weight: Any, is_sigmoid: bool, by: Any, gradient: Any) -> None:
    """Adds the gradient of the soft statistics of a tile."""
    by_tp_sq, by_difference = by[TP_SQ], by[DIFFERENCE]
    if is_sigmoid:
        for i in range(x.size):
            t = exp_non_positive(-abs(x[i]))
            p = sigmoid(x[i], t)
            slope = p * sigmoid(-x[i], t)
            gradient[i] += weight[i] * slope * soft_slope(p, target[i], by_tp_sq, by_difference)
    else:
        for i in range(x.size):
            gradient[i] += weight[i] * soft_slope(x[i], target[i], by_tp_sq, by_difference)


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
) -> Any:
    """Fills the tiles of logits, target and weights; returns labels out of range."""
    invalid = _F(0.0)
    load_weight(w, mask, n, c, v)
    if target.dense:
        invalid = load_dense(g, w, target, n, c, v)
    else:
        invalid = _F(load_labels(labels, w, target, classes, n, v))
        one_hot(g, labels, c)
    load_view(x, input, n, c, v)
    if removes(target, mask):
        remove(x, w)
        remove(g, w)
    return invalid


@compiled
def _chunk_sums(
    input_type: Any,
    target_type: Any,
    mask_type: Any,
    gradient_type: Any,
    layout: Any,
    numbers: Any,
    item: int,
    partials: Any,
) -> None:
    input, target, mask = unpack(input_type, target_type, mask_type, layout, numbers)
    voxels, is_sigmoid, nll = layout[VOXELS], layout[SIGMOID] != 0, layout[NLL] != 0
    soft, hard = layout[SOFT] != 0, layout[HARD] != 0
    smoothing, gamma = numbers[SMOOTHING], numbers[GAMMA]
    classes, chunks = partials.shape[1], partials.shape[2]
    row, chunk = item // chunks, item % chunks
    n, c = row // classes, row % classes
    x, g, w = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    p = np.empty(TILE, np.float32)
    labels = np.empty(TILE, np.int32)
    sums = np.zeros(partials.shape[3])
    first = chunk * TILES_PER_CHUNK * TILE
    for v in range(first, min(first + TILES_PER_CHUNK * TILE, voxels), TILE):
        size = min(TILE, voxels - v)
        wrong = _load(x[:size], g[:size], w[:size], labels[:size], input, target, mask, classes, n, c, v)
        # All classes share the labels of a map, which count once.
        if c == 0 or target.dense:
            sums[INVALID] += wrong
        if not is_sigmoid:
            _add_identity(x[:size], g[:size], w[:size], sums)
        elif nll and gamma == _F(0.0):
            _add_sigmoid_and_nll(x[:size], g[:size], w[:size], smoothing, sums)
        else:
            _add_sigmoid(x[:size], g[:size], w[:size], sums)
            if nll:
                _add_focal_nll(x[:size], g[:size], w[:size], smoothing, gamma, sums)
        if hard:
            add_hard(x[:size], _F(0.0) if is_sigmoid else _F(0.5), g[:size], w[:size], sums)
        if soft:
            if is_sigmoid:
                _probabilities(x[:size], p[:size])
            else:
                p[:size] = x[:size]
            add_soft(p[:size], g[:size], w[:size], sums)
    partials[n, c, chunk] = sums


@compiled
def _chunk_gradient(
    input_type: Any,
    target_type: Any,
    mask_type: Any,
    gradient_type: Any,
    layout: Any,
    numbers: Any,
    item: int,
    by: Any,
) -> None:
    input, target, mask = unpack(input_type, target_type, mask_type, layout, numbers)
    gradient = unpack_gradient(gradient_type, layout)
    voxels, chunks, is_sigmoid, soft = layout[VOXELS], layout[CHUNKS], layout[SIGMOID] != 0, layout[SOFT] != 0
    smoothing, gamma = numbers[SMOOTHING], numbers[GAMMA]
    classes = by.shape[2]
    row, chunk = item // chunks, item % chunks
    n, c = row // classes, row % classes
    x, g, w = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    dx = np.empty(TILE, np.float32)
    labels = np.empty(TILE, np.int32)
    first = chunk * TILES_PER_CHUNK * TILE
    for v in range(first, min(first + TILES_PER_CHUNK * TILE, voxels), TILE):
        size = min(TILE, voxels - v)
        _load(x[:size], g[:size], w[:size], labels[:size], input, target, mask, classes, n, c, v)
        if not is_sigmoid:
            _identity_gradient(x[:size], g[:size], w[:size], by[:, n, c], dx[:size])
        elif gamma == _F(0.0):
            _sigmoid_gradient(x[:size], g[:size], w[:size], smoothing, by[:, n, c], dx[:size])
        else:
            _focal_gradient(x[:size], g[:size], w[:size], smoothing, gamma, by[:, n, c], dx[:size])
        if soft:
            _add_soft_gradient(x[:size], g[:size], w[:size], is_sigmoid, by[:, n, c], dx[:size])
        if removes(target, mask):
            remove(dx[:size], w[:size])
        start = n * gradient.sample + c * gradient.channel + v * gradient.voxel
        store(dx[:size], gradient.memory, gradient.kind, start, gradient.voxel)


@compiled
def sums_serial(input: Any, target: Any, mask: Any, gradient: Any, layout: Any, numbers: Any, partials: Any) -> None:
    """Partial sums of every chunk, on the calling thread."""
    for item in range(partials.shape[0] * partials.shape[1] * layout[CHUNKS]):
        _chunk_sums(input, target, mask, gradient, layout, numbers, item, partials)


@parallel
def sums_parallel(input: Any, target: Any, mask: Any, gradient: Any, layout: Any, numbers: Any, partials: Any) -> None:
    """Partial sums of every chunk, on Numba's threads."""
    for item in prange(partials.shape[0] * partials.shape[1] * layout[CHUNKS]):
        _chunk_sums(input, target, mask, gradient, layout, numbers, np.int64(item), partials)


@compiled
def gradient_serial(input: Any, target: Any, mask: Any, gradient: Any, layout: Any, numbers: Any, by: Any) -> None:
    """The gradient of every chunk, on the calling thread."""
    for item in range(by.shape[1] * by.shape[2] * layout[CHUNKS]):
        _chunk_gradient(input, target, mask, gradient, layout, numbers, item, by)


@parallel
def gradient_parallel(input: Any, target: Any, mask: Any, gradient: Any, layout: Any, numbers: Any, by: Any) -> None:
    """The gradient of every chunk, on Numba's threads."""
    for item in prange(by.shape[1] * by.shape[2] * layout[CHUNKS]):
        _chunk_gradient(input, target, mask, gradient, layout, numbers, np.int64(item), by)
