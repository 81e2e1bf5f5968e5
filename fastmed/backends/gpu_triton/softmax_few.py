"""Softmax over few classes: a thread holds all classes of its voxels, and no loop turn exchanges anything.

A tile is a tuple of one-dimensional tiles, one for each class, unrolled at compile time. A thread loads several
voxels at once; the forward pass treats them in turn, so that one accumulator for each class and statistic is enough.
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
    HAS_TARGET,
    HAS_TARGET_SQ,
    HAS_TP,
    HAS_WEIGHT,
    INVALID,
    LN_2,
    LOG2_E,
    NLL_POS,
    PRED,
    PRED_SQ,
    TARGET,
    TARGET_SQ,
    TP,
    TP_SQ,
    WEIGHT,
    add_hard,
    add_soft,
    clean,
    collect,
    deal,
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
    tile_range,
)


@triton.jit
def _chunk_range(start, voxels, C: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, TAIL: tl.constexpr):
    """Offsets of the first `CHUNK` classes of the voxels of a tile whose classes are neighbours, and which exist."""
    element = tl.arange(0, BLOCK * CHUNK)
    voxel = element // CHUNK
    inside = tl.full((BLOCK * CHUNK,), True, tl.int1)
    if TAIL:
        inside = start + voxel < voxels
    # Written so that the compiler sees how many neighbours there are.
    return element if CHUNK == C else voxel * C + element % CHUNK, inside


@triton.jit
def _load_logits(
    x, x_sc, x_sv, start, lane, inside, voxels,
    C: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Tuple of the logits of each class: one class in a load, or a chunk of neighbours."""
    x += start * x_sv
    logits = ()
    if CHUNK == 1:
        for _ in tl.static_range(C):
            logits += (load(x, lane, x_sv, inside).to(tl.float32),)
            x += x_sc
    else:
        offset, exists = _chunk_range(start, voxels, C, CHUNK, BLOCK, TAIL)
        for _ in tl.static_range(C // CHUNK):
            dealt = deal(tl.load(x + offset, mask=exists, other=0), CHUNK)
            for i in tl.static_range(CHUNK):
                logits += (dealt[i].to(tl.float32),)
            x += CHUNK
    return logits


@triton.jit
def _load_classes(
    x, target, mask, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, start, lane, inside, voxels, ignore_index,
    C: tl.constexpr, DENSE: tl.constexpr, PER_CLASS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
    TAIL: tl.constexpr,
):  # fmt: skip
    """Tuples of logits, targets (the labels alone if not dense) and weights (one if not per class), and their sum.

    A voxel that no class gives weight is removed: its logits read as zero.
    """
    logits = _load_logits(x, x_sc, x_sv, start, lane, inside, voxels, C, CHUNK, BLOCK, TAIL)
    target += start * target_sv
    if mask is not None:
        mask += start * mask_sv
    targets = ()
    weights = ()
    kept = inside
    if not DENSE:
        labels = load_labels(target, lane, target_sv, inside)
        targets += (labels,)
        if ignore_index is not None:
            kept = inside & (labels != ignore_index)
    if not PER_CLASS:
        weights += (load_weight(mask, lane, mask_sv, inside, kept),)
    for c in tl.static_range(C):
        if DENSE:
            dense = load(target, lane, target_sv, inside).to(tl.float32)
            target += target_sc
            if ignore_index is not None:
                kept = inside & (dense != ignore_index)
        if PER_CLASS:
            weights += (load_weight(mask, lane, mask_sv, inside, kept),)
            if mask is not None:
                mask += mask_sc
        weight = weights[c if PER_CLASS else 0]
        if DENSE:
            targets += (clean(weight, dense),)
    used = weights[0]
    if PER_CLASS:
        for c in tl.static_range(1, C):
            used += weights[c]
    cleaned = ()
    for c in tl.static_range(C):
        cleaned += (clean(used, logits[c]),)
    return cleaned, targets, weights, used


@triton.jit
def _softmax(logits, C: tl.constexpr):
    """Base-2 logits less their maximum, their powers, the sum of these and its reciprocal."""
    largest = logits[0]
    for c in tl.static_range(1, C):
        largest = tl.maximum(largest, logits[c])
    shifted = ()
    powers = ()
    for c in tl.static_range(C):
        # The difference first: the product alone can overflow where the difference is small.
        u = (logits[c] - largest) * LOG2_E
        shifted += (u,)
        powers += (tl.exp2(u),)
    total = powers[0]
    for c in tl.static_range(1, C):
        total += powers[c]
    return shifted, powers, total, reciprocal(total)


@triton.jit
def _accumulate(
    sums, invalid, logits, targets, weights, inside, ignore_index, smoothing, gamma,
    C: tl.constexpr, DENSE: tl.constexpr, PER_CLASS: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    """Adds the voxels of one turn to the sums, a tuple over classes of a tuple over statistics."""
    # The nll of plain cross entropy costs nothing where the target is 0.
    IS_PLAIN: tl.constexpr = smoothing is None and gamma is None
    shifted, powers, total, inverse = _softmax(logits, C)
    if HAS_NLL_POS & WANTED:
        log_total = log2(total)
    if HAS_INVALID & WANTED:
        wrong = inside & ((targets[0] < 0) | (targets[0] >= C))
        if ignore_index is not None:
            wrong = wrong & (targets[0] != ignore_index)
        invalid = tl.where(wrong, invalid + 1.0, invalid)
    # None is predicted where a logit is NaN.
    free = total == total
    new_sums = ()
    for c in tl.static_range(C):
        tp, pred, pred_sq, tgt, tgt_sq, nll, wgt, soft, counts = sums[c]
        weight = weights[c if PER_CLASS else 0]
        p = powers[c] * inverse
        weighted_p = weight * p
        g = targets[c] if DENSE else tl.where(targets[0] == c, 1.0, 0.0)
        soft = add_soft(soft, p, g, weight, WANTED)
        if HAS_HARD & WANTED:
            chosen = free & (shifted[c] == 0.0)
            free = free & (shifted[c] != 0.0)
            counts = add_hard(counts, chosen, g > 0.5, weight, WANTED)
        if HAS_PRED & WANTED:
            pred += weighted_p
        if HAS_PRED_SQ & WANTED:
            pred_sq += weighted_p * p
        if HAS_WEIGHT & WANTED:
            wgt += weight
        if DENSE:
            weighted_target = weight * targets[c]
            if HAS_TP & WANTED:
                tp += weighted_target * p
            if HAS_TARGET & WANTED:
                tgt += weighted_target
            if HAS_TARGET_SQ & WANTED:
                tgt_sq += weighted_target * targets[c]
            if (HAS_NLL_POS & WANTED) and IS_PLAIN:
                # A class of probability zero that is not the target would give 0 * inf.
                surprise = tl.where(weighted_target == 0.0, 0.0, weighted_target * (log_total - shifted[c]))
                nll += surprise
        else:
            hit = targets[0] == c
            if HAS_TP & WANTED:
                tp = tl.where(hit, tp + weighted_p, tp)
            if HAS_TARGET & WANTED:
                tgt = tl.where(hit, tgt + weight, tgt)
            if (HAS_NLL_POS & WANTED) and IS_PLAIN:
                nll = tl.where(hit, nll + weight * (log_total - shifted[c]), nll)
        if (HAS_NLL_POS & WANTED) and not IS_PLAIN:
            share = weight * spread(g, smoothing, C)
            cost = share * (log_total - shifted[c])
            if gamma is not None:
                factor, _slope = focal(p, log_total - shifted[c], gamma)
                cost *= factor
            nll += tl.where(share == 0.0, 0.0, cost)
        new_sums += ((tp, pred, pred_sq, tgt, tgt_sq, nll, wgt, soft, counts),)
    return new_sums, invalid


@triton.jit
def _of_turn(tiles, TURN: tl.constexpr, TURNS: tl.constexpr):
    """The voxels of one turn, of each of a tuple of tiles."""
    dealt = ()
    for i in tl.static_range(len(tiles)):
        dealt += (deal(tiles[i], TURNS)[TURN],)
    return dealt


@triton.jit
def _accumulate_tile(
    sums, invalid, x, target, mask, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, tile, voxels, ignore_index,
    smoothing, gamma,
    C: tl.constexpr, DENSE: tl.constexpr, PER_CLASS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
    TAIL: tl.constexpr, TURNS: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    start, lane, inside = tile_range(tile, voxels, BLOCK, TAIL)
    logits, targets, weights, _used = _load_classes(
        x, target, mask, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, start, lane, inside, voxels,
        ignore_index, C, DENSE, PER_CLASS, CHUNK, BLOCK, TAIL,
    )  # fmt: skip
    for turn in tl.static_range(TURNS):
        sums, invalid = _accumulate(
            sums, invalid,
            _of_turn(logits, turn, TURNS), _of_turn(targets, turn, TURNS), _of_turn(weights, turn, TURNS),
            deal(inside, TURNS)[turn], ignore_index, smoothing, gamma, C, DENSE, PER_CLASS, WANTED,
        )  # fmt: skip
    return sums, invalid


@triton.jit
def region_fwd_kernel_softmax_few(
    x,
    target,
    mask,
    partials,
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
    C: tl.constexpr,
    DENSE: tl.constexpr,
    PER_CLASS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    TURNS: tl.constexpr,
    WANTED: tl.constexpr,
):
    """Partial sums of one sample over every `num_programs(1)`-th tile."""
    n = tl.program_id(0).to(tl.int64)
    program = tl.program_id(1)
    programs = tl.num_programs(1)
    x += n * x_sn
    target += n * target_sn
    if mask is not None:
        mask += n * mask_sn
    zero = tl.zeros((BLOCK // TURNS,), tl.float32)
    invalid = zero
    sums = ()
    for _ in tl.static_range(C):
        sums += ((zero, zero, zero, zero, zero, zero, zero, (zero, zero), (zero, zero, zero, zero)),)
    full_tiles = voxels // BLOCK
    for tile in range(program, full_tiles, programs):
        sums, invalid = _accumulate_tile(
            sums, invalid, x, target, mask, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, tile, voxels,
            ignore_index, smoothing, gamma, C, DENSE, PER_CLASS, CHUNK, BLOCK, False, TURNS, WANTED,
        )  # fmt: skip
    if (full_tiles * BLOCK < voxels) & (full_tiles % programs == program):
        sums, invalid = _accumulate_tile(
            sums, invalid, x, target, mask, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, full_tiles,
            voxels, ignore_index, smoothing, gamma, C, DENSE, PER_CLASS, CHUNK, BLOCK, True, TURNS, WANTED,
        )  # fmt: skip
    # partials: (statistic, sample, class, program)
    rows = tl.num_programs(0).to(tl.int64) * C * programs
    partials += n * C * programs + program
    if HAS_INVALID & WANTED:
        tl.store(partials + INVALID * rows, tl.sum(invalid, 0))
    for c in tl.static_range(C):
        tp, pred, pred_sq, tgt, tgt_sq, nll, wgt, soft, counts = sums[c]
        if HAS_TP & WANTED:
            tl.store(partials + TP * rows, tl.sum(tp, 0))
        if HAS_PRED & WANTED:
            tl.store(partials + PRED * rows, tl.sum(pred, 0))
        if HAS_PRED_SQ & WANTED:
            tl.store(partials + PRED_SQ * rows, tl.sum(pred_sq, 0))
        if HAS_TARGET & WANTED:
            tl.store(partials + TARGET * rows, tl.sum(tgt, 0))
        if HAS_TARGET_SQ & WANTED:
            tl.store(partials + TARGET_SQ * rows, tl.sum(tgt_sq, 0))
        if HAS_WEIGHT & WANTED:
            tl.store(partials + WEIGHT * rows, tl.sum(wgt, 0))
        if HAS_NLL_POS & WANTED:
            tl.store(partials + NLL_POS * rows, tl.sum(nll, 0) * LN_2)
        store_optional(partials, rows, soft, counts, None, 0, WANTED)
        partials += programs


@triton.jit
def _store_classes(
    dx, values, dx_sc, dx_sv, start, lane, inside, voxels,
    C: tl.constexpr, ADD: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Puts a tuple over classes where `_load_logits` would read it."""
    dx += start * dx_sv
    if CHUNK == 1:
        for c in tl.static_range(C):
            put(dx + lane * dx_sv, values[c], inside, ADD)
            dx += dx_sc
    else:
        offset, exists = _chunk_range(start, voxels, C, CHUNK, BLOCK, TAIL)
        for chunk in tl.static_range(C // CHUNK):
            dealt = ()
            for i in tl.static_range(CHUNK):
                dealt += (values[chunk * CHUNK + i],)
            put(dx + offset, collect(dealt, CHUNK), exists, ADD)
            dx += CHUNK


@triton.jit
def _gradient_tile(
    x, target, mask, dx, gradient, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, dx_sc, dx_sv,
    gradient_ss, gradient_sc, factor, tile, voxels, ignore_index, smoothing, gamma,
    C: tl.constexpr, DENSE: tl.constexpr, PER_CLASS: tl.constexpr, SOFT: tl.constexpr, ADD: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    start, lane, inside = tile_range(tile, voxels, BLOCK, TAIL)
    logits, targets, weights, used = _load_classes(
        x, target, mask, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, start, lane, inside, voxels,
        ignore_index, C, DENSE, PER_CLASS, CHUNK, BLOCK, TAIL,
    )  # fmt: skip
    shifted, powers, total, inverse = _softmax(logits, C)
    if gamma is not None:
        log_total = log2(total)
    # The mean of dL/dp under p, less the summed weights of the nll: what every class of the voxel shares.
    shared = tl.zeros((BLOCK,), tl.float32)
    by_p = ()
    by_nll = ()
    for c in tl.static_range(C):
        by_tp = factor * tl.load(gradient + TP * gradient_ss).to(tl.float32)
        by_pred = factor * tl.load(gradient + PRED * gradient_ss).to(tl.float32)
        by_pred_sq = 2.0 * factor * tl.load(gradient + PRED_SQ * gradient_ss).to(tl.float32)
        by_pos = factor * tl.load(gradient + NLL_POS * gradient_ss).to(tl.float32)
        weight = weights[c if PER_CLASS else 0]
        g = targets[c] if DENSE else tl.where(targets[0] == c, 1.0, 0.0)
        p = powers[c] * inverse
        slope = weight * (by_tp * g + (by_pred_sq * p + by_pred))
        if SOFT:
            by_tp_sq = factor * tl.load(gradient + TP_SQ * gradient_ss).to(tl.float32)
            by_difference = factor * tl.load(gradient + DIFFERENCE * gradient_ss).to(tl.float32)
            slope += weight * soft_slope(p, g, by_tp_sq, by_difference)
        pull = weight * (by_pos * spread(g, smoothing, C))
        if gamma is not None:
            _factor, change = focal(p, log_total - shifted[c], gamma)
            pull = tl.where(pull == 0.0, 0.0, pull * change)
        gradient += gradient_sc
        shared += p * slope - pull
        by_p += (slope,)
        by_nll += (pull,)
    values = ()
    for c in tl.static_range(C):
        p = powers[c] * inverse
        values += (clean(used, p * (by_p[c] - shared) - by_nll[c]).to(dx.dtype.element_ty),)
    _store_classes(dx, values, dx_sc, dx_sv, start, lane, inside, voxels, C, ADD, CHUNK, BLOCK, TAIL)


@triton.jit
def region_bwd_kernel_softmax_few(
    x,
    target,
    mask,
    dx,
    gradient,
    scale,
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
    C: tl.constexpr,
    DENSE: tl.constexpr,
    PER_CLASS: tl.constexpr,
    SOFT: tl.constexpr,
    ADD: tl.constexpr,
    CHUNK: tl.constexpr,
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
    full_tiles = voxels // BLOCK
    for tile in range(program, full_tiles, programs):
        _gradient_tile(
            x, target, mask, dx, gradient, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, dx_sc, dx_sv,
            gradient_ss, gradient_sc, factor, tile, voxels, ignore_index, smoothing, gamma, C, DENSE, PER_CLASS,
            SOFT, ADD, CHUNK, BLOCK, False,
        )  # fmt: skip
    if (full_tiles * BLOCK < voxels) & (full_tiles % programs == program):
        _gradient_tile(
            x, target, mask, dx, gradient, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, dx_sc, dx_sv,
            gradient_ss, gradient_sc, factor, full_tiles, voxels, ignore_index, smoothing, gamma, C, DENSE, PER_CLASS,
            SOFT, ADD, CHUNK, BLOCK, True,
        )  # fmt: skip
