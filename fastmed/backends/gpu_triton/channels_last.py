"""Classes apart from one another where those of a voxel are neighbours in memory: tables, and channels-last volumes.

A tile is [voxels, classes], read in the order of the memory. A table small enough for one program has its loss in the
same launch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .finalise import finalise
from .primitives import (
    HAS_INVALID,
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
    TARGET,
    TARGET_SQ,
    TP,
    WEIGHT,
    clean,
    load_weight,
    put,
    store_optional,
)
from .sigmoid import accumulate, load_coefficients, log_growth, no_sums, read_target, slope


@triton.jit
def _load_tile(
    x, target, mask, uncertain, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, v, c, voxels, classes,
    ignore_index,
):  # fmt: skip
    """Logits, target, weight, where a label is out of range, and which elements exist."""
    inside = (v < voxels)[:, None] & (c < classes)[None, :]
    v = v.to(tl.int64)[:, None]
    c = c[None, :]
    logits = tl.load(x + v * x_sv + c * x_sc, mask=inside, other=0).to(tl.float32)
    labels = tl.load(target + v * target_sv + c * target_sc, mask=inside, other=0)
    kept = inside & (labels != ignore_index) if ignore_index is not None else inside
    weight = load_weight(mask, v * mask_sv + c * mask_sc, 1, inside, kept)
    # Lanes beyond the last class must not read beyond the last policy either.
    known = tl.where(c < classes, c, 0)
    dense, weight, wrong = read_target(labels, weight, known, classes, uncertain, True)
    return clean(weight, logits), clean(weight, dense), weight, kept & wrong, inside


@triton.jit
def _sum_block(
    x, target, mask, uncertain, partials, classes, voxels, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv,
    ignore_index, smoothing, gamma, c, program, programs, rows,
    SIGMOID: tl.constexpr, HARD: tl.constexpr, WANTED: tl.constexpr, VOXELS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Partial sums of a block of classes over every `programs`-th tile of one sample."""
    zero = tl.zeros((VOXELS, CLASSES), tl.float32)
    sums = no_sums(zero)
    for tile in range(program, tl.cdiv(voxels, VOXELS), programs):
        v = tile * VOXELS + tl.arange(0, VOXELS)
        logits, dense, weight, wrong, _inside = _load_tile(
            x, target, mask, uncertain, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, v, c, voxels, classes,
            ignore_index,
        )  # fmt: skip
        sums = accumulate(sums, logits, dense, weight, wrong, smoothing, gamma, SIGMOID, HARD, WANTED)
    tp, pred, pred_sq, tgt, tgt_sq, pos, neg, growth_pos, growth_neg, wgt, invalid, soft, counts = sums
    # partials: (statistic, sample and class, program)
    partials += c * programs + program
    valid = c < classes
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
        tl.store(partials + NLL_POS * rows, tl.sum(pos + log_growth(growth_pos), 0), mask=valid)
        tl.store(partials + NLL_NEG * rows, tl.sum(neg + log_growth(growth_neg), 0), mask=valid)
    if HAS_INVALID & WANTED:
        tl.store(partials + INVALID * rows, tl.sum(invalid, 0), mask=valid)
    store_optional(partials, rows, soft, counts, valid, 0, WANTED)


@triton.jit
def region_fwd_kernel_channels_last(
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
    HARD: tl.constexpr,
    WANTED: tl.constexpr,
    VOXELS: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """Partial sums of one sample and block of classes over every `num_programs(1)`-th tile."""
    row = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(classes, CLASSES)
    n = row // blocks
    c = (row % blocks).to(tl.int32) * CLASSES + tl.arange(0, CLASSES)
    programs = tl.num_programs(1)
    samples = tl.num_programs(0) // blocks
    _sum_block(
        x + n * x_sn, target + n * target_sn, mask + n * mask_sn if mask is not None else None, uncertain,
        partials + n * classes * programs, classes, voxels, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv,
        ignore_index, smoothing, gamma, c, tl.program_id(1), programs, tl.cast(samples, tl.int64) * classes * programs,
        SIGMOID, HARD, WANTED, VOXELS, CLASSES,
    )  # fmt: skip


@triton.jit
def region_fwd_kernel_table(
    x,
    target,
    mask,
    uncertain,
    partials,
    classes,
    voxels,
    x_sc,
    x_sv,
    target_sc,
    target_sv,
    mask_sc,
    mask_sv,
    ignore_index,
    smoothing,
    gamma,
    value,
    gradient,
    invalid,
    pos_weight,
    pos_weight_stride,
    neg_weight,
    neg_weight_stride,
    lambda_nll,
    SIGMOID: tl.constexpr,
    HARD: tl.constexpr,
    WANTED: tl.constexpr,
    VOXELS: tl.constexpr,
    CLASSES: tl.constexpr,
    NLL_MEAN: tl.constexpr,
    MEAN: tl.constexpr,
    BALANCE_POS: tl.constexpr,
    BALANCE_NEG: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Cross entropy of a table, its gradient by the stacked sums, and labels out of range: all by one program."""
    for first in range(0, classes, CLASSES):
        _sum_block(
            x, target, mask, uncertain, partials, classes, voxels, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv,
            ignore_index, smoothing, gamma, first + tl.arange(0, CLASSES), 0, 1, tl.cast(classes, tl.int64),
            SIGMOID, HARD, WANTED, VOXELS, CLASSES,
        )  # fmt: skip
    # Other threads wrote the sums that are now read.
    tl.debug_barrier()
    finalise(
        partials, value, gradient, invalid, None, 0, pos_weight, pos_weight_stride, neg_weight, neg_weight_stride,
        0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, lambda_nll, 1, classes, classes, 0, 1, voxels,
        False, False, False, True, NLL_MEAN, MEAN, BALANCE_POS, BALANCE_NEG, WANTED, 1, CLASSES, 1, BLOCK,
    )  # fmt: skip


@triton.jit
def region_bwd_kernel_channels_last(
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
    SOFT: tl.constexpr,
    ADD: tl.constexpr,
    VOXELS: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """Gradient of one sample and block of classes over every `num_programs(1)`-th tile."""
    row = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(classes, CLASSES)
    n = row // blocks
    c = (row % blocks).to(tl.int32) * CLASSES + tl.arange(0, CLASSES)
    x += n * x_sn
    dx += n * dx_sn
    target += n * target_sn
    if mask is not None:
        mask += n * mask_sn
    factor = 1.0
    if scale is not None:
        factor = tl.load(scale).to(tl.float32)
    gradient += n * gradient_sn
    coefficients = load_coefficients(
        gradient + (c * gradient_sc)[None, :], gradient_ss, factor, (c < classes)[None, :], SOFT
    )  # fmt: skip
    for tile in range(tl.program_id(1), tl.cdiv(voxels, VOXELS), tl.num_programs(1)):
        v = tile * VOXELS + tl.arange(0, VOXELS)
        logits, dense, weight, _wrong, inside = _load_tile(
            x, target, mask, uncertain, x_sc, x_sv, target_sc, target_sv, mask_sc, mask_sv, v, c, voxels, classes,
            ignore_index,
        )  # fmt: skip
        by_logits = slope(logits, dense, weight, smoothing, gamma, coefficients, SIGMOID, SOFT)
        put(dx + v.to(tl.int64)[:, None] * dx_sv + c[None, :] * dx_sc, by_logits, inside, ADD)
