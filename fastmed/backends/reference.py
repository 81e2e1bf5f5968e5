"""Plain torch on any device: the oracle for every other backend, float64 included."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..contract import (
    DIFFERENCE,
    EXTRA_COLUMNS,
    HARD_PRED,
    HARD_TARGET,
    HARD_TOTAL,
    HARD_TP,
    NLL_NEG,
    NLL_POS,
    PRED,
    PRED_SQ,
    STATISTICS,
    TARGET,
    TARGET_SQ,
    TP,
    TP_SQ,
    WEIGHT,
    Bins,
    CountInput,
    RegionInput,
    Request,
    Scored,
    Wanted,
)


def unavailable_reason() -> str | None:
    """Never: it needs torch alone."""
    return None


def unsupported_reasons(request: Request) -> list[str]:
    """Any type and device that torch computes with."""
    return []


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _sum_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Targets (N, C, V); a label out of range has no class."""
    classes = torch.arange(num_classes, device=labels.device)
    return (labels.unsqueeze(1) == classes.view(1, -1, 1)).to(dtype)


class _Expanded(NamedTuple):
    """Logits, dense target and weights (N, C, V), removed voxels zeroed; where logits were; labels out of range."""

    logits: Tensor
    target: Tensor
    weight: Tensor
    removed: Tensor
    invalid: Tensor


def _expand(operands: RegionInput) -> _Expanded:
    input, target, mask, activation, ignore_index, uncertain = operands[:6]
    dtype = _compute_dtype(input.dtype)
    classes = input.shape[1]
    logits = input.to(dtype)
    weight = torch.ones((), dtype=dtype, device=input.device) if mask is None else mask.to(dtype)
    invalid = torch.zeros(input.shape[0], dtype=torch.int64, device=input.device)
    if operands.is_dense:
        dense = target.to(dtype)
        kept = torch.ones_like(dense, dtype=torch.bool) if ignore_index is None else target != ignore_index
        if uncertain is not None:
            dense = torch.where(dense == -1, uncertain.to(dtype).view(1, -1, 1), dense)
            invalid = (kept & (weight != 0) & ((dense < 0) | (dense > 1))).sum((1, 2))
            kept = kept & ~dense.isnan()
        weight = weight * kept
    else:
        # torch compares few of the unsigned types.
        target = target.to(torch.int64)
        dense = _one_hot(target, classes, dtype)
        wrong = (target < 0) | (target >= classes)
        if ignore_index is not None:
            wrong &= target != ignore_index
            weight = weight * (target != ignore_index).unsqueeze(1)
        invalid = wrong.sum(1)
    weight = weight.expand_as(logits)
    without_weight = weight == 0
    # A softmax needs the logit of a class without weight as long as another class of the voxel has some.
    removed = without_weight.all(1, keepdim=True) if activation == "softmax" else without_weight
    dense = dense.masked_fill(without_weight, 0.0)
    return _Expanded(logits.masked_fill(removed, 0.0), dense, weight, removed, invalid)


def _activate(logits: Tensor, activation: str) -> Tensor:
    if activation == "sigmoid":
        return torch.sigmoid(logits)
    return torch.softmax(logits, 1) if activation == "softmax" else logits


def _smoothed(target: Tensor, operands: RegionInput) -> Tensor:
    outcomes = target.shape[1] if operands.activation == "softmax" else 2
    return (1.0 - operands.label_smoothing) * target + operands.label_smoothing / outcomes


def _hard_prediction(logits: Tensor, pred: Tensor, activation: str) -> Tensor:
    """Whether each class is predicted, (N, C, V); none is where a probability is NaN."""
    if activation == "softmax":
        # torch takes a NaN for the largest.
        return _one_hot(logits.argmax(1), logits.shape[1], torch.bool) & ~pred.isnan()
    return logits > (0.0 if activation == "sigmoid" else 0.5)


