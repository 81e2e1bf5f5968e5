"""nnU-Net's Dice with a cross entropy, both on the sums of one pass."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.loss import compound_losses as peer
from nnunetv2.training.loss import dice as peer_dice
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import Tensor

from ...contract import RegionSums
from ...functional import region_sums
from ..attempt import attempt
from ..fallback import announce
from .dice import MemoryEfficientSoftDiceLoss, SoftDiceLoss, activation_of, as_labels, negative_dice

__all__ = ["DC_and_BCE_loss", "DC_and_CE_loss", "DC_and_topk_loss"]

_DICE_CLASSES = (
    SoftDiceLoss,
    MemoryEfficientSoftDiceLoss,
    peer_dice.SoftDiceLoss,
    peer_dice.MemoryEfficientSoftDiceLoss,
)


def _dice_activation(dice: Any) -> str | None:
    """The activation of a Dice that is known; `ValueError` for any other."""
    if type(dice) not in _DICE_CLASSES:
        raise ValueError(f"dice_class: is {type(dice).__name__}; fused are nnU-Net's own")
    return activation_of(dice.apply_nonlin)


def _cross_entropy(sums: RegionSums, ce: Any, may_be_empty: bool) -> Tensor:
    """Torch's cross entropy, 0 without a valid voxel if there may be none."""
    if sums.nll_pos is None:
        raise ValueError("sums: hold no nll")
    weight = torch.ones_like(sums.weight[0]) if ce.weight is None else ce.weight
    nll = (weight * sums.nll_pos).sum()
    if ce.reduction == "sum":
        return nll
    normaliser = (weight * sums.target).sum()
    if not may_be_empty:
        return nll / normaliser
    is_empty = sums.weight.sum() == 0
    return torch.where(is_empty, 0.0, nll) / torch.where(is_empty, 1.0, normaliser)


def _weight_of_positives(ce: Any, input: Tensor) -> Tensor | float:
    """The weights (C,) that broadcast over a batch as torch's `pos_weight` does."""
    weight = ce.pos_weight
    if weight is None or weight.numel() == 1:
        return 1.0 if weight is None else weight.reshape(())
    c, *flat = input.shape[1], *[1] * (input.ndim - 2)
    if weight.shape not in ((c, *flat), (1, c, *flat)):
        raise ValueError(f"pos_weight: got shape {tuple(weight.shape)}, fused is one number a channel")
    of_class: Tensor = weight.reshape(c)
    return of_class


class DC_and_CE_loss(peer.DC_and_CE_loss):  # noqa: N801
    """`nnunetv2.training.loss.compound_losses.DC_and_CE_loss` in one pass; no host waits for an ignore label.

    Args:
        soft_dice_kwargs: arguments of `dice_class`.
        ce_kwargs: arguments of `torch.nn.CrossEntropyLoss`; fused are `weight`, `label_smoothing` and the reductions
            "mean" and "sum".
        weight_ce: factor of the cross entropy.
        weight_dice: factor of the Dice.
        ignore_label: label whose voxels count nowhere; without any other the cross entropy is 0.
        dice_class: `SoftDiceLoss` or `MemoryEfficientSoftDiceLoss`, of nnU-Net or of this package.

    Attributes:
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Shape:
        net_output logits (N, C, *spatial); target labels (N, 1, *spatial) of any dtype. Returns a scalar.

    Raises:
        AssertionError: for one-hot targets with an ignore label, as nnU-Net.

    Example:
        >>> import torch
        >>> from fastmed.compat.nnunet import DC_and_CE_loss
        >>> loss = DC_and_CE_loss({"smooth": 1e-5, "do_bg": False}, {}, ignore_label=2)
        >>> loss(torch.zeros(1, 2, 4), torch.tensor([[[0, 1, 1, 2]]]))
        tensor(0.1217)
    """

    backend: str = "auto"

    def forward(self, net_output: Tensor, target: Tensor) -> Tensor:
        """The weighted sum of Dice and cross entropy."""
        return attempt("DC_and_CE_loss", self._fused, super().forward, net_output, target)

    def _fused(self, net_output: Tensor, target: Tensor) -> Tensor:
        n, _, *spatial = net_output.shape
        ce, activation = self.ce, _dice_activation(self.dc)
        if target.shape != (n, 1, *spatial):
            raise ValueError(f"target: got shape {tuple(target.shape)}, fused are labels (N, 1, *spatial)")
        if ce.reduction == "none":
            raise ValueError("reduction: 'none' gives a cross entropy for each voxel")
        if self.ignore_label is None and ce.ignore_index >= 0:
            raise ValueError("ignore_index: is that of the cross entropy alone")
        sums = region_sums(
            net_output,
            as_labels(target, net_output),
            activation=activation,
            ignore_index=self.ignore_label,
            nll=self.weight_ce != 0,
            label_smoothing=ce.label_smoothing,
            backend=self.backend,
        )
        result = net_output.new_zeros((), dtype=sums.tp.dtype)
        if self.weight_ce != 0:
            result = result + self.weight_ce * _cross_entropy(sums, ce, self.ignore_label is not None)
        if self.weight_dice != 0:
            result = result + self.weight_dice * negative_dice(sums, self.dc)
        return result


