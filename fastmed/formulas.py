"""Losses as pure mathematics on region sums: no voxel, no device, no backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .contract import (
    BASIC,
    NLL_NEG,
    NLL_POS,
    PRED,
    PRED_SQ,
    TP,
    LossWeights,
    RatioLinear,
    RegionSums,
)


def mean(values: Tensor) -> Tensor:
    """The mean of all values; 0 of none, as the sums of an empty batch are."""
    return values.mean() if values.numel() else values.sum()


def _each(sums: RegionSums, change: Callable[[Tensor], Tensor]) -> RegionSums:
    """The sums with every field changed in the same way."""
    fields: list[Any] = [None if field is None else change(field) for field in sums]
    return RegionSums(*fields)


def pool_batch(sums: RegionSums) -> RegionSums:
    """The sums of the whole batch, each of shape (1, C)."""
    return _each(sums, lambda field: field.sum(0, keepdim=True))


def regions_of(sums: RegionSums, loss: RatioLinear) -> RegionSums:
    """The sums of the regions that enter the ratio: (N, C'), or (1, C') pooled, without the classes left out."""
    pooled = pool_batch(sums) if loss.pool_batch else sums
    return _each(pooled, lambda field: field[:, loss.first_class :])


def _quotient(numerator: Tensor, denominator: Tensor, *, of_nothing: float = 0.0) -> Tensor:
    """The quotient, and a constant where the denominator is 0: no gradient comes from where nothing was valid."""
    empty = denominator == 0
    return torch.where(empty, of_nothing, numerator / torch.where(empty, 1.0, denominator))


def _ratio(regions: RegionSums, loss: RatioLinear) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of the overlap ratio."""
    pred, target = (regions.pred_sq, regions.target_sq) if loss.squared else (regions.pred, regions.target)
    numerator = loss.numerator_tp * regions.tp + loss.smooth_numerator
    denominator = loss.denominator_tp * regions.tp + loss.denominator_pred * pred + loss.denominator_target * target
    return numerator, denominator + loss.smooth_denominator


def overlap_loss(regions: RegionSums, loss: RatioLinear) -> Tensor:
    """Overlap loss of each region: one minus the ratio that `loss` describes, and 0 where that is 0 / 0."""
    numerator, denominator = _ratio(regions, loss)
    return 1.0 - _quotient(numerator, denominator, of_nothing=1.0)


def soft_dice(sums: RegionSums, *, squared: bool = True, smooth: float = 1e-5) -> Tensor:
    """Soft Dice loss of each region, (N, C).

    `1 - (2 tp + smooth) / (pred_sq + target_sq + smooth)` (Milletari et al., V-Net, 2016), or with `pred + target`
    in the denominator if not `squared` (Sudre et al., 2017).
    """
    dice = RatioLinear(smooth_numerator=smooth, smooth_denominator=smooth, squared=squared)
    return overlap_loss(sums, dice)


def generalized_dice(regions: RegionSums, weighting: str, smooth: float, class_weight: Tensor | None) -> Tensor:
    """Generalised Dice loss of each sample, (N,): one ratio of sums over the classes, rare classes weighing more.

    `1 - (2 sum_c w_c tp_c + smooth) / (sum_c w_c (pred_c + target_c) + smooth)` with w = 1 / target^2 ("square"),
    1 / target ("simple") or 1 ("uniform"); an absent class takes the largest weight of the others (Sudre et al., 2017).
    """
    volume = regions.target.detach()
    weight = torch.ones_like(volume)
    if weighting != "uniform":
        weight = 1.0 / (volume * volume if weighting == "square" else volume)
        present = torch.where(weight.isinf(), 0.0, weight)
        weight = torch.where(weight.isinf(), present.amax(1, keepdim=True), weight)
    if class_weight is not None:
        weight = weight * class_weight
    intersection, total = (weight * regions.tp).sum(1), (weight * (regions.pred + regions.target)).sum(1)
    return 1.0 - _quotient(2.0 * intersection + smooth, total + smooth, of_nothing=1.0)