def _focal_factor(log_pred: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma from log p, without cancellation next to p = 1."""
    return (-torch.expm1(log_pred)) ** gamma


def _power(logarithm: Tensor, gamma: float) -> Tensor:
    """A probability to the power of gamma, from its logarithm; 1 at gamma 0, of an infinite logarithm too."""
    return torch.exp(gamma * logarithm) if gamma else torch.ones_like(logarithm)


def differentiable_sums(operands: RegionInput, wanted: Wanted) -> tuple[Tensor, Tensor]:
    """`region_sums` composed of torch operators that autograd follows: the definition of the statistics."""
    logits, target, weight, _, invalid = _expand(operands)
    pred = _activate(logits, operands.activation)
    rows = [torch.zeros_like(pred)] * STATISTICS
    rows[TP] = weight * pred * target
    rows[PRED] = weight * pred
    rows[PRED_SQ] = weight * pred * pred
    rows[TARGET] = weight * target
    rows[TARGET_SQ] = weight * target * target
    rows[WEIGHT] = weight
    if wanted.soft:
        rows[TP_SQ] = weight * pred * pred * target
        rows[DIFFERENCE] = weight * (pred - target).abs()
    if wanted.hard:
        counted = weight != 0
        in_pred, in_target = _hard_prediction(logits, pred, operands.activation) & counted, (target > 0.5) & counted
        rows[HARD_TP], rows[HARD_PRED], rows[HARD_TARGET] = in_pred & in_target, in_pred, in_target
        rows[HARD_TOTAL] = counted
    if wanted.nll and operands.activation == "sigmoid":
        smoothed = _smoothed(target, operands)
        # The focal factors (1 - p)^gamma and p^gamma, from logarithms that do not cancel.
        log_pos, log_neg = F.logsigmoid(logits), F.logsigmoid(-logits)
        rows[NLL_POS] = -weight * smoothed * _power(log_neg, operands.gamma) * log_pos
        rows[NLL_NEG] = -weight * (1.0 - smoothed) * _power(log_pos, operands.gamma) * log_neg
    elif wanted.nll and operands.activation == "softmax":
        log_pred, share = torch.log_softmax(logits, 1), weight * _smoothed(target, operands)
        if operands.gamma:
            share = share * _focal_factor(log_pred, operands.gamma)
        # 0 * inf would be NaN where a class has probability zero and is not the target.
        rows[NLL_POS] = torch.where(share == 0, 0.0, -share * log_pred)
    stacked = torch.stack([row.sum(-1, dtype=_sum_dtype(row.device)) for row in rows])
    return stacked.masked_fill((invalid > 0).view(1, -1, 1), torch.nan), invalid


def region_sums(operands: RegionInput, wanted: Wanted) -> tuple[Tensor, Tensor]:
    """See `Backend.region_sums`."""
    return differentiable_sums(operands, wanted)


def region_sums_backward(
    operands: RegionInput, gradient: Tensor, scale: Tensor | None, into: Tensor | None = None
) -> Tensor:
    """See `Backend.region_sums_backward`."""
    logits, target, weight, removed, _ = _expand(operands)
    pred = _activate(logits, operands.activation)
    coefficients = gradient.to(logits.dtype) if scale is None else (gradient * scale).to(logits.dtype)
    tp, by_pred, by_sq, _, _, pos, neg, _, *soft = coefficients.unsqueeze(-1).unbind(0)
    by_p = weight * (tp * target + by_pred + 2.0 * by_sq * pred)
    if soft:
        tp_sq, difference = soft
        by_p = by_p + weight * (2.0 * tp_sq * target * pred + difference * torch.sign(pred - target))
    if operands.activation == "none":
        grad_input = by_p
    elif operands.activation == "sigmoid":
        smoothed, gamma = _smoothed(target, operands), operands.gamma
        other = torch.sigmoid(-logits)
        by_pos, by_neg = -other, pred
        if gamma:
            log_pos, log_neg = F.logsigmoid(logits), F.logsigmoid(-logits)
            by_pos = torch.exp(gamma * log_neg) * (gamma * pred * log_pos - other)
            by_neg = torch.exp(gamma * log_pos) * (pred - gamma * other * log_neg)
        grad_input = pred * other * by_p + weight * (pos * smoothed * by_pos + neg * (1.0 - smoothed) * by_neg)
    else:
        by_nll = weight * pos * _smoothed(target, operands)
        if operands.gamma:
            log_pred = torch.log_softmax(logits, 1)
            factor = _focal_factor(log_pred, operands.gamma)
            # log p / (1 - p) tends to -1 as p tends to 1.
            others = -torch.expm1(log_pred)
            ratio = torch.where(others == 0, -1.0, log_pred / torch.where(others == 0, 1.0, others))
            slope = factor * (1.0 - operands.gamma * pred * ratio)
            by_nll = torch.where(by_nll == 0, 0.0, by_nll * slope)
        grad_input = pred * (by_p - (pred * by_p).sum(1, keepdim=True) + by_nll.sum(1, keepdim=True)) - by_nll
    grad_input = grad_input.masked_fill(removed, 0.0)
    return torch.empty_like(operands.input).copy_(grad_input) if into is None else into.add_(grad_input)


def _rows_and_columns(operands: CountInput) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column of each voxel in its table, and whether it is counted at all."""
    input, target, mask, _, threshold, ignore_index = operands[:6]
    kept = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
    if threshold is None:
        rows = target.to(torch.int64)
        columns = input.argmax(1) if input.ndim == 3 else input.to(torch.int64)
    else:
        # An unsigned label cannot be -1, and a large one stays out of range.
        rows = target.to(threshold.dtype)
        columns = (input.to(threshold.dtype) > threshold.view(1, -1, 1)).to(torch.int64)
        kept = kept & ~rows.isnan() & (rows != -1)
    return rows, columns, kept if ignore_index is None else kept & (rows != ignore_index)


def confusion_counts(operands: CountInput) -> tuple[Tensor, Tensor]:
    """See `Backend.confusion_counts`."""
    rows, columns, kept = _rows_and_columns(operands)
    size = operands.num_classes if operands.threshold is None else 2
    labels = torch.arange(size, device=rows.device)
    # Rows of a multi-label target may be fractions.
    valid = torch.isin(rows, labels.to(rows.dtype)) & (columns >= 0) & (columns < size)
    shape = operands.counts_shape
    samples = 1 if operands.pooled else rows.shape[0]
    by_channel = operands.num_classes if rows.ndim == 3 else 1
    tables = torch.arange(samples * by_channel, device=rows.device).view(samples, *rows.shape[1:-1], 1)
    counted = kept & valid
    cells = (tables * size + rows.masked_fill(~counted, 0).to(torch.int64)) * size + columns
    counts = torch.bincount(cells[counted], minlength=math.prod(shape)).view(shape)
    invalid = (kept & ~valid).flatten(1).sum(1)
    return counts, invalid.sum(0, keepdim=True) if operands.pooled else invalid


class _Labelled(NamedTuple):
    """Which labels (N, T, V) are negative and which positive, and labels out of range, int64 (T,)."""

    negative: Tensor
    positive: Tensor
    invalid: Tensor


def _labelled(operands: Scored) -> _Labelled:
    target, mask = operands.target, operands.mask
    if not target.is_floating_point():
        # torch compares few of the unsigned types.
        target = target.to(torch.int64)
    negative, positive = target == 0, target == 1
    invalid = ~(negative | positive | target.isnan() | (target == -1))
    if mask is not None:
        negative, positive, invalid = negative & mask, positive & mask, invalid & mask
    return _Labelled(negative, positive, invalid.sum((0, 2)))


def _transformed(scores: Tensor, transform: str) -> Tensor:
    if transform == "sigmoid":
        return torch.sigmoid(scores)
    return torch.logit(scores.clamp(0.0, 1.0)) if transform == "logit" else scores


def score_histogram(operands: Scored, bins: Bins) -> tuple[Tensor, Tensor]:
    """See `Backend.score_histogram`."""
    negative, positive, invalid = _labelled(operands)
    values = _transformed(operands.scores.to(torch.float32), bins.transform)
    low, high, scale = bins.in_float32()
    column = ((values - low) * scale).clamp(0, bins.number - 1).nan_to_num(0.0).to(torch.int64) + 1
    column = column.masked_fill(values < low, 0).masked_fill(values > high, bins.number + 1)
    column = column.masked_fill(values.isnan(), bins.number + 2)
    columns, tasks = bins.number + EXTRA_COLUMNS, values.shape[1]
    task = torch.arange(tasks, device=values.device).view(-1, 1)
    cell = (2 * task + positive.to(torch.int64)) * columns + column
    counts = torch.bincount(cell[negative | positive], minlength=tasks * 2 * columns)
    return counts.view(tasks, 2, columns), invalid


def rank_statistics(operands: Scored) -> tuple[Tensor, Tensor]:
    """See `Backend.rank_statistics`."""
    labelled = _labelled(operands)
    samples, tasks, voxels = operands.scores.shape
    scores, negative, positive = (
        tensor.transpose(0, 1).reshape(tasks, samples * voxels)
        for tensor in (operands.scores, labelled.negative, labelled.positive)
    )
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.to(torch.float32)
    undefined = (scores.isnan() & (negative | positive)).any(1)
    # Every score has its place among all, also one without a label, which counts for nothing.
    order = scores.nan_to_num(0.0, torch.inf, -torch.inf).sort(1)
    negative, positive = negative.gather(1, order.indices), positive.gather(1, order.indices)
    ranks = order.values.contiguous()
    first = torch.searchsorted(ranks, ranks)
    past = torch.searchsorted(ranks, ranks, right=True)

    def lower_and_equal_twice(labels: Tensor) -> Tensor:
        """Twice the number of these labels below each score, plus once those at it."""
        below = F.pad(labels.cumsum(1), (1, 0))
        return below.gather(1, first) + below.gather(1, past)

    positives, negatives = positive.sum(1), negative.sum(1)
    of_positives = lower_and_equal_twice(negative).masked_fill(~positive, 0)
    of_negatives = (2 * positives.unsqueeze(1) - lower_and_equal_twice(positive)).masked_fill(~negative, 0)
    ranked = torch.stack(
        [
            of_positives.sum(1).double() / 2,
            (of_positives.double() / 2).square().sum(1),
            (of_negatives.double() / 2).square().sum(1),
        ]
    ).masked_fill(undefined, torch.nan)
    return torch.cat([torch.stack([positives, negatives]).double(), ranked]), labelled.invalid
