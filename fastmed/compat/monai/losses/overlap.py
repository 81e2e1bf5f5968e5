"""MONAI's losses of overlap: `DiceLoss`, `MaskedDiceLoss`, `GeneralizedDiceLoss` and `TverskyLoss`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from monai import losses as peer
from torch import Tensor

from .... import formulas, ops
from ....contract import LossWeights, RatioLinear, RegionInput, RegionSums, Wanted, changed
from ....functional.region import region_loss
from ...soft import soft_label_sums
from .base import (
    Fused,
    check_reduction,
    check_volume,
    first_class,
    has_soft_label,
    ignore_index_of,
    is_hard,
    is_label_map,
    read,
    warn_of_single_channel,
)

__all__ = ["DiceLoss", "GeneralizedDiceLoss", "MaskedDiceLoss", "TverskyLoss"]


def activated(
    input: Tensor, sigmoid: bool, softmax: bool, other_act: Callable[[Tensor], Tensor] | None
) -> tuple[Tensor, str | None]:
    """What the pass reads, and the activation that it applies itself."""
    if sigmoid:
        return input, "sigmoid"
    if other_act is None:
        return input, "softmax" if softmax and input.shape[1] > 1 else None
    activations = other_act(input)
    if activations.shape != input.shape:
        raise ValueError("other_act: changes the shape of the input")
    return activations, None


def activation_of(loss: Any, input: Tensor) -> tuple[Tensor, str | None]:
    """`activated` by the options that all of MONAI's overlap losses have."""
    return activated(input, loss.sigmoid, loss.softmax, loss.other_act)


def dice_ratio(loss: peer.DiceLoss, input: Tensor) -> RatioLinear:
    """Dice or Jaccard as MONAI defines them."""
    check_reduction(loss.reduction)
    by_tp, by_each = (-2.0, 2.0) if loss.jaccard else (0.0, 1.0)
    return RatioLinear(
        denominator_tp=by_tp,
        denominator_pred=by_each,
        denominator_target=by_each,
        smooth_numerator=loss.smooth_nr,
        smooth_denominator=loss.smooth_dr,
        squared=loss.squared_pred,
        first_class=first_class(input, loss.include_background),
        pool_batch=loss.batch,
        mean=loss.reduction == "mean",
    )


def dice_weight(loss: peer.DiceLoss, input: Tensor) -> Tensor | None:
    """Weight of every class (C,); MONAI has none for a class that does not count, nor for a single one."""
    left_out = first_class(input, loss.include_background)
    regions = input.shape[1] - left_out
    if loss.class_weight is None or regions == 1:
        return None
    weight = loss.class_weight.to(input.device, torch.float32)
    if weight.ndim > 1 or (weight.ndim and weight.shape[0] != regions) or weight.min() < 0:
        raise ValueError(f"weight: not one number of 0 or more for each of {regions} classes")
    return torch.nn.functional.pad(weight.expand(regions), (left_out, 0))


def _sums(operands: RegionInput, soft_label: bool, backend: str) -> RegionSums:
    """The sums, and with `soft_label` the true positives of soft labels."""
    if not soft_label:
        return ops.region_sums(operands, Wanted(nll=False), None, backend)
    if operands.activation == "none" and operands.input.detach().amin() < 0:
        raise ValueError("soft_label: takes the norms of predictions, of which some are negative")
    return soft_label_sums(operands, backend)


def _is_soft(loss: Any, ratio: RatioLinear) -> bool:
    """Whether the option changes the sums: of squares it does not."""
    return has_soft_label(loss) and not ratio.squared


def _overlap(loss: Any, operands: RegionInput, ratio: RatioLinear, weights: LossWeights, backend: str) -> Tensor:
    """The same, by the fused operator where the sums need no other arithmetic."""
    if _is_soft(loss, ratio):
        return formulas.ratio_linear_reduced(_sums(operands, True, backend), ratio, weights, loss.reduction)
    return region_loss(operands, ratio, weights, reduction=loss.reduction, backend=backend)


