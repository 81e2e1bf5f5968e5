"""nnU-Net's soft Dice on the sums of one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from nnunetv2.training.loss import dice as peer
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import Tensor, distributed

from ... import formulas
from ...contract import RegionSums
from ...distributed import all_reduce_sums
from ...functional import region_sums
from ..attempt import attempt

__all__ = ["MemoryEfficientSoftDiceLoss", "SoftDiceLoss"]

_ACTIVATIONS: dict[Any, str | None] = {softmax_helper_dim1: "softmax", torch.sigmoid: "sigmoid", None: None}


def activation_of(apply_nonlin: Callable[[Tensor], Tensor] | None) -> str | None:
    """The name of an activation; `ValueError` for one that has no fused path."""
    if apply_nonlin not in _ACTIVATIONS:
        raise ValueError(f"apply_nonlin: is {apply_nonlin!r}; fused are softmax_helper_dim1, torch.sigmoid and None")
    return _ACTIVATIONS[apply_nonlin]


def as_labels(target: Tensor, input: Tensor) -> Tensor:
    """The target without a gradient, a label map in whole numbers: nnU-Net takes labels in floating point."""
    is_dense = target.shape == input.shape or (input.shape[1] == 1 and target.ndim < input.ndim)
    target = target.detach()
    return target.int() if target.is_floating_point() and not is_dense else target


def negative_dice(sums: RegionSums, dice: Any) -> Tensor:
    """The loss that a Dice of nnU-Net, or of this module, makes of the sums of one rank.

    `-mean[(2 tp + s) / max(pred + target + s, 1e-8)]`, of the sums of the batch, and of all ranks, if it says so.
    """
    if dice.batch_dice:
        sums = formulas.pool_batch(sums)
        if dice.ddp:
            sums = all_reduce_sums(sums, distributed.group.WORLD)
    tp, total = sums.tp, sums.pred + sums.target
    clip_tp = getattr(dice, "clip_tp", None)
    if clip_tp is not None:
        tp = tp.clip(min=clip_tp)
        total = total + 2 * (tp - sums.tp)
    values = (2 * tp + dice.smooth) / (total + dice.smooth).clamp_min(1e-8)
    return -(values if dice.do_bg else values[:, 1:]).mean()


def _fused(dice: Any, x: Tensor, y: Tensor, loss_mask: Tensor | None) -> Tensor:
    sums = region_sums(
        x,
        as_labels(y, x),
        activation=activation_of(dice.apply_nonlin),
        mask=loss_mask,
        nll=False,
        backend=dice.backend,
    )
    return negative_dice(sums, dice).float()


class SoftDiceLoss(peer.SoftDiceLoss):
    """`nnunetv2.training.loss.dice.SoftDiceLoss` in one pass, with nothing kept but its arguments.

    Args:
        apply_nonlin: `softmax_helper_dim1`, `torch.sigmoid` or None; any other callable is left to nnU-Net.
        batch_dice: one Dice of the whole batch in place of one for each sample.
        do_bg: whether class 0 counts.
        smooth: added to numerator and denominator.
        ddp: with `batch_dice`, whether the sums are those of all ranks; the ranks' batches may differ in size.
        clip_tp: least value of the true positives.

    Attributes:
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Shape:
        x (N, C, *spatial); y labels (N, *spatial) or (N, 1, *spatial) of any dtype, or (N, C, *spatial); loss_mask
        (N, 1, *spatial). Returns a scalar in float32, minus the mean Dice.

    Example:
        >>> import torch
        >>> from fastmed.compat.nnunet import SoftDiceLoss
        >>> y = torch.tensor([[[1.0, 0.0, 1.0, 1.0]]])
        >>> SoftDiceLoss(smooth=0.0, ddp=False)(y, y)
        tensor(-1.)
    """

    backend: str = "auto"

    def forward(self, x: Tensor, y: Tensor, loss_mask: Tensor | None = None) -> Tensor:
        """Minus the mean Dice."""
        return attempt("SoftDiceLoss", self._fused, super().forward, x, y, loss_mask)

    def _fused(self, x: Tensor, y: Tensor, loss_mask: Tensor | None) -> Tensor:
        if loss_mask is not None and loss_mask.shape[:2] != (x.shape[0], 1):
            raise ValueError(f"loss_mask: got shape {tuple(loss_mask.shape)}, fused is (N, 1, *spatial)")
        return _fused(self, x, y, loss_mask)


class MemoryEfficientSoftDiceLoss(peer.MemoryEfficientSoftDiceLoss):
    """`nnunetv2.training.loss.dice.MemoryEfficientSoftDiceLoss` in one pass, with nothing kept but its arguments.

    The mask may have a channel for each class; without the background (`do_bg=False`) it then takes nnU-Net's own way.

    Args:
        apply_nonlin: `softmax_helper_dim1`, `torch.sigmoid` or None; any other callable is left to nnU-Net.
        batch_dice: one Dice of the whole batch in place of one for each sample.
        do_bg: whether class 0 counts.
        smooth: added to numerator and denominator.
        ddp: with `batch_dice`, whether the sums are those of all ranks; the ranks' batches may differ in size.

    Attributes:
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Shape:
        As `SoftDiceLoss`.

    Example:
        >>> import torch
        >>> from fastmed.compat.nnunet import MemoryEfficientSoftDiceLoss
        >>> loss = MemoryEfficientSoftDiceLoss(torch.sigmoid, smooth=0.0, ddp=False)
        >>> loss(torch.zeros(1, 1, 4), torch.ones(1, 1, 4))
        tensor(-0.6667)
    """

    backend: str = "auto"

    def forward(self, x: Tensor, y: Tensor, loss_mask: Tensor | None = None) -> Tensor:
        """Minus the mean Dice."""
        return attempt("MemoryEfficientSoftDiceLoss", self._fused, super().forward, x, y, loss_mask)

    def _fused(self, x: Tensor, y: Tensor, loss_mask: Tensor | None) -> Tensor:
        if loss_mask is not None and loss_mask.ndim != x.ndim:
            raise ValueError(f"loss_mask: got shape {tuple(loss_mask.shape)}, fused is (N, 1 or C, *spatial)")
        if loss_mask is not None and loss_mask.shape[1] > 1 and not self.do_bg:
            raise ValueError("loss_mask: has channels, which nnU-Net takes for those of the foreground")
        return _fused(self, x, y, loss_mask)
