"""MONAI's losses of two terms: `DiceCELoss`, `DiceFocalLoss` and `GeneralizedDiceFocalLoss`."""

from __future__ import annotations

from monai import losses as peer
from torch import Tensor

from .... import formulas
from ....contract import LossWeights, changed
from ....functional.region import region_loss
from . import focal, overlap
from .base import Fused, check_volume, is_label_map, read, warn_of_single_channel

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
        is_multi_class = input.shape[1] > 1
        of_entropy = "softmax" if is_multi_class else "sigmoid"
        if activation == of_entropy:
            value = self._term(input, target, activation, self.lambda_dice, self.lambda_ce)
        else:
            value = self._term(activations, target, activation, self.lambda_dice, 0.0)
            value = value + self._term(input, target, of_entropy, 0.0, self.lambda_ce)
        overlap.warn_of_options(self.dice, input)
        return value

    def _term(
        self, input: Tensor, target: Tensor, activation: str | None, lambda_dice: float, lambda_ce: float
    ) -> Tensor:
        """What one pass contributes."""
        dice, classes = self.dice, input.shape[1]
        smoothing = self.cross_entropy.label_smoothing if classes > 1 else 0.0
        operands = read(input, target, activation, dice.to_onehot_y, label_smoothing=smoothing)
        of_labels = "target" if is_label_map(input, dice.to_onehot_y) else "voxels"
        loss = changed(
            overlap.dice_ratio(dice, input),
            lambda_ratio=lambda_dice,
            lambda_nll=lambda_ce,
            nll_mean=of_labels if classes > 1 else "elements",
        )
        weights = LossWeights(overlap.dice_weight(dice, input), _entropy_weight(self, classes))
        return region_loss(operands, loss, weights, reduction=dice.reduction, backend=self.backend)


class DiceFocalLoss(Fused, peer.DiceFocalLoss):
    """`monai.losses.DiceFocalLoss` without a copy of logits or labels; arguments, shapes and warnings are MONAI's.

    The focal term is that of a sigmoid, so there is one pass for `sigmoid=True` and a second one otherwise.

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
        of_focal, sums = focal.focal(self.focal, input, target, self.to_onehot_y, self.backend)
        if self.dice.sigmoid and not self.focal.use_softmax:
            weights = LossWeights(overlap.dice_weight(self.dice, input))
            ratio = overlap.dice_ratio(self.dice, input)
            of_dice = formulas.ratio_linear_reduced(sums, ratio, weights, self.dice.reduction)
        else:
            of_dice = overlap.dice(self.dice, input, target, self.to_onehot_y, self.backend)
        warn_of_single_channel(input, to_onehot_y=self.to_onehot_y)
        overlap.warn_of_options(self.dice, input)
        focal.warn_of_options(self.focal, input)
        return self.lambda_dice * of_dice + self.lambda_focal * of_focal


class GeneralizedDiceFocalLoss(Fused, peer.GeneralizedDiceFocalLoss):
    """`monai.losses.GeneralizedDiceFocalLoss` without a copy of logits or labels; arguments and shapes are MONAI's.

    The focal term is that of a sigmoid, so there is one pass for `sigmoid=True` and a second one otherwise.

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
        of_focal, sums = focal.focal(self.focal, input, target, self.focal.to_onehot_y, self.backend)
        if generalized.sigmoid and not self.focal.use_softmax:
            of_dice = overlap.generalized_of_sums(generalized, sums, input)
        else:
            of_dice = overlap.generalized_dice(generalized, input, target, self.backend)
        overlap.warn_of_options(generalized, input)
        focal.warn_of_options(self.focal, input)
        return self.lambda_gdl * of_dice + self.lambda_focal * of_focal
