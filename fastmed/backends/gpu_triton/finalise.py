"""The second stage: partial sums combined in float64 in a fixed order, and the loss computed from them."""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import (
    HAS_INVALID,
    HAS_NLL_NEG,
    HAS_NLL_POS,
    HAS_PRED,
    HAS_PRED_SQ,
    HAS_TARGET,
    HAS_TARGET_SQ,
    HAS_TP,
    HAS_WEIGHT,
    INVALID,
    NLL_NEG,
    NLL_POS,
    PRED,
    PRED_SQ,
    STATISTICS,
    TARGET,
    TARGET_SQ,
    TP,
    WEIGHT,
)


@triton.jit
def _combine(partials, STATISTIC: tl.constexpr, rows, valid, total_rows, programs, PROGRAMS: tl.constexpr):
    """Sum over programs of the partial sums of a [samples, classes] tile of rows."""
    address = partials + (STATISTIC * total_rows + rows) * programs
    total = tl.zeros(rows.shape, tl.float64)
    for first in range(0, programs, PROGRAMS):
        program = first + tl.arange(0, PROGRAMS)
        tile = tl.load(
            address[:, :, None] + program[None, None, :],
            mask=valid[:, :, None] & (program < programs)[None, None, :],
            other=0.0,
        )
        total += tl.sum(tile.to(tl.float64), 2)
    return total


@triton.jit
def _rows(n, c, samples, classes):
    """Rows of the partial sums of a [samples, classes] tile, and which exist."""
    valid = (n < samples)[:, None] & (c < classes)[None, :]
    return n.to(tl.int64)[:, None] * classes + c[None, :], valid


