"""Kernels for the softmax: every class of a tile of voxels at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from ...contract import NLL_POS, PRED, PRED_SQ, TARGET, TARGET_SQ, TP, WEIGHT
from .memory import store
from .tiles import (
    CHUNKS,
    INVALID,
    NLL,
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
from .vector_math import elementwise, exp_non_positive, log_positive, reduction

_F = np.float32


@compiled
def _tile_size(classes: int) -> int:
    """Voxels whose logits of all classes stay in the second-level cache together with their probabilities."""
    return TILE if classes <= 16 else (256 if classes <= 64 else 64)


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
def _add(p: Any, x: Any, log_total: Any, target: Any, weight: Any, nll: bool, sums: Any) -> None:
    """Adds the statistics of one class of a tile; x holds logits minus their maximum."""
    tp = pred = pred_sq = target_sum = target_sq = nll_pos = total = _F(0.0)
    for i in range(p.size):
        wp, wg = weight[i] * p[i], weight[i] * target[i]
        tp += wp * target[i]
        pred += wp
        pred_sq += wp * p[i]
        target_sum += wg
        target_sq += wg * target[i]
        total += weight[i]
    if nll:
        for i in range(p.size):
            # A class of logit -inf and no target would give 0 * inf.
            cost = weight[i] * target[i] * (log_total[i] - x[i])
            nll_pos += cost if target[i] != _F(0.0) else _F(0.0)
    sums[TP] += tp
    sums[PRED] += pred
    sums[PRED_SQ] += pred_sq
    sums[TARGET] += target_sum
    sums[TARGET_SQ] += target_sq
    sums[NLL_POS] += nll_pos
    sums[WEIGHT] += total


@elementwise
def _products(p: Any, target: Any, weight: Any, by: Any, r: Any, total: Any) -> None:
    """`r_c = p_c u_c - e_c`, u the gradient by p and e that by log p; their total is the softmax's own term."""
    by_tp, by_pred, by_sq, by_pos = by[TP], by[PRED], _F(2.0) * by[PRED_SQ], by[NLL_POS]
    for i in range(p.size):
        g = target[i]
        r[i] = weight[i] * (p[i] * (by_tp * g + by_pred + by_sq * p[i]) - by_pos * g)
        total[i] += r[i]


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
            highest[:] = x[0]
        else:
            _maximum(highest, x[c], spare)
            highest, spare = spare, highest
    total[:] = _F(0.0)
    for c in range(classes):
        _exponentials(x[c], highest, p[c], total)
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
    voxels, nll = layout[VOXELS], layout[NLL] != 0
    classes, chunks = partials.shape[1], partials.shape[2]
    n, chunk = item // chunks, item % chunks
    tile = _tile_size(classes)
    logits, probabilities = np.empty(classes * tile, np.float32), np.empty(classes * tile, np.float32)
    g, w, used = np.empty(tile, np.float32), np.empty(tile, np.float32), np.empty(tile, np.float32)
    total, log_total, removed = (
        np.empty(tile, np.float32),
        np.empty(tile, np.float32),
        np.empty(tile, np.float32),
    )
    labels = np.empty(tile, np.int32)
    sums = np.zeros((classes, partials.shape[3]))
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
        for c in range(classes):
            _normalise(p[c], total[:size])
            _load_class(g[:size], w[:size], labels[:size], removed[:size], target, mask, n, c, v)
            _add(p[c], x[c], log_total[:size], g[:size], w[:size], nll, sums[c])
    for c in range(classes):
        partials[n, c, chunk] = sums[c]


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
    classes = by.shape[2]
    n, chunk = item // chunks, item % chunks
    tile = _tile_size(classes)
    logits, probabilities = np.empty(classes * tile, np.float32), np.empty(classes * tile, np.float32)
    g, w, used = np.empty(tile, np.float32), np.empty(tile, np.float32), np.empty(tile, np.float32)
    total, removed, product_total = (
        np.empty(tile, np.float32),
        np.empty(tile, np.float32),
        np.empty(tile, np.float32),
    )
    labels = np.empty(tile, np.int32)
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
        _reciprocals(total[:size])
        product_total[:size] = _F(0.0)
        for c in range(classes):
            _normalise(p[c], total[:size])
            _load_class(g[:size], w[:size], labels[:size], removed[:size], target, mask, n, c, v)
            _products(p[c], g[:size], w[:size], by[:, n, c], x[c], product_total[:size])
        for c in range(classes):
            _project(x[c], p[c], product_total[:size])
            if removes(target, mask):
                remove(x[c], used[:size])
            start = n * gradient.sample + c * gradient.channel + v * gradient.voxel
            store(x[c], gradient.memory, gradient.kind, start, gradient.voxel)


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