def focal_ratio(overlap: Tensor, exponent: float) -> Tensor:
    """Overlap losses to a power; below 1 the exponent would have an infinite slope at 0, where the loss is cut."""
    return overlap.clamp(min=torch.finfo(overlap.dtype).eps) ** exponent


def log_cosh(overlap: Tensor) -> Tensor:
    """The logarithm of the hyperbolic cosine of overlap losses (Jadon, 2020)."""
    return overlap.cosh().log()


def matthews(regions: RegionSums, smooth: float) -> Tensor:
    """One minus the soft correlation coefficient of Matthews of each region, (N, C) (Abhishek and Hamarneh, 2021)."""
    tp, fp, fn = regions.tp, regions.pred - regions.tp, regions.target - regions.tp
    tn = regions.weight - tp - fp - fn
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    # The square root has an infinite slope at 0, which a class that is nowhere reaches.
    root = torch.where(product > 0, product, 1.0).sqrt() * (product > 0)
    return 1.0 - _quotient(tp * tn - fp * fn, root + smooth)


def sensitivity_specificity(regions: RegionSums, sensitivity_share: float, smooth: float) -> Tensor:
    """Mean squared error inside the target and outside, weighed against one another, (N, C) (Brosch et al., 2015).

    For hard targets, whose squares are themselves.
    """
    if regions.tp_sq is None:
        raise ValueError("sums: hold no tp_sq; compute them with soft=True")
    inside = regions.target - 2.0 * regions.tp + regions.tp_sq
    outside = regions.pred_sq - regions.tp_sq
    missed = _quotient(inside, regions.target + smooth)
    false_alarm = _quotient(outside, regions.weight - regions.target + smooth)
    return sensitivity_share * missed + (1.0 - sensitivity_share) * false_alarm


def nll_weights(sums: RegionSums, loss: RatioLinear, weights: LossWeights) -> tuple[Tensor, Tensor]:
    """Weights of nll_pos and nll_neg of each class, (1, C): those given, times the balance of the batch if asked.

    The balance is `negatives / total` for positives and `positives / total` for negatives, 0 where nothing is
    valid: both then have the same total weight, however rare one of them is (Wang et al., ChestX-ray8, 2017).
    """
    ones = torch.ones_like(sums.weight[:1])
    pos = ones if weights.nll_pos is None else ones * weights.nll_pos
    neg = ones if weights.nll_neg is None else ones * weights.nll_neg
    if loss.balance_pos or loss.balance_neg:
        total = sums.weight.sum(0, keepdim=True)
        prevalence = _quotient(sums.target.sum(0, keepdim=True), total)
        if loss.balance_pos:
            pos = pos * torch.where(total == 0, 0.0, 1.0 - prevalence)
        if loss.balance_neg:
            neg = neg * prevalence
    return pos, neg


def weighted_nll(sums: RegionSums, loss: RatioLinear, weights: LossWeights) -> Tensor:
    """`v_pos nll_pos + v_neg nll_neg` of each region, (N, C)."""
    if sums.nll_pos is None:
        raise ValueError("sums: hold no nll; compute them with nll=True from the logits of a sigmoid or softmax")
    pos, neg = nll_weights(sums, loss, weights)
    return pos * sums.nll_pos if sums.nll_neg is None else pos * sums.nll_pos + neg * sums.nll_neg


def nll_normaliser(sums: RegionSums, loss: RatioLinear, weights: LossWeights) -> Tensor:
    """What the nll of each region is divided by, (N, C) or (N, 1) before the sum over samples: see `RatioLinear`."""
    if loss.nll_mean == "target":
        return (nll_weights(sums, loss, weights)[0] * sums.target).sum(1, keepdim=True)
    if loss.nll_mean == "task":
        return sums.weight * sums.weight.shape[1]
    return sums.weight.sum(1, keepdim=True) if loss.nll_mean == "elements" else sums.weight.mean(1, keepdim=True)


