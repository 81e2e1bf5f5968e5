"""Losses as pure mathematics on region sums: no voxel, no device, no backend."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .contract import (
    NLL_NEG,
    NLL_POS,
    PRED,
    PRED_SQ,
    STATISTICS,
    TP,
    LossWeights,
    RatioLinear,
    RegionSums,
)


def _each(sums: RegionSums, change: Callable[[Tensor], Tensor]) -> RegionSums:
    """The sums with every field changed in the same way."""
    return RegionSums._make(None if field is None else change(field) for field in sums)


def pool_batch(sums: RegionSums) -> RegionSums:
    """The sums of the whole batch, each of shape (1, C)."""
    return _each(sums, lambda field: field.sum(0, keepdim=True))


def regions_of(sums: RegionSums, loss: RatioLinear) -> RegionSums:
    """The sums of the regions that enter the ratio: (N, C'), or (1, C') pooled, without the classes left out."""
    pooled = pool_batch(sums) if loss.pool_batch else sums
    return _each(pooled, lambda field: field[:, loss.first_class :])


def _ratio(regions: RegionSums, loss: RatioLinear) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of the overlap ratio."""
    pred, target = (regions.pred_sq, regions.target_sq) if loss.squared else (regions.pred, regions.target)
    numerator = loss.numerator_tp * regions.tp + loss.smooth_numerator
    denominator = loss.denominator_tp * regions.tp + loss.denominator_pred * pred + loss.denominator_target * target
    return numerator, denominator + loss.smooth_denominator


def overlap_loss(regions: RegionSums, loss: RatioLinear) -> Tensor:
    """Overlap loss of each region: one minus the ratio that `loss` describes."""
    numerator, denominator = _ratio(regions, loss)
    return 1.0 - numerator / denominator


def soft_dice(sums: RegionSums, *, squared: bool = True, smooth: float = 1e-5) -> Tensor:
    """Soft Dice loss of each region, (N, C).

    `1 - (2 tp + smooth) / (pred_sq + target_sq + smooth)` (Milletari et al., V-Net, 2016), or with `pred + target`
    in the denominator if not `squared` (Sudre et al., 2017).
    """
    dice = RatioLinear(smooth_numerator=smooth, smooth_denominator=smooth, squared=squared)
    return overlap_loss(sums, dice)


def weighted_nll(sums: RegionSums, weights: LossWeights) -> Tensor:
    """`v_pos nll_pos + v_neg nll_neg` of each region, (N, C)."""
    if sums.nll_pos is None:
        raise ValueError("sums: hold no nll; compute them with nll=True from the logits of a sigmoid or softmax")
    nll = sums.nll_pos if weights.nll_pos is None else weights.nll_pos * sums.nll_pos
    if sums.nll_neg is not None:
        nll = nll + (sums.nll_neg if weights.nll_neg is None else weights.nll_neg * sums.nll_neg)
    return nll


def nll_normaliser(sums: RegionSums, nll_mean: str, weights: LossWeights) -> Tensor:
    """What the summed nll is divided by: see `RatioLinear.nll_mean`. Of shape (N,), to be summed over samples."""
    if nll_mean == "target":
        target = sums.target if weights.nll_pos is None else weights.nll_pos * sums.target
        return target.sum(1)
    return sums.weight.sum(1) if nll_mean == "elements" else sums.weight.mean(1)


def _quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and exactly 0 where nothing was valid: no gradient comes from an ignored batch."""
    empty = denominator == 0
    return torch.where(empty, torch.zeros_like(numerator), numerator / torch.where(empty, 1.0, denominator))


def ratio_linear_per_region(sums: RegionSums, loss: RatioLinear, weights: LossWeights) -> Tensor:
    """The overlap loss of each region that enters the loss, weighted: (N, C'), or (1, C') pooled."""
    overlap = overlap_loss(regions_of(sums, loss), loss)
    return overlap if weights.region is None else overlap * weights.region[loss.first_class :]


def ratio_linear_per_sample(sums: RegionSums, loss: RatioLinear, weights: LossWeights) -> Tensor:
    """The loss of each sample on its own, (N,)."""
    total = loss.lambda_ratio * ratio_linear_per_region(sums, loss, weights).mean(1)
    nll = weighted_nll(sums, weights).sum(1)
    return total + loss.lambda_nll * _quotient(nll, nll_normaliser(sums, loss.nll_mean, weights))


def ratio_linear(sums: RegionSums, loss: RatioLinear, weights: LossWeights) -> Tensor:
    """The scalar loss that `loss` describes."""
    total = sums.tp.new_zeros(())
    if loss.lambda_ratio:
        overlap = ratio_linear_per_region(sums, loss, weights)
        total = loss.lambda_ratio * (overlap.mean() if loss.mean else overlap.sum())
    if loss.lambda_nll:
        nll = weighted_nll(sums, weights).sum()
        if loss.mean:
            nll = _quotient(nll, nll_normaliser(sums, loss.nll_mean, weights).sum())
        total = total + loss.lambda_nll * nll
    return total


def ratio_linear_gradient(sums: RegionSums, loss: RatioLinear, weights: LossWeights) -> Tensor:
    """Gradient of `ratio_linear` by the stacked sums, (STATISTICS, N, C), in closed form.

    The quotient rule on the ratio and a constant on each nll; targets and weights carry no gradient. Operators use
    it where autograd does not reach; the tests hold it to the autograd gradient of `ratio_linear`.
    """
    gradient = sums.tp.new_zeros((STATISTICS, *sums.tp.shape))
    if loss.lambda_ratio:
        numerator, denominator = _ratio(regions_of(sums, loss), loss)
        by_ratio = -loss.lambda_ratio / denominator
        if loss.mean:
            by_ratio = by_ratio / by_ratio.numel()
        if weights.region is not None:
            by_ratio = by_ratio * weights.region[loss.first_class :]
        ratio = numerator / denominator
        gradient[TP, :, loss.first_class :] = by_ratio * (loss.numerator_tp - loss.denominator_tp * ratio)
        by_pred = PRED_SQ if loss.squared else PRED
        gradient[by_pred, :, loss.first_class :] = -loss.denominator_pred * ratio * by_ratio
    if loss.lambda_nll:
        factor = torch.full_like(sums.weight[:1, :1], loss.lambda_nll)
        if loss.mean:
            factor = _quotient(factor, nll_normaliser(sums, loss.nll_mean, weights).sum().reshape(1, 1))
        gradient[NLL_POS] = factor if weights.nll_pos is None else factor * weights.nll_pos
        if sums.nll_neg is not None:
            gradient[NLL_NEG] = factor if weights.nll_neg is None else factor * weights.nll_neg
    return gradient
