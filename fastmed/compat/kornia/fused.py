"""kornia's losses as formulas on the sums of a pass; `ValueError` or `TypeError` for what kornia is to judge."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ... import ops, validation
from ...contract import RegionInput, RegionSums, Wanted, changed


def _check_labels(pred: Tensor, target: Tensor) -> None:
    expected = (pred.shape[0], *pred.shape[2:])
    if tuple(target.shape) != expected or target.dtype != torch.int64:
        raise ValueError(f"target: is {target.dtype} of shape {tuple(target.shape)}, not torch.int64 of {expected}")


def _check_weight(name: str, weight: Tensor | None, pred: Tensor) -> None:
    if weight is not None and (tuple(weight.shape) != (pred.shape[1],) or weight.device != pred.device):
        raise ValueError(f"{name}: is not one number for each class on the device of pred")


def _as_kornia(loss: Tensor, *operands: Tensor | None) -> Tensor:
    """The loss in the type that kornia's operands promote to."""
    types = [each.dtype for each in operands if each is not None]
    return loss.to(functools.reduce(torch.promote_types, types))


def _overlap_sums(pred: Tensor, target: Tensor, ignore_index: int | None, backend: str) -> RegionSums:
    if pred.ndim != 4:
        raise ValueError(f"pred: has shape {tuple(pred.shape)}, not (N, C, H, W)")
    _check_labels(pred, target)
    operands = validation.region_input(pred, target, None, "softmax", ignore_index)
    return ops.region_sums(operands, Wanted(nll=False), None, backend)


def _quotient(numerator: Tensor, denominator: Tensor, empty: Tensor) -> Tensor:
    """The quotient, and 0 without a gradient where there is nothing."""
    return (numerator / denominator.masked_fill(empty, 1.0)).masked_fill(empty, 0.0)


def dice(
    pred: Tensor,
    target: Tensor,
    average: str,
    eps: float,
    weight: Tensor | None,
    ignore_index: int | None,
    *,
    backend: str = "auto",
) -> Tensor:
    """`kornia.losses.dice_loss`."""
    validation.choice("average", average, ("micro", "macro"))
    _check_weight("weight", weight, pred)
    sums = _overlap_sums(pred, target, ignore_index, backend)
    of_class = torch.ones_like(sums.tp[0]) if weight is None else weight
    intersection, cardinality = sums.tp, sums.pred + sums.target
    if average == "micro":
        intersection, cardinality = (of_class * intersection).sum(1), (of_class * cardinality).sum(1)
    loss = 1.0 - _quotient(2.0 * intersection, cardinality + eps, cardinality == 0)
    if average == "macro":
        present = of_class * (sums.target > 0)
        total = present.sum(1)
        loss = 1.0 - _quotient(((1.0 - loss) * present).sum(1), total, total == 0)
    return _as_kornia(loss.mean(), pred, weight)


def tversky(
    pred: Tensor,
    target: Tensor,
    alpha: float,
    beta: float,
    eps: float,
    ignore_index: int | None,
    *,
    backend: str = "auto",
) -> Tensor:
    """`kornia.losses.tversky_loss`."""
    sums = _overlap_sums(pred, target, ignore_index, backend)
    present = sums.target > 0
    denominator = sums.tp + alpha * (sums.pred - sums.tp) + beta * (sums.target - sums.tp) + eps
    score = _quotient(sums.tp, denominator, ~present).sum(1) / present.sum(1).clamp_min(1)
    return (1.0 - score.mean()).to(pred.dtype)


def _check_focal(reduction: str, alpha: float | None) -> None:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: {reduction!r} gives a loss for each voxel")
    if alpha is not None and not isinstance(alpha, int | float):
        raise TypeError(f"alpha: is a {type(alpha).__name__}, not a number")


def _reduced(nll: Tensor, pred: Tensor, reduction: str) -> Tensor:
    """Kornia's mean is over all elements, also those ignored."""
    return nll.sum() / pred.numel() if reduction == "mean" else nll.sum()


def focal(
    pred: Tensor,
    target: Tensor,
    alpha: float | None,
    gamma: float,
    reduction: str,
    weight: Tensor | None,
    ignore_index: int | None,
    *,
    backend: str = "auto",
) -> Tensor:
    """`kornia.losses.focal_loss`."""
    _check_focal(reduction, alpha)
    _check_labels(pred, target)
    _check_weight("weight", weight, pred)
    operands = validation.region_input(pred, target, None, "softmax", ignore_index, gamma=gamma)
    nll = _nll(operands, backend).nll_pos
    assert nll is not None
    if alpha is not None:
        is_background = torch.arange(nll.shape[1], device=nll.device) == 0
        nll = torch.where(is_background, 1.0 - alpha, alpha).to(nll) * nll
    if weight is not None:
        nll = weight * nll
    return _as_kornia(_reduced(nll, pred, reduction), pred, weight)


def binary_focal(
    pred: Tensor,
    target: Tensor,
    alpha: float | None,
    gamma: float,
    reduction: str,
    pos_weight: Tensor | None,
    weight: Tensor | None,
    ignore_index: int | None,
    *,
    backend: str = "auto",
) -> Tensor:
    """`kornia.losses.binary_focal_loss_with_logits`."""
    _check_focal(reduction, alpha)
    if target.shape != pred.shape:
        raise ValueError(f"target: has shape {tuple(target.shape)}, not {tuple(pred.shape)}")
    _check_weight("pos_weight", pos_weight, pred)
    _check_weight("weight", weight, pred)
    operands = validation.region_input(pred, target, None, "sigmoid", None, gamma=gamma)
    # The value of an element, where our own losses take the class for a voxel.
    operands = changed(operands, ignore_index=ignore_index)
    sums = _nll(operands, backend)
    pos, neg = sums.nll_pos, sums.nll_neg
    assert pos is not None
    assert neg is not None
    if alpha is not None:
        pos, neg = alpha * pos, (1.0 - alpha) * neg
    if pos_weight is not None:
        pos = pos_weight * pos
    nll = pos + neg if weight is None else weight * (pos + neg)
    return _as_kornia(_reduced(nll, pred, reduction), pred, target, pos_weight, weight)


def _nll(operands: RegionInput, backend: str) -> RegionSums:
    return ops.region_sums(operands, Wanted(), None, backend)
