"""kornia's functions, with kornia's arguments and defaults."""

from __future__ import annotations

from kornia import losses as peer
from torch import Tensor

from ..attempt import attempt
from . import fused

__all__ = ["binary_focal_loss_with_logits", "dice_loss", "focal_loss", "tversky_loss"]


def dice_loss(
    pred: Tensor,
    target: Tensor,
    average: str = "micro",
    eps: float = 1e-8,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
) -> Tensor:
    """`kornia.losses.dice_loss` in one pass.

    Args:
        pred: logits (N, C, H, W).
        target: labels (N, H, W), int64.
        average: "micro" for one Dice of each sample, "macro" for the mean over its classes in the target.
        eps: added to the denominator.
        weight: of each class, (C,).
        ignore_index: label whose pixels are left out.

    Returns:
        A scalar of the type of `pred`.

    Raises:
        Exception: as kornia.

    Example:
        >>> import torch
        >>> from fastmed.compat.kornia import dice_loss
        >>> dice_loss(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.int64))
        tensor(0.5000)
    """
    return attempt("dice_loss", fused.dice, peer.dice_loss, pred, target, average, eps, weight, ignore_index)


def tversky_loss(
    pred: Tensor, target: Tensor, alpha: float, beta: float, eps: float = 1e-8, ignore_index: int | None = -100
) -> Tensor:
    """`kornia.losses.tversky_loss` in one pass.

    Args:
        pred: logits (N, C, H, W).
        target: labels (N, H, W), int64.
        alpha: weight of false positives.
        beta: weight of false negatives.
        eps: added to the denominator.
        ignore_index: label whose pixels are left out.

    Returns:
        A scalar of the type of `pred`.

    Raises:
        Exception: as kornia.

    Example:
        >>> import torch
        >>> from fastmed.compat.kornia import tversky_loss
        >>> tversky_loss(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.int64), alpha=0.5, beta=0.5)
        tensor(0.3333)
    """
    return attempt("tversky_loss", fused.tversky, peer.tversky_loss, pred, target, alpha, beta, eps, ignore_index)


def focal_loss(
    pred: Tensor,
    target: Tensor,
    alpha: float | None,
    gamma: float = 2.0,
    reduction: str = "none",
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
) -> Tensor:
    """`kornia.losses.focal_loss` in one pass; `reduction="none"`, a loss for each voxel, takes kornia's own way.

    Args:
        pred: logits (N, C, *spatial).
        target: labels (N, *spatial), int64.
        alpha: weight of every class but the first, whose weight is 1 - alpha; None for no weights.
        gamma: exponent of the focal factor.
        reduction: "mean" over voxels and classes, "sum" or "none".
        weight: of each class, (C,).
        ignore_index: label whose voxels add nothing, but count in the mean.

    Returns:
        A scalar, or (N, C, *spatial) for "none".

    Raises:
        Exception: as kornia.

    Example:
        >>> import torch
        >>> from fastmed.compat.kornia import focal_loss
        >>> labels = torch.ones(1, 4, 4, dtype=torch.int64)
        >>> focal_loss(torch.zeros(1, 2, 4, 4), labels, alpha=None, reduction="mean")  # log(2) / 4 / 2
        tensor(0.0866)
    """
    return attempt(
        "focal_loss", fused.focal, peer.focal_loss, pred, target, alpha, gamma, reduction, weight, ignore_index
    )


def binary_focal_loss_with_logits(
    pred: Tensor,
    target: Tensor,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    pos_weight: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
) -> Tensor:
    """`kornia.losses.binary_focal_loss_with_logits` in one pass; `reduction="none"` takes kornia's own way.

    Args:
        pred: logits (N, C, *spatial).
        target: 0 to 1 for each of them.
        alpha: weight of the positives; that of the negatives is 1 - alpha. None for no weights.
        gamma: exponent of the focal factor.
        reduction: "mean", "sum" or "none".
        pos_weight: weight of the positives of each class, (C,).
        weight: of each class, (C,).
        ignore_index: value of the target whose voxels add nothing, but count in the mean.

    Returns:
        A scalar, or (N, C, *spatial) for "none".

    Raises:
        Exception: as kornia.

    Example:
        >>> import torch
        >>> from fastmed.compat.kornia import binary_focal_loss_with_logits
        >>> binary_focal_loss_with_logits(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4), reduction="mean")
        tensor(0.0433)
    """
    return attempt(
        "binary_focal_loss_with_logits",
        fused.binary_focal,
        peer.binary_focal_loss_with_logits,
        pred,
        target,
        alpha,
        gamma,
        reduction,
        pos_weight,
        weight,
        ignore_index,
    )