def _broadcastable(per_region: Tensor, loss: peer.DiceLoss, input: Tensor) -> Tensor:
    """Losses of regions in the shape that MONAI gives them, scalars as they are."""
    if loss.reduction != "none":
        return per_region
    shape = per_region.shape[1:] if loss.batch else per_region.shape
    return per_region.view(*shape, *[1] * (input.ndim - 2))


def _warn(loss: Any, input: Tensor, softmax: bool) -> None:
    warn_of_single_channel(
        input, softmax=softmax, to_onehot_y=loss.to_onehot_y, exclude_background=not loss.include_background
    )


def warn_of_options(loss: Any, input: Tensor) -> None:
    """The warnings of an overlap loss of MONAI's."""
    _warn(loss, input, loss.softmax)


def dice(loss: peer.DiceLoss, input: Tensor, target: Tensor, to_onehot_y: bool, backend: str) -> Tensor:
    """A Dice loss as MONAI's options describe it."""
    check_volume(input)
    ratio, weights = dice_ratio(loss, input), LossWeights(dice_weight(loss, input))
    activations, activation = activation_of(loss, input)
    operands = read(activations, target, activation, to_onehot_y, ignore_index=ignore_index_of(loss))
    return _broadcastable(_overlap(loss, operands, ratio, weights, backend), loss, input)


class DiceLoss(Fused, peer.DiceLoss):
    """`monai.losses.DiceLoss` in one pass over logits and labels; arguments, shapes and warnings are MONAI's.

    Example:
        >>> import torch
        >>> from fastmed.compat.monai import DiceLoss
        >>> loss = DiceLoss(softmax=True, to_onehot_y=True, reduction="none")
        >>> logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
        >>> loss(logits, torch.ones(1, 1, 4, 4, dtype=torch.uint8)).flatten()  # shape (1, 2, 1, 1)
        tensor([1.0000, 0.3333], grad_fn=<ViewBackward0>)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss; input (N, C, *spatial), target (N, C, *spatial) or labels (N, 1, *spatial)."""
        return self._fused_or(super().forward, input, target)

    def _fused(self, input: Tensor, target: Tensor) -> Tensor:
        value = dice(self, input, target, self.to_onehot_y, self.backend)
        warn_of_options(self, input)
        return value


