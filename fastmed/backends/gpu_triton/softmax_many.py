"""Softmax over many classes: a loop over the classes, read twice, the second time from cache.

A tile is [warps, voxels of a warp], so that a sum over the voxels of a warp needs shuffles and no barrier.
The first reading finds maximum and sum online, with the loads of a few classes in flight; the second one adds
up the statistics of each class.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import (
    DIFFERENCE,
    HAS_HARD,
    HAS_INVALID,
    HAS_NLL_POS,
    HAS_PRED,
    HAS_PRED_SQ,
    HAS_SOFT,
    HAS_TARGET,
    HAS_TARGET_SQ,
    HAS_TP,
    HAS_WEIGHT,
    INVALID,
    LN_2,
    LOG2_E,
    LOWEST,
    NLL_POS,
    PRED,
    PRED_SQ,
    TARGET,
    TARGET_SQ,
    TP,
    TP_SQ,
    WEIGHT,
    clean,
    focal,
    load,
    load_labels,
    load_weight,
    log2,
    put,
    reciprocal,
    soft_slope,
    spread,
    store_optional,
)


@triton.jit
def _tile(tile, voxels, WARPS: tl.constexpr, BLOCK: tl.constexpr, TAIL: tl.constexpr):
    """First voxel of a tile, its lanes [warps, voxels], and which lie inside the volume."""
    start = tl.cast(tile, tl.int64) * (WARPS * BLOCK)
    lane = (tl.arange(0, WARPS)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]).to(tl.int64)
    inside = tl.full((WARPS, BLOCK), True, tl.int1)
    if TAIL:
        inside = start + lane < voxels
    return start, lane, inside


@triton.jit
def _load_voxels(target, mask, target_sv, mask_sv, lane, inside, ignore_index, DENSE: tl.constexpr):
    """Labels of a tile (zeros if dense), which voxels they keep, and the weights that all classes share."""
    if DENSE:
        labels = tl.zeros(lane.shape, tl.int32)
        kept = inside
    else:
        labels = load_labels(target, lane, target_sv, inside)
        kept = inside & (labels != ignore_index) if ignore_index is not None else inside
    return labels, kept, load_weight(mask, lane, mask_sv, inside, kept)


@triton.jit
def _load_target(
    target, mask, target_sv, mask_sv, lane, inside, labels, kept, weight, c, ignore_index,
    DENSE: tl.constexpr, PER_CLASS: tl.constexpr,
):  # fmt: skip
    """Target and weight of one class; labels, kept and weight as `_load_voxels` gives them."""
    if DENSE:
        g = load(target, lane, target_sv, inside).to(tl.float32)
        kept = kept & (g != ignore_index) if ignore_index is not None else kept
    else:
        g = tl.where(labels == c, 1.0, 0.0)
    if PER_CLASS:
        weight = load_weight(mask, lane, mask_sv, inside, kept)
    return clean(weight, g), weight


@triton.jit
def _used(
    target, mask, target_sc, target_sv, mask_sc, mask_sv, lane, inside, labels, kept, weight, classes,
    ignore_index, DENSE: tl.constexpr, PER_CLASS: tl.constexpr,
):  # fmt: skip
    """The weights of a voxel summed over classes: where it is zero, the voxel is removed."""
    used = weight
    if PER_CLASS:
        used = tl.zeros(lane.shape, tl.float32)
        for c in tl.range(0, classes):
            _, of_class = _load_target(
                target, mask, target_sv, mask_sv, lane, inside, labels, kept, weight, c, ignore_index,
                DENSE, PER_CLASS,
            )  # fmt: skip
            used += of_class
            target += target_sc
            if mask is not None:
                mask += mask_sc
    return used


@triton.jit
def _load_logits(x, x_sv, lane, inside, used):
    """Logits of one class, zero at removed voxels."""
    return clean(used, load(x, lane, x_sv, inside).to(tl.float32))


@triton.jit
def _largest_and_total(x, x_sc, x_sv, lane, inside, used, classes, UNROLL: tl.constexpr):
    """The largest logit of each voxel and the sum of the exponentials relative to it, in one pass."""
    largest = tl.full(lane.shape, LOWEST, tl.float32)
    total = tl.zeros(lane.shape, tl.float32)
    for _ in tl.range(0, classes, loop_unroll_factor=UNROLL):
        logits = _load_logits(x, x_sv, lane, inside, used)
        raised = tl.maximum(largest, logits)
        total = total * tl.exp2((largest - raised) * LOG2_E) + tl.exp2((logits - raised) * LOG2_E)
        largest = raised
        x += x_sc
    return largest, total


@triton.jit
def _class_sum(value):
    """Sum over the voxels of each warp, [warps, 1]."""
    return tl.sum(value, 1)[:, None]


@triton.jit
def _class_count(chosen):
    """Number of the voxels of each warp that are chosen, [warps, 1]."""
    return _class_sum(tl.where(chosen, 1.0, 0.0))


@triton.jit
def _accumulate(
    sums, x, target, mask, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, tile, voxels, classes,
    ignore_index, smoothing, gamma,
    WARPS: tl.constexpr, BLOCK: tl.constexpr, CLASSES: tl.constexpr, TAIL: tl.constexpr,
    DENSE: tl.constexpr, PER_CLASS: tl.constexpr, UNROLL: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    """Adds one tile to the sums, [warps, classes] each."""
    tp, pred, pred_sq, tgt, tgt_sq, nll, wgt, soft, counts, invalid = sums
    tp_sq, difference = soft
    hard_tp, hard_pred, hard_target, hard_total = counts
    start, lane, inside = _tile(tile, voxels, WARPS, BLOCK, TAIL)
    x += start * x_sv
    target += start * target_sv
    if mask is not None:
        mask += start * mask_sv
    voxel_mask = None if PER_CLASS else mask
    labels, kept, voxel_weight = _load_voxels(target, voxel_mask, target_sv, mask_sv, lane, inside, ignore_index, DENSE)
    if HAS_INVALID & WANTED:
        wrong = kept & ((labels < 0) | (labels >= classes))
        invalid += _class_sum(tl.where(wrong, 1.0, 0.0))

    used = _used(
        target, mask, target_sc, target_sv, mask_sc, mask_sv, lane, inside, labels, kept, voxel_weight, classes,
        ignore_index, DENSE, PER_CLASS,
    )  # fmt: skip
    largest, total = _largest_and_total(x, x_sc, x_sv, lane, inside, used, classes, UNROLL)
    inverse = reciprocal(total)
    log_total = log2(total)

    # None is predicted where a logit is NaN.
    free = total == total
    column = tl.arange(0, CLASSES)[None, :]
    x_c = x
    target_c = target
    mask_c = mask
    for c in tl.range(0, classes, loop_unroll_factor=UNROLL):
        logits = _load_logits(x_c, x_sv, lane, inside, used)
        g, weight = _load_target(
            target_c, mask_c, target_sv, mask_sv, lane, inside, labels, kept, voxel_weight, c, ignore_index,
            DENSE, PER_CLASS,
        )  # fmt: skip
        shifted = (logits - largest) * LOG2_E
        p = tl.exp2(shifted) * inverse
        weighted_p = weight * p
        weighted_target = weight * g
        here = column == c
        if HAS_TP & WANTED:
            tp = tl.where(here, tp + _class_sum(weighted_target * p), tp)
        if HAS_PRED & WANTED:
            pred = tl.where(here, pred + _class_sum(weighted_p), pred)
        if HAS_PRED_SQ & WANTED:
            pred_sq = tl.where(here, pred_sq + _class_sum(weighted_p * p), pred_sq)
        if HAS_TARGET & WANTED:
            tgt = tl.where(here, tgt + _class_sum(weighted_target), tgt)
        if HAS_TARGET_SQ & WANTED:
            tgt_sq = tl.where(here, tgt_sq + _class_sum(weighted_target * g), tgt_sq)
        if HAS_NLL_POS & WANTED:
            share = weighted_target
            if smoothing is not None:
                share = weight * spread(g, smoothing, classes)
            cost = share * (log_total - shifted)
            if gamma is not None:
                factor, _slope = focal(p, log_total - shifted, gamma)
                cost *= factor
            # A class of probability zero that is not the target would give 0 * inf.
            nll = tl.where(here, nll + _class_sum(tl.where(share == 0.0, 0.0, cost)), nll)
        if HAS_WEIGHT & WANTED:
            wgt = tl.where(here, wgt + _class_sum(weight), wgt)
        if HAS_SOFT & WANTED:
            tp_sq = tl.where(here, tp_sq + _class_sum(weighted_target * p * p), tp_sq)
            difference = tl.where(here, difference + _class_sum(weight * tl.abs(p - g)), difference)
        if HAS_HARD & WANTED:
            counted = weight != 0.0
            chosen = counted & free & (shifted == 0.0)
            free = free & (shifted != 0.0)
            in_target = counted & (g > 0.5)
            hard_tp = tl.where(here, hard_tp + _class_count(chosen & in_target), hard_tp)
            hard_pred = tl.where(here, hard_pred + _class_count(chosen), hard_pred)
            hard_target = tl.where(here, hard_target + _class_count(in_target), hard_target)
            hard_total = tl.where(here, hard_total + _class_count(counted), hard_total)
        x_c += x_sc
        target_c += target_sc
        if mask is not None:
            mask_c += mask_sc
    soft = (tp_sq, difference)
    counts = (hard_tp, hard_pred, hard_target, hard_total)
    return tp, pred, pred_sq, tgt, tgt_sq, nll, wgt, soft, counts, invalid


@triton.jit
def region_fwd_kernel_softmax_many(
    x,
    target,
    mask,
    partials,
    classes,
    voxels,
    x_sn,
    x_sc,
    x_sv,
    target_sn,
    target_sc,
    target_sv,
    mask_sn,
    mask_sc,
    mask_sv,
    ignore_index,
    smoothing,
    gamma,
    DENSE: tl.constexpr,
    PER_CLASS: tl.constexpr,
    UNROLL: tl.constexpr,
    WANTED: tl.constexpr,
    WARPS: tl.constexpr,
    BLOCK: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """Partial sums of one sample over every `num_programs(1)`-th tile."""
    n = tl.program_id(0).to(tl.int64)
    program = tl.program_id(1)
    programs = tl.num_programs(1)
    x += n * x_sn
    target += n * target_sn
    if mask is not None:
        mask += n * mask_sn
    zero = tl.zeros((WARPS, CLASSES), tl.float32)
    counts = (zero, zero, zero, zero)
    sums = (zero, zero, zero, zero, zero, zero, zero, (zero, zero), counts, tl.zeros((WARPS, 1), tl.float32))
    full_tiles = voxels // (WARPS * BLOCK)
    for tile in range(program, full_tiles, programs):
        sums = _accumulate(
            sums, x, target, mask, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, tile, voxels, classes,
            ignore_index, smoothing, gamma, WARPS, BLOCK, CLASSES, False, DENSE, PER_CLASS, UNROLL, WANTED,
        )  # fmt: skip
    if (full_tiles * WARPS * BLOCK < voxels) & (full_tiles % programs == program):
        sums = _accumulate(
            sums, x, target, mask, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, full_tiles, voxels,
            classes, ignore_index, smoothing, gamma, WARPS, BLOCK, CLASSES, True, DENSE, PER_CLASS, 1, WANTED,
        )  # fmt: skip
    tp, pred, pred_sq, tgt, tgt_sq, nll, wgt, soft, counts, invalid = sums
    # partials: (statistic, sample, class, program)
    rows = tl.num_programs(0).to(tl.int64) * classes * programs
    c = tl.arange(0, CLASSES)
    valid = c < classes
    partials += n * classes * programs + program
    if HAS_INVALID & WANTED:
        tl.store(partials + INVALID * rows, tl.sum(tl.sum(invalid, 1), 0))
    partials += c.to(tl.int64) * programs
    if HAS_TP & WANTED:
        tl.store(partials + TP * rows, tl.sum(tp, 0), mask=valid)
    if HAS_PRED & WANTED:
        tl.store(partials + PRED * rows, tl.sum(pred, 0), mask=valid)
    if HAS_PRED_SQ & WANTED:
        tl.store(partials + PRED_SQ * rows, tl.sum(pred_sq, 0), mask=valid)
    if HAS_TARGET & WANTED:
        tl.store(partials + TARGET * rows, tl.sum(tgt, 0), mask=valid)
    if HAS_TARGET_SQ & WANTED:
        tl.store(partials + TARGET_SQ * rows, tl.sum(tgt_sq, 0), mask=valid)
    if HAS_WEIGHT & WANTED:
        tl.store(partials + WEIGHT * rows, tl.sum(wgt, 0), mask=valid)
    if HAS_NLL_POS & WANTED:
        tl.store(partials + NLL_POS * rows, tl.sum(nll, 0) * LN_2, mask=valid)
    store_optional(partials, rows, soft, counts, valid, 0, WANTED)


@triton.jit
def _slopes(
    gradient, gradient_ss, factor, p, surprise, g, weight, classes, smoothing, gamma, SOFT: tl.constexpr,
):  # fmt: skip
    """dL/dp and the weight of the nll of one class, times the voxel weight."""
    by_tp = factor * tl.load(gradient + TP * gradient_ss).to(tl.float32)
    by_pred = factor * tl.load(gradient + PRED * gradient_ss).to(tl.float32)
    by_pred_sq = 2.0 * factor * tl.load(gradient + PRED_SQ * gradient_ss).to(tl.float32)
    by_pos = factor * tl.load(gradient + NLL_POS * gradient_ss).to(tl.float32)
    by_p = by_tp * g + (by_pred_sq * p + by_pred)
    if SOFT:
        by_tp_sq = factor * tl.load(gradient + TP_SQ * gradient_ss).to(tl.float32)
        by_difference = factor * tl.load(gradient + DIFFERENCE * gradient_ss).to(tl.float32)
        by_p += soft_slope(p, g, by_tp_sq, by_difference)
    pull = weight * (by_pos * spread(g, smoothing, classes))
    if gamma is not None:
        _factor, change = focal(p, surprise, gamma)
        pull = tl.where(pull == 0.0, 0.0, pull * change)
    return weight * by_p, pull


@triton.jit
def _gradient_tile(
    x, target, mask, dx, gradient, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, dx_sc, dx_sv,
    gradient_ss, gradient_sc, factor, tile, voxels, classes, ignore_index, smoothing, gamma,
    WARPS: tl.constexpr, BLOCK: tl.constexpr, TAIL: tl.constexpr, DENSE: tl.constexpr,
    PER_CLASS: tl.constexpr, SOFT: tl.constexpr, ADD: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    start, lane, inside = _tile(tile, voxels, WARPS, BLOCK, TAIL)
    x += start * x_sv
    dx += start * dx_sv
    target += start * target_sv
    if mask is not None:
        mask += start * mask_sv
    voxel_mask = None if PER_CLASS else mask
    labels, kept, voxel_weight = _load_voxels(target, voxel_mask, target_sv, mask_sv, lane, inside, ignore_index, DENSE)
    used = _used(
        target, mask, target_sc, target_sv, mask_sc, mask_sv, lane, inside, labels, kept, voxel_weight, classes,
        ignore_index, DENSE, PER_CLASS,
    )  # fmt: skip
    largest, total = _largest_and_total(x, x_sc, x_sv, lane, inside, used, classes, UNROLL)
    inverse = reciprocal(total)
    log_total = total
    if gamma is not None:
        log_total = log2(total)
    # The mean of dL/dp under p, less the summed weights of the nll: what every class of the voxel shares.
    shared = tl.zeros((WARPS, BLOCK), tl.float32)
    x_c = x
    target_c = target
    mask_c = mask
    gradient_c = gradient
    for c in tl.range(0, classes, loop_unroll_factor=UNROLL):
        logits = _load_logits(x_c, x_sv, lane, inside, used)
        g, weight = _load_target(
            target_c, mask_c, target_sv, mask_sv, lane, inside, labels, kept, voxel_weight, c, ignore_index,
            DENSE, PER_CLASS,
        )  # fmt: skip
        shifted = (logits - largest) * LOG2_E
        p = tl.exp2(shifted) * inverse
        slope, pull = _slopes(
            gradient_c, gradient_ss, factor, p, log_total - shifted, g, weight, classes, smoothing, gamma, SOFT
        )  # fmt: skip
        shared += p * slope - pull
        x_c += x_sc
        target_c += target_sc
        gradient_c += gradient_sc
        if mask is not None:
            mask_c += mask_sc
    for c in tl.range(0, classes, loop_unroll_factor=UNROLL):
        logits = _load_logits(x, x_sv, lane, inside, used)
        g, weight = _load_target(
            target, mask, target_sv, mask_sv, lane, inside, labels, kept, voxel_weight, c, ignore_index,
            DENSE, PER_CLASS,
        )  # fmt: skip
        shifted = (logits - largest) * LOG2_E
        p = tl.exp2(shifted) * inverse
        slope, pull = _slopes(
            gradient, gradient_ss, factor, p, log_total - shifted, g, weight, classes, smoothing, gamma, SOFT
        )  # fmt: skip
        value = clean(used, p * (slope - shared) - pull)
        put(dx + lane * dx_sv, value, inside, ADD)
        x += x_sc
        dx += dx_sc
        target += target_sc
        gradient += gradient_sc
        if mask is not None:
            mask += mask_sc


@triton.jit
def region_bwd_kernel_softmax_many(
    x,
    target,
    mask,
    dx,
    gradient,
    scale,
    classes,
    voxels,
    x_sn,
    x_sc,
    x_sv,
    target_sn,
    target_sc,
    target_sv,
    mask_sn,
    mask_sc,
    mask_sv,
    dx_sn,
    dx_sc,
    dx_sv,
    gradient_ss,
    gradient_sn,
    gradient_sc,
    ignore_index,
    smoothing,
    gamma,
    DENSE: tl.constexpr,
    PER_CLASS: tl.constexpr,
    SOFT: tl.constexpr,
    ADD: tl.constexpr,
    UNROLL: tl.constexpr,
    WARPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradient of one sample over every `num_programs(1)`-th tile."""
    n = tl.program_id(0).to(tl.int64)
    program = tl.program_id(1)
    programs = tl.num_programs(1)
    x += n * x_sn
    dx += n * dx_sn
    target += n * target_sn
    if mask is not None:
        mask += n * mask_sn
    gradient += n * gradient_sn
    factor = 1.0
    if scale is not None:
        factor = tl.load(scale).to(tl.float32)
    full_tiles = voxels // (WARPS * BLOCK)
    for tile in range(program, full_tiles, programs):
        _gradient_tile(
            x, target, mask, dx, gradient, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, dx_sc, dx_sv,
            gradient_ss, gradient_sc, factor, tile, voxels, classes, ignore_index, smoothing, gamma,
            WARPS, BLOCK, False, DENSE, PER_CLASS, SOFT, ADD, UNROLL,
        )  # fmt: skip
    if (full_tiles * WARPS * BLOCK < voxels) & (full_tiles % programs == program):
        _gradient_tile(
            x, target, mask, dx, gradient, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, dx_sc, dx_sv,
            gradient_ss, gradient_sc, factor, full_tiles, voxels, classes, ignore_index, smoothing, gamma,
            WARPS, BLOCK, True, DENSE, PER_CLASS, SOFT, ADD, 1,
        )  # fmt: skip
