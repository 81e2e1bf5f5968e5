"""The sigmoid where the classes of a voxel are neighbours in memory: tables (N, T), and channels-last volumes.

A tile is a run of whole voxels with all their classes, in the order of the memory. What differs between classes, sums
and coefficients, is laid out as a tile as well, so that every loop runs over plain vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...contract import NLL_NEG, NLL_POS, PRED, PRED_SQ, TARGET, TARGET_SQ, TP, WEIGHT
from .binary import focal_nll, focal_slope, sigmoid, softplus
from .compilation import compiled, elementwise
from .job import CHUNKS, INVALID, ITEMS, NLL, REGION, VOXELS, exponents, gradient_of_sums, partial_sums
from .job import gradient as job_gradient
from .job import operands as job_operands
from .kernel import Kernel, read, take
from .memory import borrow, keep, load
from .tiles import TILE, put, remove, remove_value, removes, replace_uncertain
from .vector_math import exp_non_positive, log1p_unit

# Elements of one work item: enough that its sums of each class are small beside them.
_CHUNK = 1 << 15
# Tiles that are summed in float32 before they join the sums in float64.
_TILES_PER_FOLD = 32
# A tile of a multiple of so many voxels leaves no rest after the last vector.
_VECTOR = 8

_F = np.float32
_OVERLAP = (TP, PRED, PRED_SQ, TARGET_SQ)


def applies(classes: int, strides: tuple[int, ...], optional: bool) -> bool:
    """Whether the classes of a voxel are neighbours in memory, and no optional statistics are wanted."""
    return classes > 1 and strides[1:] == (1, classes) and not optional


@compiled
def _voxels_per_tile(classes: int) -> int:
    voxels = TILE // classes
    return int(voxels - voxels % _VECTOR if voxels >= _VECTOR else max(voxels, 1))


def voxels_per_chunk(classes: int) -> int:
    """Voxels of one work item."""
    tile = int(_voxels_per_tile(classes))
    return tile * max(_CHUNK // (tile * classes), 1)


@compiled
def are_rows(values: Any, classes: int) -> Any:
    """Whether an operand is one stretch of memory, voxel after voxel."""
    return values.channel == 1 and values.voxel == classes


@compiled
def _load_columns(tile: Any, source: Any, classes: int, start: int) -> None:
    """Fills a tile class by class, for classes that are further apart in memory than voxels: a table from pandas."""
    column = np.empty(tile.size // classes, np.float32)
    for c in range(classes):
        load(column, source.address, source.converter, start + c * source.channel, source.voxel)
        for row in range(column.size):
            tile[row * classes + c] = column[row]


@compiled
def _load_rows(tile: Any, source: Any, classes: int, n: int, v: int) -> None:
    """Fills a tile with the voxels from `v` on of one sample."""
    start = n * source.sample + v * source.voxel
    if are_rows(source, classes):
        load(tile, source.address, source.converter, start, 1)
    elif source.channel > source.voxel:
        _load_columns(tile, source, classes, start)
    else:
        for row in range(tile.size // classes):
            values = tile[row * classes : (row + 1) * classes]
            load(values, source.address, source.converter, start + row * source.voxel, source.channel)


@compiled
def _put_rows(tile: Any, gradient: Any, classes: int, n: int, v: int) -> None:
    """Puts a tile of the gradient into the voxels from `v` on of one sample."""
    values = gradient.values
    start = n * values.sample + v * values.voxel
    if are_rows(values, classes):
        put(tile, gradient, start, 1)
    else:
        for row in range(tile.size // classes):
            put(tile[row * classes : (row + 1) * classes], gradient, start + row * values.voxel, values.channel)


@compiled
def load_target(g: Any, w: Any, target: Any, mask: Any, uncertain: Any, classes: int, n: int, v: int) -> Any:
    """Fills the tiles of target and weights, the target 0 where removed; returns targets out of range."""
    _load_rows(g, target.values, classes, n, v)
    if mask.present:
        _load_rows(w, mask.values, classes, n, v)
    else:
        w[:] = _F(1.0)
    if target.has_ignore:
        remove_value(g, w, _F(target.ignore_index))
    if target.has_uncertain:
        return replace_uncertain(g, w, uncertain)
    if removes(target, mask):
        remove(g, w)
    return _F(0.0)


@compiled
def repeat(values: Any, tile: Any) -> None:
    """Fills a tile with the values of the classes."""
    for start in range(0, tile.size, values.size):
        for c in range(values.size):
            tile[start + c] = values[c]


@elementwise
def _add_nll(x: Any, target: Any, weight: Any, smoothing: Any, pos: Any, neg: Any) -> None:
    """Adds the weighted nll of each element, of positives and of negatives; a removed one may hold any logit."""
    for i in range(x.size):
        logit, w = x[i], weight[i]
        log_sum = log1p_unit(exp_non_positive(-abs(logit)))
        smoothed = w * (target[i] + smoothing * (_F(0.5) - target[i]))
        of_pos = smoothed * softplus(-logit, log_sum)
        of_neg = (w - smoothed) * softplus(logit, log_sum)
        pos[i] += of_pos if w != _F(0.0) else _F(0.0)
        neg[i] += of_neg if w != _F(0.0) else _F(0.0)


@elementwise
def _add_focal_nll(x: Any, target: Any, weight: Any, smoothing: Any, gamma: Any, pos: Any, neg: Any) -> None:
    """As `_add_nll`, of the focal nll."""
    for i in range(x.size):
        logit, w = x[i], weight[i]
        t = exp_non_positive(-abs(logit))
        smoothed = w * (target[i] + smoothing * (_F(0.5) - target[i]))
        of_pos = smoothed * focal_nll(logit, t, gamma)
        of_neg = (w - smoothed) * focal_nll(-logit, t, gamma)
        pos[i] += of_pos if w != _F(0.0) else _F(0.0)
        neg[i] += of_neg if w != _F(0.0) else _F(0.0)


@elementwise
def _probabilities(x: Any, weight: Any, p: Any, weighted: Any) -> None:
    """The probability of each element and its weighted self, both 0 where removed."""
    for i in range(x.size):
        w = weight[i]
        probability = sigmoid(x[i], exp_non_positive(-abs(x[i])))
        p[i] = probability if w != _F(0.0) else _F(0.0)
        weighted[i] = w * probability if w != _F(0.0) else _F(0.0)


@elementwise
def _add(values: Any, sums: Any) -> None:
    for i in range(values.size):
        sums[i] += values[i]


@elementwise
def _add_products(a: Any, b: Any, sums: Any) -> None:
    for i in range(a.size):
        sums[i] += a[i] * b[i]


@compiled
def _is_summed(s: int, nll: Any, region: Any) -> Any:
    """Whether a statistic was asked for."""
    return s in (TARGET, WEIGHT) or (region and s in _OVERLAP) or (nll and s in (NLL_POS, NLL_NEG))


@compiled
def _clear(tile_sums: Any, nll: Any, region: Any) -> None:
    for s in range(tile_sums.shape[0]):
        if _is_summed(s, nll, region):
            tile_sums[s] = _F(0.0)


@compiled
def _fold(tile_sums: Any, sums: Any, nll: Any, region: Any) -> None:
    """Adds the sums of each element of a tile to those of the classes, (statistics, C), and clears them."""
    classes = sums.shape[1]
    for s in range(tile_sums.shape[0]):
        if _is_summed(s, nll, region):
            for start in range(0, tile_sums.shape[1], classes):
                for c in range(classes):
                    sums[s, c] += tile_sums[s, start + c]
    _clear(tile_sums, nll, region)


@compiled
def _chunk_sums(
    job: Any,
    item: int,
    partials: Any,
) -> None:
    input, target, mask = job_operands(job)
    voxels, nll, region = job[VOXELS], job[NLL] != 0, job[REGION] != 0
    smoothing, gamma = exponents(job)
    _, classes, chunks, statistics = partials.shape
    n, chunk = item // chunks, item % chunks
    step = min(_voxels_per_tile(classes), voxels)
    elements = step * classes
    owned = (
        np.empty((5, elements), np.float32),
        np.empty(elements, np.float32),
        np.empty((INVALID, elements), np.float32),
        np.zeros((statistics, classes)),
    )
    tiles, uncertain, tile_sums, sums = borrow(owned)
    if target.has_uncertain:
        repeat(target.uncertain, uncertain)
    _clear(tile_sums, nll, region)
    waiting = 0
    per_chunk = -(-voxels // (chunks * step)) * step
    for v in range(chunk * per_chunk, min((chunk + 1) * per_chunk, voxels), step):
        size = min(step, voxels - v) * classes
        x, g, w, a, b = tiles[0, :size], tiles[1, :size], tiles[2, :size], tiles[3, :size], tiles[4, :size]
        _load_rows(x, input, classes, n, v)
        sums[INVALID, 0] += load_target(g, w, target, mask, uncertain, classes, n, v)
        _add_products(w, g, tile_sums[TARGET])
        _add(w, tile_sums[WEIGHT])
        if nll:
            if gamma == _F(0.0):
                _add_nll(x, g, w, smoothing, tile_sums[NLL_POS], tile_sums[NLL_NEG])
            else:
                _add_focal_nll(x, g, w, smoothing, gamma, tile_sums[NLL_POS], tile_sums[NLL_NEG])
        if region:
            _probabilities(x, w, a, b)
            _add(b, tile_sums[PRED])
            _add_products(a, b, tile_sums[PRED_SQ])
            _add_products(b, g, tile_sums[TP])
            for i in range(size):
                a[i] = w[i] * g[i]
            _add_products(a, g, tile_sums[TARGET_SQ])
        waiting += 1
        if waiting == _TILES_PER_FOLD:
            _fold(tile_sums, sums, nll, region)
            waiting = 0
    _fold(tile_sums, sums, nll, region)
    for c in range(classes):
        for s in range(statistics):
            partials[n, c, chunk, s] = sums[s, c]
    keep(owned)


@elementwise
def _nll_gradient(x: Any, target: Any, weight: Any, smoothing: Any, by_pos: Any, by_neg: Any, gradient: Any) -> None:
    """`w (a_pos s (p-1) + a_neg (1-s) p)` of a tile, 0 where removed."""
    for i in range(x.size):
        t = exp_non_positive(-abs(x[i]))
        smoothed = target[i] + smoothing * (_F(0.5) - target[i])
        w, pos = weight[i], by_pos[i] * smoothed * sigmoid(-x[i], t)
        value = w * (by_neg[i] * (_F(1.0) - smoothed) * sigmoid(x[i], t) - pos)
        gradient[i] = value if w != _F(0.0) else _F(0.0)


@elementwise
def _focal_gradient(
    x: Any, target: Any, weight: Any, smoothing: Any, gamma: Any, by_pos: Any, by_neg: Any, gradient: Any
) -> None:
    """As `_nll_gradient`, of the focal nll."""
    for i in range(x.size):
        t = exp_non_positive(-abs(x[i]))
        smoothed = target[i] + smoothing * (_F(0.5) - target[i])
        w, pos = weight[i], by_pos[i] * smoothed * focal_slope(x[i], t, gamma)
        value = w * (pos - by_neg[i] * (_F(1.0) - smoothed) * focal_slope(-x[i], t, gamma))
        gradient[i] = value if w != _F(0.0) else _F(0.0)


@elementwise
def _add_overlap_gradient(
    x: Any, target: Any, weight: Any, by_tp: Any, by_pred: Any, by_sq: Any, gradient: Any
) -> None:
    """Adds `w p (1-p) (a_tp g + a_pred + 2 a_sq p)` of a tile."""
    for i in range(x.size):
        t = exp_non_positive(-abs(x[i]))
        p = sigmoid(x[i], t)
        by_p = by_tp[i] * target[i] + by_pred[i] + _F(2.0) * by_sq[i] * p
        w = weight[i]
        value = w * p * sigmoid(-x[i], t) * by_p
        gradient[i] += value if w != _F(0.0) else _F(0.0)


@compiled
def _chunk_gradient(
    job: Any,
    item: int,
    by: Any,
) -> None:
    input, target, mask = job_operands(job)
    gradient = job_gradient(job)
    voxels, chunks = job[VOXELS], job[CHUNKS]
    smoothing, gamma = exponents(job)
    statistics, _, classes = by.shape
    n, chunk = item // chunks, item % chunks
    step = min(_voxels_per_tile(classes), voxels)
    elements = step * classes
    owned = (
        np.empty((4, elements), np.float32),
        np.empty(elements, np.float32),
        np.empty((statistics, elements), np.float32),
    )
    tiles, uncertain, of_class = borrow(owned)
    overlaps = False
    for s in (TP, PRED, PRED_SQ):
        for c in range(classes):
            overlaps = overlaps or by[s, n, c] != _F(0.0)
    for s in (TP, PRED, PRED_SQ, NLL_POS, NLL_NEG):
        if overlaps or s in (NLL_POS, NLL_NEG):
            repeat(by[s, n], of_class[s])
    if target.has_uncertain:
        repeat(target.uncertain, uncertain)
    per_chunk = -(-voxels // (chunks * step)) * step
    for v in range(chunk * per_chunk, min((chunk + 1) * per_chunk, voxels), step):
        size = min(step, voxels - v) * classes
        x, g, w, dx = tiles[0, :size], tiles[1, :size], tiles[2, :size], tiles[3, :size]
        _load_rows(x, input, classes, n, v)
        load_target(g, w, target, mask, uncertain, classes, n, v)
        if gamma == _F(0.0):
            _nll_gradient(x, g, w, smoothing, of_class[NLL_POS], of_class[NLL_NEG], dx)
        else:
            _focal_gradient(x, g, w, smoothing, gamma, of_class[NLL_POS], of_class[NLL_NEG], dx)
        if overlaps:
            _add_overlap_gradient(x, g, w, of_class[TP], of_class[PRED], of_class[PRED_SQ], dx)
        _put_rows(dx, gradient, classes, n, v)
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