class DC_and_BCE_loss(peer.DC_and_BCE_loss):  # noqa: N801
    """`nnunetv2.training.loss.compound_losses.DC_and_BCE_loss` in one pass, for regions that overlap.

    Args:
        bce_kwargs: arguments of `torch.nn.BCEWithLogitsLoss`; fused are `pos_weight` (one, or one a channel) and the
            reductions "mean" and "sum".
        soft_dice_kwargs: arguments of `dice_class`.
        weight_ce: factor of the cross entropy.
        weight_dice: factor of the Dice.
        use_ignore_label: whether the last channel of the target marks voxels that do not count. The cross entropy is
            then the mean over voxels of a sum over channels, as in nnU-Net. Its inverse, a byte a voxel, is kept for
            the backward pass.
        dice_class: `SoftDiceLoss` or `MemoryEfficientSoftDiceLoss`, of nnU-Net or of this package.

    Attributes:
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Shape:
        net_output logits (N, C, *spatial); target (N, C, *spatial), or (N, C + 1, *spatial) with an ignore label.
        Returns a scalar.

    Example:
        >>> import torch
        >>> from fastmed.compat.nnunet import DC_and_BCE_loss
        >>> loss = DC_and_BCE_loss({}, {"smooth": 1e-5, "ddp": False})
        >>> loss(torch.zeros(1, 1, 4), torch.tensor([[[0, 1, 1, 0]]], dtype=torch.bool))
        tensor(0.1931)
    """

    backend: str = "auto"

    def forward(self, net_output: Tensor, target: Tensor) -> Tensor:
        """The weighted sum of Dice and cross entropy."""
        return attempt("DC_and_BCE_loss", self._fused, super().forward, net_output, target)

    def _fused(self, net_output: Tensor, target: Tensor) -> Tensor:
        ce, activation = self.ce, _dice_activation(self.dc)
        mask = None
        if self.use_ignore_label:
            ignored = target[:, -1:]
            mask = ~ignored if ignored.dtype == torch.bool else (1 - ignored).bool()
            target = target[:, :-1]
        if target.shape != net_output.shape:
            raise ValueError(f"target: got shape {tuple(target.shape)}, fused is a channel for each of the input")
        if ce.weight is not None:
            raise ValueError("weight: is one of each voxel")
        if ce.reduction == "none" and mask is None:
            raise ValueError("reduction: 'none' gives a cross entropy for each voxel")
        positives = _weight_of_positives(ce, net_output)
        sums = region_sums(net_output, target.detach(), activation=activation, mask=mask, backend=self.backend)
        if sums.nll_pos is None or sums.nll_neg is None:
            raise ValueError("apply_nonlin: is not torch.sigmoid")
        entropy = (positives * sums.nll_pos + sums.nll_neg).sum()
        if mask is not None:
            entropy = entropy / sums.weight[:, 0].sum().clip(min=1e-8)
        elif ce.reduction == "mean":
            entropy = entropy / net_output.numel()
        return self.weight_ce * entropy + self.weight_dice * negative_dice(sums, self.dc)


class DC_and_topk_loss(peer.DC_and_topk_loss):  # noqa: N801
    """`nnunetv2.training.loss.compound_losses.DC_and_topk_loss`, its Dice in one pass.

    The mean of the largest losses needs the loss of every voxel, so that the cross entropy is nnU-Net's own.

    Args:
        soft_dice_kwargs: arguments of `SoftDiceLoss`.
        ce_kwargs: arguments of nnU-Net's `TopKLoss`.
        weight_ce: factor of the cross entropy.
        weight_dice: factor of the Dice.
        ignore_label: label whose voxels count nowhere.

    Shape:
        As `DC_and_CE_loss`.
    """

    def __init__(self, soft_dice_kwargs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(soft_dice_kwargs, *args, **kwargs)
        self.dc = SoftDiceLoss(apply_nonlin=softmax_helper_dim1, **soft_dice_kwargs)

    def forward(self, net_output: Tensor, target: Tensor) -> Tensor:
        """The weighted sum of Dice and cross entropy."""
        announce("nnunetv2", "DC_and_topk_loss", "k: the largest losses are chosen among those of all voxels")
        result: Tensor = super().forward(net_output, target)
        return result