class MaskedDiceLoss(Fused, peer.MaskedDiceLoss):
    """`monai.losses.MaskedDiceLoss` in one pass over logits, labels and mask; arguments and shapes are MONAI's.

    Example:
        >>> import torch
        >>> from fastmed.compat.monai import MaskedDiceLoss
        >>> loss = MaskedDiceLoss(sigmoid=True)
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., :2] = 1
        >>> loss(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4), mask)
        tensor(0.3333)
    """

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss within the mask (N, 1, *spatial) or (1, 1, *spatial) of 0 and 1."""
        return self._fused_or(super().forward, input, target, mask)

    def _fused(self, input: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        check_volume(input)
        ratio, weights = dice_ratio(self, input), LossWeights(dice_weight(self, input))
        activations, activation = activated(input, self.pre_sigmoid, self.pre_softmax, self.pre_other_act)
        region = None if mask is None else _region(mask, input)
        operands = read(activations, target, activation, self.to_onehot_y, mask=region)
        sums = _sums(operands, _is_soft(self, ratio), self.backend)
        if is_label_map(input, self.to_onehot_y):
            sums = _with_background(sums, operands.input.shape[2])
        value = _broadcastable(formulas.ratio_linear_reduced(sums, ratio, weights, self.reduction), self, input)
        _warn(self, input, self.pre_softmax)
        if mask is None:
            warnings.warn("No mask value specified for the MaskedLoss.", stacklevel=2)
        return value


def _region(mask: Tensor, input: Tensor) -> Tensor:
    """The mask of every sample, bool (N, 1, *spatial)."""
    samples, _, *spatial = input.shape
    if tuple(mask.shape) not in ((samples, 1, *spatial), (1, 1, *spatial)):
        raise ValueError(f"mask: has shape {tuple(mask.shape)}, not {(samples, 1, *spatial)}")
    if not is_hard(mask):
        raise ValueError("mask: holds fractions, which MONAI multiplies to prediction and target both")
    return mask.bool().expand(samples, 1, *spatial)


def _with_background(sums: RegionSums, voxels: int) -> RegionSums:
    """The sums where MONAI makes label 0, and then a target of the background, of labels outside the mask."""
    outside = torch.zeros_like(sums.target)
    outside[:, 0] = voxels - sums.weight[:, 0]
    return changed(sums, target=sums.target + outside, target_sq=sums.target_sq + outside)


class TverskyLoss(Fused, peer.TverskyLoss):
    """`monai.losses.TverskyLoss` in one pass over logits and labels; arguments, shapes and warnings are MONAI's.

    Example:
        >>> import torch
        >>> from fastmed.compat.monai import TverskyLoss
        >>> loss = TverskyLoss(softmax=True, to_onehot_y=True, alpha=0.3, beta=0.7)
        >>> logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
        >>> loss(logits, torch.ones(1, 1, 4, 4, dtype=torch.uint8)).backward()
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss; input (N, C, *spatial), target (N, C, *spatial) or labels (N, 1, *spatial)."""
        return self._fused_or(super().forward, input, target)

    def _fused(self, input: Tensor, target: Tensor) -> Tensor:
        check_volume(input)
        check_reduction(self.reduction)
        ratio = RatioLinear(
            numerator_tp=1.0,
            denominator_tp=1.0 - self.alpha - self.beta,
            denominator_pred=self.alpha,
            denominator_target=self.beta,
            smooth_numerator=self.smooth_nr,
            smooth_denominator=self.smooth_dr,
            squared=False,
            first_class=first_class(input, self.include_background),
            pool_batch=self.batch,
            mean=self.reduction == "mean",
        )
        activations, activation = activation_of(self, input)
        operands = read(activations, target, activation, self.to_onehot_y, ignore_index=ignore_index_of(self))
        value = _overlap(self, operands, ratio, LossWeights(), self.backend)
        warn_of_options(self, input)
        return value[0] if self.reduction == "none" and self.batch else value


def generalized_of_sums(loss: peer.GeneralizedDiceLoss, sums: RegionSums, input: Tensor) -> Tensor:
    """MONAI's generalised Dice loss of the sums of a pass."""
    regions = formulas.regions_of(
        sums, RatioLinear(first_class=first_class(input, loss.include_background), pool_batch=loss.batch)
    )
    weight = loss.w_func(regions.target.float())
    of_absent = weight.isinf()
    weight = weight.masked_fill(of_absent, 0.0)
    weight = torch.where(of_absent, weight.amax(1, keepdim=True), weight)
    numerator = 2.0 * (weight * regions.tp).sum(1) + loss.smooth_nr
    denominator = (weight * (regions.pred + regions.target)).sum(1) + loss.smooth_dr
    of_samples = 1.0 - numerator / denominator
    if loss.reduction == "none":
        return of_samples.view(-1, *[1] * (input.ndim - 2 + (not loss.batch)))
    return of_samples.mean() if loss.reduction == "mean" else of_samples.sum()


def generalized_dice(loss: peer.GeneralizedDiceLoss, input: Tensor, target: Tensor, backend: str) -> Tensor:
    """A generalised Dice loss as MONAI's options describe it."""
    check_volume(input)
    check_reduction(loss.reduction)
    activations, activation = activation_of(loss, input)
    operands = read(activations, target, activation, loss.to_onehot_y)
    return generalized_of_sums(loss, _sums(operands, has_soft_label(loss), backend), input)


class GeneralizedDiceLoss(Fused, peer.GeneralizedDiceLoss):
    """`monai.losses.GeneralizedDiceLoss` in one pass over logits and labels; arguments and shapes are MONAI's.

    Example:
        >>> import torch
        >>> from fastmed.compat.monai import GeneralizedDiceLoss
        >>> loss = GeneralizedDiceLoss(softmax=True, to_onehot_y=True)
        >>> logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
        >>> loss(logits, torch.ones(1, 1, 4, 4, dtype=torch.uint8)).backward()
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss; input (N, C, *spatial), target (N, C, *spatial) or labels (N, 1, *spatial)."""
        return self._fused_or(super().forward, input, target)

    def _fused(self, input: Tensor, target: Tensor) -> Tensor:
        value = generalized_dice(self, input, target, self.backend)
        warn_of_options(self, input)
        return value
