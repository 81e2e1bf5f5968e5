"""MONAI's losses of two terms: `DiceCELoss`, `DiceFocalLoss` and `GeneralizedDiceFocalLoss`."""

from __future__ import annotations

from typing import Any

from monai import losses as peer
from torch import Tensor

from .... import formulas, ops
from ....contract import LossWeights, RatioLinear, RegionInput, RegionSums, Wanted, changed
from ....functional.region import region_loss
from . import focal, overlap
from .base import Fused, check_volume, has_soft_label, ignore_index_of, read, warn_of_single_channel

__all__ = ["DiceCELoss", "DiceFocalLoss", "GeneralizedDiceFocalLoss"]


def _entropy_weight(loss: peer.DiceCELoss, classes: int) -> Tensor | None:
    """Weight of the cross entropy of each class, or of the positives of a single one, (C,)."""
    weight = loss.cross_entropy.weight if classes > 1 else loss.binary_cross_entropy.pos_weight
    if weight is None:
        return None
    if (classes > 1 and tuple(weight.shape) != (classes,)) or weight.numel() != classes:
        raise ValueError(f"weight: not one number for each of {classes} classes")
    return weight.float().reshape(-1)


class DiceCELoss(Fused, peer.DiceCELoss):
    """`monai.losses.DiceCELoss` in one pass over logits and labels; arguments, shapes and warnings are MONAI's.

    A second pass is taken where the Dice has another activation than the cross entropy: softmax, or the sigmoid of a
    single channel.

    Example:
        >>> import torch
        >>> from fastmed.compat.monai import DiceCELoss
        >>> loss = DiceCELoss(softmax=True, to_onehot_y=True)
        >>> logits = torch.randn(2, 3, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(3, (2, 1, 8, 8, 8))).backward()
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss; input (N, C, *spatial), target (N, C, *spatial) or labels (N, 1, *spatial)."""
        return self._fused_or(super().forward, input, target)

    def _fused(self, input: Tensor, target: Tensor) -> Tensor:
        check_volume(input)
        activations, activation = overlap.activation_of(self.dice, input)
        of_entropy = "softmax" if input.shape[1] > 1 else "sigmoid"
        if activation == of_entropy:
            value = self._loss(self._read(input, target, activation), self.lambda_dice, self.lambda_ce)
        elif activations is not input:
            value = self._loss(self._read(activations, target, activation), self.lambda_dice, 0.0)
            value = value + self._loss(self._read(input, target, of_entropy), 0.0, self.lambda_ce)
        else:
            operands = [self._read(input, target, name) for name in (activation, of_entropy)]
            of_dice, of_nll = ops.region_passes(operands, [Wanted(nll=False), Wanted()], None, self.backend)
            value = self._of_sums(of_dice, operands[0], self.lambda_dice, 0.0)
            value = value + self._of_sums(of_nll, operands[1], 0.0, self.lambda_ce)
        overlap.warn_of_options(self.dice, input)
        return value

    def _read(self, input: Tensor, target: Tensor, activation: str | None) -> RegionInput:
        smoothing = self.cross_entropy.label_smoothing if input.shape[1] > 1 else 0.0
        return read(input, target, activation, self.dice.to_onehot_y, label_smoothing=smoothing)

    def _terms(self, operands: RegionInput, lambda_dice: float, lambda_ce: float) -> tuple[RatioLinear, LossWeights]:
        """What one pass contributes."""
        dice, input = self.dice, operands.input
        classes = input.shape[1]
        of_labels = "voxels" if operands.is_dense else "target"
        loss = changed(
            overlap.dice_ratio(dice, input),
            lambda_ratio=lambda_dice,
            lambda_nll=lambda_ce,
            nll_mean=of_labels if classes > 1 else "elements",
        )
        return loss, LossWeights(overlap.dice_weight(dice, input), _entropy_weight(self, classes))

    def _loss(self, operands: RegionInput, lambda_dice: float, lambda_ce: float) -> Tensor:
        terms = self._terms(operands, lambda_dice, lambda_ce)
        return region_loss(operands, *terms, reduction=self.dice.reduction, backend=self.backend)

    def _of_sums(self, sums: RegionSums, operands: RegionInput, lambda_dice: float, lambda_ce: float) -> Tensor:
        terms = self._terms(operands, lambda_dice, lambda_ce)
        return formulas.ratio_linear_reduced(sums, *terms, self.dice.reduction)


