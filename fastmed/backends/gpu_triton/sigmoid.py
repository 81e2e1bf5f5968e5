"""Classes apart from one another: the sigmoid of each logit, or probabilities as they are."""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import (
    DIFFERENCE,
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
    NLL_NEG,
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
    load,
    load_labels,
    load_weight,
    log1p,
    log2,
    put,
    reciprocal,
    soft_slope,
    store_optional,
    tile_range,
)


@triton.jit
def read_target(labels, weight, c, classes, uncertain, DENSE: tl.constexpr):
    """Target in [0, 1], weight without what is missing, and which labels are out of range."""
    if DENSE:
        target = labels.to(tl.float32)
        wrong = (weight != 0.0) & False
        if uncertain is not None:
            target = tl.where(target == -1.0, tl.load(uncertain + c), target)
            wrong = (weight != 0.0) & ((target < 0.0) | (target > 1.0))
            weight = tl.where(target == target, weight, 0.0)
    else:
        target = tl.where(labels == c, 1.0, 0.0)
        wrong = (labels < 0) | (labels >= classes)
    return target, weight, wrong


@triton.jit
def _load_elements(
    x,
    target,
    mask,
    uncertain,
    x_sv,
    target_sv,
    mask_sv,
    start,
    lane,
    inside,
    c,
    classes,
    ignore_index,
    DENSE: tl.constexpr,
):
    """Logits, target and weight of one tile, and where a label is out of range."""
    logits = load(x + start * x_sv, lane, x_sv, inside).to(tl.float32)
    if DENSE:
        labels = load(target + start * target_sv, lane, target_sv, inside)
    else:
        labels = load_labels(target + start * target_sv, lane, target_sv, inside)
    kept = inside & (labels != ignore_index) if ignore_index is not None else inside
    weight = load_weight(mask + start * mask_sv if mask is not None else None, lane, mask_sv, inside, kept)
    dense, weight, wrong = read_target(labels, weight, c, classes, uncertain, DENSE)
    return clean(weight, logits), clean(weight, dense), weight, kept & wrong


@triton.jit
def sigmoid(logits):
    """The sigmoid, its complement, and exp(-abs(logits))."""
    decay = tl.exp2(tl.abs(logits) * -LOG2_E)
    larger = reciprocal(1.0 + decay)
    smaller = decay * larger
    return tl.where(logits >= 0.0, larger, smaller), tl.where(logits >= 0.0, smaller, larger), decay


