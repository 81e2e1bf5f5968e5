"""The sigmoid where the classes of a voxel are neighbours in memory: tables (N, T), and channels-last volumes.

A tile is a run of voxels with all their classes, in the order of the memory. What differs between classes, sums and
coefficients, repeats with a period of one or more voxels, chosen so that loops over it fill vector registers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from ...contract import NLL_NEG, NLL_POS, PRED, PRED_SQ, TARGET, TARGET_SQ, TP, WEIGHT
from .binary import focal_nll, focal_slope, sigmoid, softplus
from .memory import load, store
from .tiles import (
    CHUNKS,
    GAMMA,
    INVALID,
    NLL,
    REGION,
    SMOOTHING,
    TILE,
    VOXELS,
    compiled,
    parallel,
    remove,
    remove_value,
    removes,
    unpack,
    unpack_gradient,
)
from .vector_math import elementwise, exp_non_positive, log1p_unit, reduction

# Elements of one work item: enough that its sums of each class are small beside them.
_CHUNK = 1 << 16
# Elements of a period that fill unrolled vector loops.
_VECTORS = 32
# Tiles that are summed in float32 before they join the sums in float64: some forty terms for each element of a period.
_TILES_PER_FOLD = 8

_F = np.float32


def applies(classes: int, strides: tuple[int, ...]) -> bool:
    """Whether the classes of a voxel are neighbours in memory."""
    return classes > 1 and strides[1:] == (1, classes)


@compiled
def _period(classes: int) -> int:
    """Voxels of a period."""
    if classes >= 2 * _VECTORS:
        return 1
    return _VECTORS // math.gcd(_VECTORS, classes)


@compiled
def _voxels_per_tile(classes: int) -> int:
    period = _period(classes)
    return int(period * max(TILE // (period * classes), 1))


def voxels_per_chunk(classes: int) -> int:
    """Voxels of one work item."""
    tile = int(_voxels_per_tile(classes))
    return tile * max(_CHUNK // (tile * classes), 1)


@compiled
def _load_rows(tile: Any, source: Any, classes: int, n: int, v: int) -> None:
    """Fills a tile with the voxels from `v` on of one sample."""
    start = n * source.sample + v * source.voxel
    if source.channel == 1 and source.voxel == classes:
        load(tile, source.memory, source.kind, start, 1)
    else:
        for row in range(tile.size // classes):
            values = tile[row * classes : (row + 1) * classes]
            load(values, source.memory, source.kind, start + row * source.voxel, source.channel)


@compiled
def _store_rows(tile: Any, destination: Any, classes: int, n: int, v: int) -> None:
    """Writes a tile to the voxels from `v` on of one sample."""
    start = n * destination.sample + v * destination.voxel
    if destination.channel == 1 and destination.voxel == classes:
        store(tile, destination.memory, destination.kind, start, 1)
    else:
        for row in range(tile.size // classes):
            values = tile[row * classes : (row + 1) * classes]
            store(values, destination.memory, destination.kind, start + row * destination.voxel, destination.channel)


@reduction
def _replace_uncertain(x: Any, target: Any, weight: Any, uncertain: Any) -> Any:
    """As `tiles.replace_uncertain`, with a value for each element of the period, and all that is removed zeroed."""
    invalid = _F(0.0)
    for start in range(0, x.size, uncertain.size):
        stop = start + uncertain.size
        logits, g, w = x[start:stop], target[start:stop], weight[start:stop]
        for i in range(logits.size):
            # Read before anything is chosen: a load in a branch would have to be masked.
            logit, label, mask, policy = logits[i], g[i], w[i], uncertain[i]
            value = policy if label == _F(-1.0) else label
            kept = mask if value == value else _F(0.0)
            unknown = _F(1.0) if (value < _F(0.0)) | (value > _F(1.0)) else _F(0.0)
            invalid += unknown if kept != _F(0.0) else _F(0.0)
            w[i] = kept
            g[i] = value if kept != _F(0.0) else _F(0.0)
            logits[i] = logit if kept != _F(0.0) else _F(0.0)
    return invalid


@compiled
def _load(
    x: Any, g: Any, w: Any, input: Any, target: Any, mask: Any, uncertain: Any, classes: int, n: int, v: int
) -> Any:
    """Fills the tiles of logits, target and weights; returns targets out of range."""
    invalid = _F(0.0)
    _load_rows(x, input, classes, n, v)
    _load_rows(g, target.values, classes, n, v)
    if mask.present:
        _load_rows(w, mask.values, classes, n, v)
    else:
        w[:] = _F(1.0)
    if target.has_ignore:
        remove_value(g, w, _F(target.ignore_index))
    if target.has_uncertain:
        invalid = _replace_uncertain(x, g, w, uncertain)
    elif removes(target, mask):
        remove(x, w)
        remove(g, w)
    return invalid


@compiled
def _repeat(values: Any, period: Any) -> None:
    """Fills a period with the values of the classes."""
    for start in range(0, period.size, values.size):
        for c in range(values.size):
            period[start + c] = values[c]


@elementwise
def _nll(x: Any, target: Any, weight: Any, smoothing: Any, pos: Any, neg: Any) -> None:
    """The weighted nll of each element, of positives and of negatives."""
    for i in range(x.size):
        log_sum = log1p_unit(exp_non_positive(-abs(x[i])))
        smoothed = weight[i] * (target[i] + smoothing * (_F(0.5) - target[i]))
        pos[i] = smoothed * softplus(-x[i], log_sum)
        neg[i] = (weight[i] - smoothed) * softplus(x[i], log_sum)


@elementwise
def _focal_nll(x: Any, target: Any, weight: Any, smoothing: Any, gamma: Any, pos: Any, neg: Any) -> None:
    for i in range(x.size):
        t = exp_non_positive(-abs(x[i]))
        smoothed = weight[i] * (target[i] + smoothing * (_F(0.5) - target[i]))
        pos[i] = smoothed * focal_nll(x[i], t, gamma)
        neg[i] = (weight[i] - smoothed) * focal_nll(-x[i], t, gamma)


@elementwise
def _probabilities(x: Any, weight: Any, p: Any, weighted: Any) -> None:
    for i in range(x.size):
        p[i] = sigmoid(x[i], exp_non_positive(-abs(x[i])))
        weighted[i] = weight[i] * p[i]


@reduction
def _add(values: Any, period: Any) -> None:
    for start in range(0, values.size, period.size):
        run = values[start : start + period.size]
        for i in range(run.size):
            period[i] += run[i]


@reduction
def _add_products(a: Any, b: Any, period: Any) -> None:
    for start in range(0, a.size, period.size):
        run, other = a[start : start + period.size], b[start : start + period.size]
        for i in range(run.size):
            period[i] += run[i] * other[i]


@compiled
def _fold(periods: Any, sums: Any) -> None:
    """Adds the sums of a tile over its periods to those of the classes, (statistics, C), and clears them."""
    classes = sums.shape[1]
    for s in range(periods.shape[0]):
        for start in range(0, periods.shape[1], classes):
            for c in range(classes):
                sums[s, c] += periods[s, start + c]
    periods[:] = _F(0.0)


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
    voxels, nll, region = layout[VOXELS], layout[NLL] != 0, layout[REGION] != 0
    smoothing, gamma = numbers[SMOOTHING], numbers[GAMMA]
    _, classes, chunks, statistics = partials.shape
    n, chunk = item // chunks, item % chunks
    step = _voxels_per_tile(classes)
    tiles = np.empty((5, step * classes), np.float32)
    periods = np.zeros((INVALID, _period(classes) * classes), np.float32)
    uncertain = np.empty(periods.shape[1], np.float32)
    if target.has_uncertain:
        _repeat(target.uncertain, uncertain)
    sums = np.zeros((statistics, classes))
    waiting = 0
    per_chunk = -(-voxels // (chunks * step)) * step
    for v in range(chunk * per_chunk, min((chunk + 1) * per_chunk, voxels), step):
        size = min(step, voxels - v) * classes
        x, g, w, a, b = tiles[0, :size], tiles[1, :size], tiles[2, :size], tiles[3, :size], tiles[4, :size]
        sums[INVALID, 0] += _load(x, g, w, input, target, mask, uncertain, classes, n, v)
        _add_products(w, g, periods[TARGET])
        _add(w, periods[WEIGHT])
        if nll:
            if gamma == _F(0.0):
                _nll(x, g, w, smoothing, a, b)
            else:
                _focal_nll(x, g, w, smoothing, gamma, a, b)
            _add(a, periods[NLL_POS])
            _add(b, periods[NLL_NEG])
        if region:
            _probabilities(x, w, a, b)
            _add(b, periods[PRED])
            _add_products(a, b, periods[PRED_SQ])
            _add_products(b, g, periods[TP])
            for i in range(size):
                a[i] = w[i] * g[i]
            _add_products(a, g, periods[TARGET_SQ])
        waiting += 1
        if waiting == _TILES_PER_FOLD:
            _fold(periods, sums)
            waiting = 0
    _fold(periods, sums)
    for c in range(classes):
        for s in range(statistics):
            partials[n, c, chunk, s] = sums[s, c]


@elementwise
def _nll_gradient(x: Any, target: Any, weight: Any, smoothing: Any, by_pos: Any, by_neg: Any, gradient: Any) -> None:
    """`w (a_pos s (p-1) + a_neg (1-s) p)` of a tile."""
    for start in range(0, x.size, by_pos.size):
        stop = start + by_pos.size
        logits, g, w, out = x[start:stop], target[start:stop], weight[start:stop], gradient[start:stop]
        for i in range(logits.size):
            t = exp_non_positive(-abs(logits[i]))
            smoothed = g[i] + smoothing * (_F(0.5) - g[i])
            pos = by_pos[i] * smoothed * sigmoid(-logits[i], t)
            out[i] = w[i] * (by_neg[i] * (_F(1.0) - smoothed) * sigmoid(logits[i], t) - pos)


@elementwise
def _focal_gradient(
    x: Any, target: Any, weight: Any, smoothing: Any, gamma: Any, by_pos: Any, by_neg: Any, gradient: Any
) -> None:
    """As `_nll_gradient`, of the focal nll."""
    for start in range(0, x.size, by_pos.size):
        stop = start + by_pos.size
        logits, g, w, out = x[start:stop], target[start:stop], weight[start:stop], gradient[start:stop]
        for i in range(logits.size):
            t = exp_non_positive(-abs(logits[i]))
            smoothed = g[i] + smoothing * (_F(0.5) - g[i])
            pos = by_pos[i] * smoothed * focal_slope(logits[i], t, gamma)
            out[i] = w[i] * (pos - by_neg[i] * (_F(1.0) - smoothed) * focal_slope(-logits[i], t, gamma))


@elementwise
def _add_overlap_gradient(
    x: Any, target: Any, weight: Any, by_tp: Any, by_pred: Any, by_sq: Any, gradient: Any
) -> None:
    """Adds `w p (1-p) (a_tp g + a_pred + 2 a_sq p)` of a tile."""
    for start in range(0, x.size, by_tp.size):
        stop = start + by_tp.size
        logits, g, w, out = x[start:stop], target[start:stop], weight[start:stop], gradient[start:stop]
        for i in range(logits.size):
            t = exp_non_positive(-abs(logits[i]))
            p = sigmoid(logits[i], t)
            by_p = by_tp[i] * g[i] + by_pred[i] + _F(2.0) * by_sq[i] * p
            out[i] += w[i] * p * sigmoid(-logits[i], t) * by_p


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
    voxels, chunks = layout[VOXELS], layout[CHUNKS]
    smoothing, gamma = numbers[SMOOTHING], numbers[GAMMA]
    statistics, _, classes = by.shape
    n, chunk = item // chunks, item % chunks
    step = _voxels_per_tile(classes)
    tiles = np.empty((4, step * classes), np.float32)
    period = _period(classes) * classes
    by_period, uncertain = np.empty((statistics, period), np.float32), np.empty(period, np.float32)
    overlaps = False
    for s in range(statistics):
        _repeat(by[s, n], by_period[s])
    for s in (TP, PRED, PRED_SQ):
        for c in range(classes):
            overlaps = overlaps or by[s, n, c] != _F(0.0)
    if target.has_uncertain:
        _repeat(target.uncertain, uncertain)
    per_chunk = -(-voxels // (chunks * step)) * step
    for v in range(chunk * per_chunk, min((chunk + 1) * per_chunk, voxels), step):
        size = min(step, voxels - v) * classes
        x, g, w, dx = tiles[0, :size], tiles[1, :size], tiles[2, :size], tiles[3, :size]
        _load(x, g, w, input, target, mask, uncertain, classes, n, v)
        if gamma == _F(0.0):
            _nll_gradient(x, g, w, smoothing, by_period[NLL_POS], by_period[NLL_NEG], dx)
        else:
            _focal_gradient(x, g, w, smoothing, gamma, by_period[NLL_POS], by_period[NLL_NEG], dx)
        if overlaps:
            _add_overlap_gradient(x, g, w, by_period[TP], by_period[PRED], by_period[PRED_SQ], dx)
        if removes(target, mask):
            remove(dx, w)
        _store_rows(dx, gradient, classes, n, v)


@compiled
def sums_serial(input: Any, target: Any, mask: Any, gradient: Any, layout: Any, numbers: Any, partials: Any) -> None:
    """Partial sums of every chunk, on the calling thread."""
    for item in range(partials.shape[0] * layout[CHUNKS]):
        _chunk_sums(input, target, mask, gradient, layout, numbers, item, partials)


@parallel
def sums_parallel(input: Any, target: Any, mask: Any, gradient: Any, layout: Any, numbers: Any, partials: Any) -> None:
    """Partial sums of every chunk, on Numba's threads."""
    for item in prange(partials.shape[0] * layout[CHUNKS]):
        _chunk_sums(input, target, mask, gradient, layout, numbers, np.int64(item), partials)


@compiled
def gradient_serial(input: Any, target: Any, mask: Any, gradient: Any, layout: Any, numbers: Any, by: Any) -> None:
    """The gradient of every chunk, on the calling thread."""
    for item in range(by.shape[1] * layout[CHUNKS]):
        _chunk_gradient(input, target, mask, gradient, layout, numbers, item, by)


@parallel
def gradient_parallel(input: Any, target: Any, mask: Any, gradient: Any, layout: Any, numbers: Any, by: Any) -> None:
    """The gradient of every chunk, on Numba's threads."""
    for item in prange(by.shape[1] * layout[CHUNKS]):
        _chunk_gradient(input, target, mask, gradient, layout, numbers, np.int64(item), by)
