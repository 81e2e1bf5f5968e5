"""MONAI's `FocalLoss`, alone and as a term of other losses."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from monai import losses as peer
from torch import Tensor

from .... import formulas, ops
from ....contract import LossWeights, RatioLinear, RegionInput, RegionSums, Wanted, changed
from .base import Fused, first_class, ignore_index_of, read, valid_voxels, warn_of_single_channel

__all__ = ["FocalLoss"]


class Pass(NamedTuple):
    """What a focal loss reads.

    Attributes:
        operands: of the pass.
        first_class: the first of its classes that counts.
        valid: how many voxels of each sample count (N,), or None if the pass tells.
    """

    operands: RegionInput
    first_class: int
    valid: Tensor | None = None


def pass_of(loss: peer.FocalLoss, input: Tensor, target: Tensor, to_onehot_y: bool) -> Pass:
    """What a focal loss reads, as MONAI's options describe it."""
    if loss.reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: {loss.reduction!r} gives a loss for each voxel")
    if loss.reduction == "sum" and input.ndim < 3:
        raise ValueError("reduction: 'sum' without a spatial dimension is a mean over all")
    ignore_index = ignore_index_of(loss)
    first = first_class(input, loss.include_background)
    if not loss.use_softmax:
        return Pass(read(input, target, "sigmoid", to_onehot_y, ignore_index=ignore_index, gamma=loss.gamma), first)
    operands = read(input, target, "softmax", to_onehot_y, ignore_index=ignore_index, gamma=loss.gamma)
    return _without_background(operands, target, ignore_index) if first else Pass(operands, 0)


def _without_background(operands: RegionInput, target: Tensor, ignore_index: int | None) -> Pass:
    """MONAI takes the background away before the softmax."""
    if operands.input.shape[1] == 2:
        raise ValueError("use_softmax: without the background there is but one class")
    foreground = changed(operands, input=operands.input[:, 1:])
    if operands.is_dense:
        return Pass(changed(foreground, target=operands.target[:, 1:]), 0)
    # Labels of the background are of no class any more, and neither are those ignored.
    labels, valid = operands.target, None
    if ignore_index is not None:
        labels = labels.masked_fill(labels == ignore_index, 0)
        valid = valid_voxels(target, ignore_index).flatten(1).sum(1)
    return Pass(changed(foreground, target=labels.to(torch.int32) - 1, ignore_index=-1), 0, valid)


def _class_weight(loss: peer.FocalLoss, classes: int, like: Tensor) -> Tensor:
    """Factor of each class that counts, (C',) or (1,)."""
    if loss.class_weight is None:
        return like.new_ones(1)
    weight = loss.class_weight.to(like)
    if (weight.ndim and (classes == 1 or weight.numel() != classes)) or bool((weight < 0).any()):
        raise ValueError(f"weight: not one number of 0 or more for each of {classes} classes")
    return weight.reshape(-1)


def _ignores_alpha(loss: peer.FocalLoss) -> bool:
    return loss.use_softmax and not loss.include_background and isinstance(loss.alpha, float)


def _alpha(loss: peer.FocalLoss, classes: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of positives and negatives, each (C',)."""
    ones, alpha = like.new_ones(classes), loss.alpha
    if alpha is None or _ignores_alpha(loss):
        return ones, ones
    if isinstance(alpha, Tensor) and alpha.ndim:
        if alpha.shape[0] != classes:
            raise ValueError(f"alpha: has {alpha.shape[0]} numbers, not one for each of {classes} classes")
        return alpha.to(like), ones
    share = float(alpha)
    if not loss.use_softmax:
        return share * ones, (1.0 - share) * ones
    is_background = torch.arange(classes, device=like.device) == 0
    return torch.where(is_background, 1.0 - share, share).to(like), ones


def _check_hard(loss: peer.FocalLoss, operands: RegionInput, sums: RegionSums) -> None:
    """Raises `ValueError` where MONAI's factors of soft labels are other than those of the pass.

    The sums tell: between 0 and 1 a number is larger than its square.
    """
    is_linear = loss.use_softmax or (loss.gamma == 0 and loss.alpha is None)
    if operands.is_dense and not is_linear and not torch.equal(sums.target, sums.target_sq):
        raise ValueError("target: is soft, and takes gamma and alpha of the sigmoid another way than hard labels")


def of_sums(loss: peer.FocalLoss, reads: Pass, sums: RegionSums) -> Tensor:
    """The focal loss, float32, of the sums of its pass."""
    _check_hard(loss, reads.operands, sums)
    nll = _weighted(loss, sums, reads.first_class)
    if ignore_index_of(loss) is not None:
        valid = sums.weight[:, 0] if reads.valid is None else reads.valid
        valid = valid.float().clamp(min=torch.finfo(torch.float32).eps)
        return nll.sum() / valid.sum() if loss.reduction == "mean" else (nll.sum(1) / valid).sum()
    total = nll.sum() / reads.operands.input.shape[2]
    return total / nll.numel() if loss.reduction == "mean" else total


def _weighted(loss: peer.FocalLoss, sums: RegionSums, first: int) -> Tensor:
    """The nll (N, C') of the classes that count, times their factors."""
    regions = formulas.regions_of(sums, RatioLinear(first_class=first))
    classes, like = regions.tp.shape[1], regions.tp
    of_positives, of_negatives = _alpha(loss, classes, like)
    nll = formulas.weighted_nll(regions, RatioLinear(), LossWeights(nll_pos=of_positives, nll_neg=of_negatives))
    return (nll * _class_weight(loss, classes, like)).float()


def warn_of_options(loss: peer.FocalLoss, input: Tensor) -> None:
    """The warnings of a focal loss of MONAI's."""
    warn_of_single_channel(input, to_onehot_y=loss.to_onehot_y, exclude_background=not loss.include_background)
    if _ignores_alpha(loss):
        warnings.warn("`include_background=False`, scalar `alpha` ignored when using softmax.", stacklevel=3)


class FocalLoss(Fused, peer.FocalLoss):
    """`monai.losses.FocalLoss` in one pass over logits and labels; arguments, shapes and warnings are MONAI's.

    A loss for each voxel (`reduction="none"`) and soft labels under a sigmoid take MONAI's own way.

    Example:
        >>> import torch
        >>> from fastmed.compat.monai import FocalLoss
        >>> pred = torch.tensor([[1, 0], [0, 1], [1, 0]], dtype=torch.float32)
        >>> grnd = torch.tensor([[0], [1], [0]], dtype=torch.int64)
        >>> FocalLoss(to_onehot_y=True)(pred, grnd)
        tensor(0.0980)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss; input (N, C, *spatial), target (N, C, *spatial) or labels (N, 1, *spatial)."""
        return self._fused_or(super().forward, input, target)

    def _fused(self, input: Tensor, target: Tensor) -> Tensor:
        reads = pass_of(self, input, target, self.to_onehot_y)
        value = of_sums(self, reads, ops.region_sums(reads.operands, Wanted(), None, self.backend))
        warn_of_options(self, input)
        return value