def nll_per_class(sums: RegionSums, loss: RatioLinear, weights: LossWeights) -> Tensor:
    """The nll part of the loss by class, (C,): what `ratio_linear` adds up."""
    nll = weighted_nll(sums, loss, weights).sum(0)
    if loss.mean:
        nll = _quotient(nll, nll_normaliser(sums, loss, weights).sum(0).expand_as(nll))
    return loss.lambda_nll * nll


def ratio_linear_per_region(sums: RegionSums, loss: RatioLinear, weights: LossWeights) -> Tensor:
    """The overlap loss of each region that enters the loss, weighted: (N, C'), or (1, C') pooled."""
    overlap = overlap_loss(regions_of(sums, loss), loss)
    return overlap if weights.region is None else overlap * weights.region[loss.first_class :]


def ratio_linear_per_sample(sums: RegionSums, loss: RatioLinear, weights: LossWeights) -> Tensor:
    """The loss of each sample on its own, (N,)."""
    total = loss.lambda_ratio * ratio_linear_per_region(sums, loss, weights).mean(1)
    nll = weighted_nll(sums, loss, weights)
    normaliser = nll_normaliser(sums, loss, weights).expand_as(nll)
    return total + loss.lambda_nll * _quotient(nll, normaliser).sum(1)


def ratio_linear(sums: RegionSums, loss: RatioLinear, weights: LossWeights) -> Tensor:
    """The scalar loss that `loss` describes."""
    total = sums.tp.new_zeros(())
    if loss.lambda_ratio:
        overlap = ratio_linear_per_region(sums, loss, weights)
        total = loss.lambda_ratio * (mean(overlap) if loss.mean else overlap.sum())
    if loss.lambda_nll:
        total = total + nll_per_class(sums, loss, weights).sum()
    return total


def ratio_linear_reduced(sums: RegionSums, loss: RatioLinear, weights: LossWeights, reduction: str) -> Tensor:
    """The scalar loss, or for "none" that of each region if it is an overlap, else of each sample."""
    if reduction != "none":
        return ratio_linear(sums, loss, weights)
    if loss.lambda_nll:
        return ratio_linear_per_sample(sums, loss, weights)
    return ratio_linear_per_region(sums, loss, weights)


def ratio_linear_gradient(sums: RegionSums, loss: RatioLinear, weights: LossWeights) -> Tensor:
    """Gradient of `ratio_linear` by the stacked sums, (BASIC, N, C), in closed form.

    The quotient rule on the ratio and a constant on each nll; targets and weights carry no gradient. Operators use
    it where autograd does not reach; the tests hold it to the autograd gradient of `ratio_linear`.
    """
    gradient = sums.tp.new_zeros((BASIC, *sums.tp.shape))
    if loss.lambda_ratio:
        numerator, denominator = _ratio(regions_of(sums, loss), loss)
        by_ratio = _quotient(torch.full_like(denominator, -loss.lambda_ratio), denominator)
        if loss.mean:
            by_ratio = by_ratio / by_ratio.numel()
        if weights.region is not None:
            by_ratio = by_ratio * weights.region[loss.first_class :]
        ratio = _quotient(numerator, denominator, of_nothing=1.0)
        gradient[TP, :, loss.first_class :] = by_ratio * (loss.numerator_tp - loss.denominator_tp * ratio)
        by_pred = PRED_SQ if loss.squared else PRED
        gradient[by_pred, :, loss.first_class :] = -loss.denominator_pred * ratio * by_ratio
    if loss.lambda_nll:
        factor = torch.full_like(sums.weight[:1], loss.lambda_nll)
        if loss.mean:
            normaliser = nll_normaliser(sums, loss, weights).sum(0, keepdim=True)
            factor = _quotient(factor, normaliser.expand_as(factor))
        pos, neg = nll_weights(sums, loss, weights)
        gradient[NLL_POS] = factor * pos
        if sums.nll_neg is not None:
            gradient[NLL_NEG] = factor * neg
    return gradient