@triton.jit
def accumulate(
    sums, logits, target, weight, wrong, smoothing, gamma,
    SIGMOID: tl.constexpr, HARD: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    """Adds one tile to the sums, one accumulator for each element of the tile."""
    tp, pred, pred_sq, tgt, tgt_sq, pos, neg, growth_pos, growth_neg, wgt, invalid, soft, counts = sums
    if SIGMOID:
        p, _, decay = sigmoid(logits)
    else:
        p = logits
    soft = add_soft(soft, p, target, weight, WANTED)
    counts = add_hard(counts, logits > (0.0 if SIGMOID else 0.5), target > 0.5, weight, WANTED)
    weighted_p = weight * p
    weighted_target = weight * target
    if HAS_TP & WANTED:
        tp += weighted_p * target
    if HAS_PRED & WANTED:
        pred += weighted_p
    if HAS_PRED_SQ & WANTED:
        pred_sq += weighted_p * p
    if HAS_TARGET & WANTED:
        tgt += weighted_target
    if HAS_TARGET_SQ & WANTED:
        tgt_sq += weighted_target * target
    if HAS_WEIGHT & WANTED:
        wgt += weight
    if HAS_NLL_POS & WANTED:
        positive = weighted_target
        if smoothing is not None:
            positive += smoothing * (0.5 * weight - weighted_target)
        opposite = weight - positive
        falling = tl.maximum(-logits, 0.0)
        rising = tl.maximum(logits, 0.0)
        if HARD:
            # The sum of log(1 + t) is the log of the product of (1 + t), kept as the product
            # minus one so that small t do not drown. Each factor is at most 2 and a program
            # visits at most 64 tiles.
            pos += positive * falling
            neg += opposite * rising
            factor = positive * decay
            growth_pos = growth_pos * factor + (growth_pos + factor)
            factor = opposite * decay
            growth_neg = growth_neg * factor + (growth_neg + factor)
        else:
            softplus = log1p(decay)
            falling += softplus
            rising += softplus
            if gamma is not None:
                # (1 - p)^gamma and p^gamma: 1 - p = exp(-softplus(x)).
                pos += positive * falling * tl.exp2(rising * (gamma * -LOG2_E))
                neg += opposite * rising * tl.exp2(falling * (gamma * -LOG2_E))
            else:
                pos += positive * falling
                neg += opposite * rising
    if HAS_INVALID & WANTED:
        invalid = tl.where(wrong, invalid + 1.0, invalid)
    return tp, pred, pred_sq, tgt, tgt_sq, pos, neg, growth_pos, growth_neg, wgt, invalid, soft, counts


@triton.jit
def no_sums(zero):
    """What `accumulate` begins with."""
    return zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, (zero, zero), (zero, zero, zero, zero)


@triton.jit
def log_growth(growth):
    """log(1 + growth) for growth >= 0, exact also where growth is small."""
    return tl.where(growth > 1.0, log2(1.0 + growth) * LN_2, log1p(tl.minimum(growth, 1.0)))


@triton.jit
def region_fwd_kernel_sigmoid(
    x,
    target,
    mask,
    uncertain,
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
    SIGMOID: tl.constexpr,
    DENSE: tl.constexpr,
    HARD: tl.constexpr,
    WANTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Partial sums of one sample and class over every `num_programs(1)`-th tile."""
    row = tl.program_id(0).to(tl.int64)
    program = tl.program_id(1)
    programs = tl.num_programs(1)
    n = row // classes
    c = row % classes
    x += n * x_sn + c * x_sc
    target += n * target_sn + c * target_sc
    if mask is not None:
        mask += n * mask_sn + c * mask_sc
    zero = tl.zeros((BLOCK,), tl.float32)
    sums = no_sums(zero)
    full_tiles = voxels // BLOCK
    for tile in range(program, full_tiles, programs):
        start, lane, inside = tile_range(tile, voxels, BLOCK, False)
        logits, dense, weight, wrong = _load_elements(
            x, target, mask, uncertain, x_sv, target_sv, mask_sv, start, lane, inside, c, classes, ignore_index, DENSE
        )
        sums = accumulate(sums, logits, dense, weight, wrong, smoothing, gamma, SIGMOID, HARD, WANTED)
    if (full_tiles * BLOCK < voxels) & (full_tiles % programs == program):
        start, lane, inside = tile_range(full_tiles, voxels, BLOCK, True)
        logits, dense, weight, wrong = _load_elements(
            x, target, mask, uncertain, x_sv, target_sv, mask_sv, start, lane, inside, c, classes, ignore_index, DENSE
        )
        sums = accumulate(sums, logits, dense, weight, wrong, smoothing, gamma, SIGMOID, HARD, WANTED)
    tp, pred, pred_sq, tgt, tgt_sq, pos, neg, growth_pos, growth_neg, wgt, invalid, soft, counts = sums
    # partials: (statistic, sample and class, program)
    rows = tl.num_programs(0).to(tl.int64) * programs
    partials += row * programs + program
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
        tl.store(partials + NLL_POS * rows, tl.sum(pos + log_growth(growth_pos), 0))
        tl.store(partials + NLL_NEG * rows, tl.sum(neg + log_growth(growth_neg), 0))
    if HAS_INVALID & WANTED:
        tl.store(partials + INVALID * rows, tl.sum(invalid, 0))
    store_optional(partials, rows, soft, counts, None, 0, WANTED)


@triton.jit
def load_coefficients(gradient, gradient_ss, factor, valid, SOFT: tl.constexpr):
    """Gradients by the sums of a class or a block of classes; those of soft statistics are 0 if there are none."""
    by_tp = factor * tl.load(gradient + TP * gradient_ss, mask=valid).to(tl.float32)
    by_pred = factor * tl.load(gradient + PRED * gradient_ss, mask=valid).to(tl.float32)
    by_pred_sq = factor * tl.load(gradient + PRED_SQ * gradient_ss, mask=valid).to(tl.float32)
    by_pos = factor * tl.load(gradient + NLL_POS * gradient_ss, mask=valid).to(tl.float32)
    by_neg = factor * tl.load(gradient + NLL_NEG * gradient_ss, mask=valid).to(tl.float32)
    by_tp_sq = 0.0
    by_difference = 0.0
    if SOFT:
        by_tp_sq = factor * tl.load(gradient + TP_SQ * gradient_ss, mask=valid).to(tl.float32)
        by_difference = factor * tl.load(gradient + DIFFERENCE * gradient_ss, mask=valid).to(tl.float32)
    return by_tp, by_pred, by_pred_sq, by_pos, by_neg, by_tp_sq, by_difference


@triton.jit
def slope(logits, target, weight, smoothing, gamma, coefficients, SIGMOID: tl.constexpr, SOFT: tl.constexpr):
    """The gradient of a tile of logits from those of the sums, zero where nothing has weight."""
    by_tp, by_pred, by_pred_sq, by_pos, by_neg, by_tp_sq, by_difference = coefficients
    if SIGMOID:
        p, complement, decay = sigmoid(logits)
        positive = target
        if smoothing is not None:
            positive += smoothing * (0.5 - target)
        pos = -complement
        neg = p
        if gamma is not None:
            softplus = log1p(decay)
            falling = tl.maximum(-logits, 0.0) + softplus
            rising = tl.maximum(logits, 0.0) + softplus
            pos = -tl.exp2(rising * (gamma * -LOG2_E)) * (p * falling * gamma + complement)
            neg = tl.exp2(falling * (gamma * -LOG2_E)) * (complement * rising * gamma + p)
        by_p = by_tp * target + (2.0 * by_pred_sq * p + by_pred)
        if SOFT:
            by_p += soft_slope(p, target, by_tp_sq, by_difference)
        gradient = p * complement * by_p + (by_neg * neg * (1.0 - positive) + by_pos * pos * positive)
    else:
        gradient = by_tp * target + (2.0 * by_pred_sq * logits + by_pred)
        if SOFT:
            gradient += soft_slope(logits, target, by_tp_sq, by_difference)
    return clean(weight, weight * gradient)


@triton.jit
def _gradient_tile(
    x, target, mask, uncertain, dx, x_sv, target_sv, mask_sv, dx_sv, tile, voxels, c, classes, ignore_index,
    smoothing, gamma, coefficients,
    SIGMOID: tl.constexpr, DENSE: tl.constexpr, SOFT: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr,
    TAIL: tl.constexpr,
):  # fmt: skip
    start, lane, inside = tile_range(tile, voxels, BLOCK, TAIL)
    logits, dense, weight, _ = _load_elements(
        x, target, mask, uncertain, x_sv, target_sv, mask_sv, start, lane, inside, c, classes, ignore_index, DENSE
    )
    gradient = slope(logits, dense, weight, smoothing, gamma, coefficients, SIGMOID, SOFT)
    put(dx + start * dx_sv + lane * dx_sv, gradient, inside, ADD)


@triton.jit
def region_bwd_kernel_sigmoid(
    x,
    target,
    mask,
    uncertain,
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
    SIGMOID: tl.constexpr,
    DENSE: tl.constexpr,
    SOFT: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradient of one sample and class over every `num_programs(1)`-th tile."""
    row = tl.program_id(0).to(tl.int64)
    program = tl.program_id(1)
    programs = tl.num_programs(1)
    n = row // classes
    c = row % classes
    x += n * x_sn + c * x_sc
    dx += n * dx_sn + c * dx_sc
    target += n * target_sn + c * target_sc
    if mask is not None:
        mask += n * mask_sn + c * mask_sc
    gradient += n * gradient_sn + c * gradient_sc
    factor = 1.0
    if scale is not None:
        factor = tl.load(scale).to(tl.float32)
    coefficients = load_coefficients(gradient, gradient_ss, factor, None, SOFT)
    full_tiles = voxels // BLOCK
    for tile in range(program, full_tiles, programs):
        _gradient_tile(
            x, target, mask, uncertain, dx, x_sv, target_sv, mask_sv, dx_sv, tile, voxels, c, classes, ignore_index,
            smoothing, gamma, coefficients, SIGMOID, DENSE, SOFT, ADD, BLOCK, False,
        )  # fmt: skip
    if (full_tiles * BLOCK < voxels) & (full_tiles % programs == program):
        _gradient_tile(
            x, target, mask, uncertain, dx, x_sv, target_sv, mask_sv, dx_sv, full_tiles, voxels, c, classes,
            ignore_index, smoothing, gamma, coefficients, SIGMOID, DENSE, SOFT, ADD, BLOCK, True,
        )  # fmt: skip