@triton.jit
def _invalid(
    partials, n, samples, classes, invalid_classes, programs,
    WANTED: tl.constexpr, CLASSES: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """Labels out of range of each sample, [samples, 1]: those of a map lie with class 0, others with their own."""
    wrong = tl.zeros((n.shape[0], 1), tl.float64)
    if HAS_INVALID & WANTED:
        for first in range(0, invalid_classes, CLASSES):
            c = first + tl.arange(0, CLASSES)
            valid = (n < samples)[:, None] & (c < invalid_classes)[None, :]
            rows = n.to(tl.int64)[:, None] * classes + c[None, :]
            total_rows = tl.cast(samples, tl.int64) * classes
            wrong += tl.sum(_combine(partials, INVALID, rows, valid, total_rows, programs, PROGRAMS), 1)[:, None]
    return wrong


@triton.jit
def _statistic(
    source,
    tile,
    STATISTIC: tl.constexpr,
    HAS_STATISTIC: tl.constexpr,
    WANTED: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """One statistic of a tile of rows; those that the first stage left out follow from the others.

    Hard targets equal their squares, and without a mask every voxel has weight one.
    """
    partials, total_rows, programs, voxels = source
    rows, valid, poison = tile
    if HAS_STATISTIC & WANTED:
        total = _combine(partials, STATISTIC, rows, valid, total_rows, programs, PROGRAMS)
    elif STATISTIC == TARGET_SQ:
        total = _combine(partials, TARGET, rows, valid, total_rows, programs, PROGRAMS)
    elif STATISTIC == WEIGHT:
        total = tl.where(valid, tl.zeros(rows.shape, tl.float64) + voxels, 0.0)
    else:
        total = tl.zeros(rows.shape, tl.float64)
    return tl.where(poison, float("nan"), total)


@triton.jit
def region_fwd_kernel_combine(
    partials,
    sums,
    invalid,
    samples,
    classes,
    invalid_classes,
    programs,
    voxels,
    WANTED: tl.constexpr,
    SAMPLES: tl.constexpr,
    CLASSES: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """Stacked sums (STATISTICS, N, C) of a [samples, classes] tile, and labels out of range."""
    n = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    c = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
    rows, valid = _rows(n, c, samples, classes)
    total_rows = tl.cast(samples, tl.int64) * classes
    source = (partials, total_rows, programs, voxels)
    wrong = _invalid(partials, n, samples, classes, invalid_classes, programs, WANTED, CLASSES, PROGRAMS)
    tl.store(invalid + n[:, None], wrong.to(tl.int64), mask=(n < samples)[:, None])
    for statistic in tl.static_range(STATISTICS):
        total = _statistic(source, (rows, valid, wrong > 0), statistic, 1 << statistic, WANTED, PROGRAMS)
        tl.store(sums + statistic * total_rows + rows, total, mask=valid)


@triton.jit
def _load_class_weight(weight, weight_stride, c, classes):
    """Weights of a tile of classes, [1, classes], in float64; None stands for ones."""
    loaded = tl.full(c.shape, 1.0, tl.float64)
    if weight is not None:
        loaded = tl.load(weight + c * weight_stride, mask=c < classes, other=0.0).to(tl.float64)
    return loaded[None, :]


@triton.jit
def _reciprocal_or_zero(count):
    """Nothing valid: no loss, and no gradient."""
    return tl.where(count == 0.0, 0.0, 1.0 / tl.where(count == 0.0, 1.0, count))


@triton.jit
def _overlap(
    tp, pred, target, numerator_tp, denominator_tp, denominator_pred, denominator_target,
    smooth_numerator, smooth_denominator,
):  # fmt: skip
    """Overlap loss of each region, and its derivatives by tp and by pred; all 0 where the loss is 0 / 0."""
    denominator = denominator_tp * tp + denominator_pred * pred + denominator_target * target + smooth_denominator
    reciprocal = _reciprocal_or_zero(denominator)
    ratio = tl.where(denominator == 0.0, 1.0, (numerator_tp * tp + smooth_numerator) * reciprocal)
    by_tp = (denominator_tp * ratio - numerator_tp) * reciprocal
    return 1.0 - ratio, by_tp, denominator_pred * ratio * reciprocal


@triton.jit
def _pooled(statistic, valid):
    """Sum over the samples of a tile, [1, classes]."""
    return tl.sum(tl.where(valid, statistic, 0.0), 0)[None, :]


@triton.jit
def _balance(pos, neg, target, weight, BALANCE_POS: tl.constexpr, BALANCE_NEG: tl.constexpr):
    """Weights of positives and negatives times the share of the others, 0 where nothing is valid."""
    empty = weight == 0.0
    total = tl.where(empty, 1.0, weight)
    if BALANCE_POS:
        pos *= tl.where(empty, 0.0, (weight - target) / total)
    if BALANCE_NEG:
        neg *= tl.where(empty, 0.0, target / total)
    return pos, neg


@triton.jit
def finalise(
    partials, value, gradient, invalid, region_weight, region_weight_stride, pos_weight, pos_weight_stride,
    neg_weight, neg_weight_stride, numerator_tp, denominator_tp, denominator_pred, denominator_target,
    smooth_numerator, smooth_denominator, lambda_ratio, lambda_nll, samples, classes, invalid_classes, first_class,
    programs, voxels,
    RATIO: tl.constexpr, SQUARED: tl.constexpr, POOL: tl.constexpr, NLL: tl.constexpr, NLL_MEAN: tl.constexpr,
    MEAN: tl.constexpr, BALANCE_POS: tl.constexpr, BALANCE_NEG: tl.constexpr, WANTED: tl.constexpr,
    SAMPLES: tl.constexpr, CLASSES: tl.constexpr, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Loss value, its gradient by the stacked sums, and labels out of range, by one program."""
    total_rows = tl.cast(samples, tl.int64) * classes
    source = (partials, total_rows, programs, voxels)
    by_pred_row = gradient + (PRED_SQ if SQUARED else PRED) * total_rows
    by_tp_row = gradient + TP * total_rows
    by_pos_row = gradient + NLL_POS * total_rows
    by_neg_row = gradient + NLL_NEG * total_rows
    share = tl.zeros((1, 1), tl.float64) + lambda_ratio
    if MEAN:
        share /= (1 if POOL else samples) * (classes - first_class)
    total = tl.zeros((1, CLASSES), tl.float64)
    nll_total = tl.zeros((1, CLASSES), tl.float64)
    normaliser = tl.zeros((1, CLASSES), tl.float64)
    for first_c in range(0, classes, CLASSES):
        c = first_c + tl.arange(0, CLASSES)
        in_ratio = ((c >= first_class) & (c < classes))[None, :]
        weight = share * _load_class_weight(region_weight, region_weight_stride, c, classes)
        pooled_tp = tl.zeros((1, CLASSES), tl.float64)
        pooled_pred = tl.zeros((1, CLASSES), tl.float64)
        pooled_target = tl.zeros((1, CLASSES), tl.float64)
        nll_pos = tl.zeros((1, CLASSES), tl.float64)
        nll_neg = tl.zeros((1, CLASSES), tl.float64)
        positives = tl.zeros((1, CLASSES), tl.float64)
        valid_weight = tl.zeros((1, CLASSES), tl.float64)
        for first_n in range(0, samples, SAMPLES):
            n = first_n + tl.arange(0, SAMPLES)
            rows, valid = _rows(n, c, samples, classes)
            wrong = _invalid(partials, n, samples, classes, invalid_classes, programs, WANTED, CLASSES, PROGRAMS)
            tile = (rows, valid, wrong > 0)
            tl.store(invalid + n[:, None], wrong.to(tl.int64), mask=(n < samples)[:, None])
            if RATIO:
                tp = _statistic(source, tile, TP, HAS_TP, WANTED, PROGRAMS)
                if SQUARED:
                    pred = _statistic(source, tile, PRED_SQ, HAS_PRED_SQ, WANTED, PROGRAMS)
                    target = _statistic(source, tile, TARGET_SQ, HAS_TARGET_SQ, WANTED, PROGRAMS)
                else:
                    pred = _statistic(source, tile, PRED, HAS_PRED, WANTED, PROGRAMS)
                    target = _statistic(source, tile, TARGET, HAS_TARGET, WANTED, PROGRAMS)
                if POOL:
                    pooled_tp += _pooled(tp, valid)
                    pooled_pred += _pooled(pred, valid)
                    pooled_target += _pooled(target, valid)
                else:
                    overlap, by_tp, by_pred = _overlap(
                        tp, pred, target, numerator_tp, denominator_tp, denominator_pred, denominator_target,
                        smooth_numerator, smooth_denominator,
                    )  # fmt: skip
                    counted = valid & in_ratio
                    total += tl.sum(tl.where(counted, weight * overlap, 0.0), 0)[None, :]
                    tl.store(by_tp_row + rows, tl.where(counted, weight * by_tp, 0.0), mask=valid)
                    tl.store(by_pred_row + rows, tl.where(counted, weight * by_pred, 0.0), mask=valid)
            if NLL:
                nll_pos += _pooled(_statistic(source, tile, NLL_POS, HAS_NLL_POS, WANTED, PROGRAMS), valid)
                if HAS_NLL_NEG & WANTED:
                    nll_neg += _pooled(_statistic(source, tile, NLL_NEG, HAS_NLL_NEG, WANTED, PROGRAMS), valid)
                if (NLL_MEAN == "target") or BALANCE_POS or BALANCE_NEG:
                    positives += _pooled(_statistic(source, tile, TARGET, HAS_TARGET, WANTED, PROGRAMS), valid)
                if (NLL_MEAN != "target") or BALANCE_POS or BALANCE_NEG:
                    valid_weight += _pooled(_statistic(source, tile, WEIGHT, HAS_WEIGHT, WANTED, PROGRAMS), valid)
        if RATIO and POOL:
            overlap, by_tp, by_pred = _overlap(
                pooled_tp, pooled_pred, pooled_target, numerator_tp, denominator_tp, denominator_pred,
                denominator_target, smooth_numerator, smooth_denominator,
            )  # fmt: skip
            total += tl.where(in_ratio, weight * overlap, 0.0)
            by_tp = tl.where(in_ratio, weight * by_tp, 0.0)
            by_pred = tl.where(in_ratio, weight * by_pred, 0.0)
            for first_n in range(0, samples, SAMPLES):
                rows, valid = _rows(first_n + tl.arange(0, SAMPLES), c, samples, classes)
                tl.store(by_tp_row + rows, tl.broadcast_to(by_tp, rows.shape), mask=valid)
                tl.store(by_pred_row + rows, tl.broadcast_to(by_pred, rows.shape), mask=valid)
        if NLL:
            pos = _load_class_weight(pos_weight, pos_weight_stride, c, classes)
            neg = _load_class_weight(neg_weight, neg_weight_stride, c, classes)
            pos, neg = _balance(pos, neg, positives, valid_weight, BALANCE_POS, BALANCE_NEG)
            count = pos * positives if NLL_MEAN == "target" else valid_weight
            if MEAN and (NLL_MEAN == "task"):
                each = _reciprocal_or_zero(count * classes)
                pos *= each
                neg *= each
            normaliser += tl.where((c < classes)[None, :], count, 0.0)
            nll_total += tl.where((c < classes)[None, :], pos * nll_pos + neg * nll_neg, 0.0)
            if not (HAS_NLL_NEG & WANTED):
                neg = tl.zeros((1, CLASSES), tl.float64)
            for first_n in range(0, samples, SAMPLES):
                rows, valid = _rows(first_n + tl.arange(0, SAMPLES), c, samples, classes)
                tl.store(by_pos_row + rows, tl.broadcast_to(lambda_nll * pos, rows.shape), mask=valid)
                tl.store(by_neg_row + rows, tl.broadcast_to(lambda_nll * neg, rows.shape), mask=valid)
    by_nll = tl.zeros((), tl.float64)
    if NLL:
        by_nll += 1.0
        if MEAN and (NLL_MEAN != "task"):
            count = tl.sum(tl.sum(normaliser, 1), 0)
            by_nll = _reciprocal_or_zero(count / classes if NLL_MEAN == "voxels" else count)
    tl.store(value, tl.sum(tl.sum(total, 1), 0) + lambda_nll * by_nll * tl.sum(tl.sum(nll_total, 1), 0))
    # Other threads wrote the weights of the nll that are now divided by the normaliser.
    tl.debug_barrier()
    for first in range(0, total_rows, BLOCK):
        row = first + tl.arange(0, BLOCK)
        valid = row < total_rows
        zero = tl.zeros((BLOCK,), tl.float64)
        if not RATIO:
            tl.store(by_tp_row + row, zero, mask=valid)
            tl.store(by_pred_row + row, zero, mask=valid)
        tl.store(gradient + (PRED if SQUARED else PRED_SQ) * total_rows + row, zero, mask=valid)
        tl.store(gradient + TARGET * total_rows + row, zero, mask=valid)
        tl.store(gradient + TARGET_SQ * total_rows + row, zero, mask=valid)
        tl.store(gradient + WEIGHT * total_rows + row, zero, mask=valid)
        if NLL:
            by_pos = by_nll * tl.load(by_pos_row + row, mask=valid, other=0.0).to(tl.float64)
            by_neg = by_nll * tl.load(by_neg_row + row, mask=valid, other=0.0).to(tl.float64)
            tl.store(by_pos_row + row, by_pos, mask=valid)
            tl.store(by_neg_row + row, by_neg, mask=valid)
        else:
            tl.store(by_pos_row + row, zero, mask=valid)
            tl.store(by_neg_row + row, zero, mask=valid)


@triton.jit
def region_fwd_kernel_finalise(
    partials,
    value,
    gradient,
    invalid,
    region_weight,
    region_weight_stride,
    pos_weight,
    pos_weight_stride,
    neg_weight,
    neg_weight_stride,
    numerator_tp,
    denominator_tp,
    denominator_pred,
    denominator_target,
    smooth_numerator,
    smooth_denominator,
    lambda_ratio,
    lambda_nll,
    samples,
    classes,
    invalid_classes,
    first_class,
    programs,
    voxels,
    RATIO: tl.constexpr,
    SQUARED: tl.constexpr,
    POOL: tl.constexpr,
    NLL: tl.constexpr,
    NLL_MEAN: tl.constexpr,
    MEAN: tl.constexpr,
    BALANCE_POS: tl.constexpr,
    BALANCE_NEG: tl.constexpr,
    WANTED: tl.constexpr,
    SAMPLES: tl.constexpr,
    CLASSES: tl.constexpr,
    PROGRAMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The second stage on its own."""
    finalise(
        partials, value, gradient, invalid, region_weight, region_weight_stride, pos_weight, pos_weight_stride,
        neg_weight, neg_weight_stride, numerator_tp, denominator_tp, denominator_pred, denominator_target,
        smooth_numerator, smooth_denominator, lambda_ratio, lambda_nll, samples, classes, invalid_classes,
        first_class, programs, voxels, RATIO, SQUARED, POOL, NLL, NLL_MEAN, MEAN, BALANCE_POS, BALANCE_NEG, WANTED,
        SAMPLES, CLASSES, PROGRAMS, BLOCK,
    )  # fmt: skip