def _sums_of_both(
    overlap_loss: Any, focal_loss: peer.FocalLoss, input: Tensor, reads: focal.Pass, backend: str
) -> tuple[RegionSums, RegionSums] | None:
    """The sums of an overlap and of the focal term beside it, or None where they do not read the same tensors.

    One pass has both if they have the same activation; the gradients of two are added up in one.
    """
    activations, activation = overlap.activation_of(overlap_loss, input)
    reads_the_same = activations is input and reads.operands.input.shape[1] == input.shape[1]
    same_options = ignore_index_of(overlap_loss) == ignore_index_of(focal_loss)
    if has_soft_label(overlap_loss) or not (reads_the_same and same_options):
        return None
    of_overlap = changed(reads.operands, activation=activation or "none", gamma=0.0)
    if of_overlap.activation == reads.operands.activation:
        sums = ops.region_sums(reads.operands, Wanted(), None, backend)
        return sums, sums
    of_overlap_sums, of_focal = ops.region_passes(
        [of_overlap, reads.operands], [Wanted(nll=False), Wanted()], None, backend
    )
    return of_overlap_sums, of_focal


class DiceFocalLoss(Fused, peer.DiceFocalLoss):
    """`monai.losses.DiceFocalLoss` without a copy of logits or labels; arguments, shapes and warnings are MONAI's.

    The focal term is that of a sigmoid, so there is one pass for `sigmoid=True` and a second one otherwise, whose
    gradient is added to that of the first.

    Example:
        >>> import torch
        >>> from fastmed.compat.monai import DiceFocalLoss
        >>> loss = DiceFocalLoss(softmax=True, to_onehot_y=True)
        >>> logits = torch.randn(2, 3, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(3, (2, 1, 8, 8, 8))).backward()
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss; input (N, C, *spatial), target (N, C, *spatial) or labels (N, 1, *spatial)."""
        return self._fused_or(super().forward, input, target)

    def _fused(self, input: Tensor, target: Tensor) -> Tensor:
        check_volume(input)
        reads = focal.pass_of(self.focal, input, target, self.to_onehot_y)
        both = _sums_of_both(self.dice, self.focal, input, reads, self.backend)
        if both is None:
            of_dice = overlap.dice(self.dice, input, target, self.to_onehot_y, self.backend)
            sums = ops.region_sums(reads.operands, Wanted(), None, self.backend)
        else:
            ratio, weights = overlap.dice_ratio(self.dice, input), LossWeights(overlap.dice_weight(self.dice, input))
            of_regions, sums = both
            of_dice = formulas.ratio_linear_reduced(of_regions, ratio, weights, self.dice.reduction)
        of_focal = focal.of_sums(self.focal, reads, sums)
        warn_of_single_channel(input, to_onehot_y=self.to_onehot_y)
        overlap.warn_of_options(self.dice, input)
        focal.warn_of_options(self.focal, input)
        return self.lambda_dice * of_dice + self.lambda_focal * of_focal


class GeneralizedDiceFocalLoss(Fused, peer.GeneralizedDiceFocalLoss):
    """`monai.losses.GeneralizedDiceFocalLoss` without a copy of logits or labels; arguments and shapes are MONAI's.

    The focal term is that of a sigmoid, so there is one pass for `sigmoid=True` and a second one otherwise, whose
    gradient is added to that of the first.

    Example:
        >>> import torch
        >>> from fastmed.compat.monai import GeneralizedDiceFocalLoss
        >>> loss = GeneralizedDiceFocalLoss(sigmoid=True)
        >>> logits = torch.randn(2, 3, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(2, (2, 3, 8, 8, 8))).backward()
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss; input (N, C, *spatial), target (N, C, *spatial) or labels (N, 1, *spatial)."""
        return self._fused_or(super().forward, input, target)

    def _fused(self, input: Tensor, target: Tensor) -> Tensor:
        check_volume(input)
        generalized = self.generalized_dice
        reads = focal.pass_of(self.focal, input, target, self.focal.to_onehot_y)
        both = _sums_of_both(generalized, self.focal, input, reads, self.backend)
        if both is None or generalized.to_onehot_y != self.focal.to_onehot_y:
            of_dice = overlap.generalized_dice(generalized, input, target, self.backend)
            sums = ops.region_sums(reads.operands, Wanted(), None, self.backend)
        else:
            of_regions, sums = both
            of_dice = overlap.generalized_of_sums(generalized, of_regions, input)
        of_focal = focal.of_sums(self.focal, reads, sums)
        overlap.warn_of_options(generalized, input)
        focal.warn_of_options(self.focal, input)
        return self.lambda_gdl * of_dice + self.lambda_focal * of_focal
