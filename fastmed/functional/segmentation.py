"""Losses of segmentation: soft Dice, alone and with a cross entropy, from one pass over the voxels."""

from __future__ import annotations

from torch import Tensor

from .. import validation
from ..contract import LossWeights, RatioLinear
from ..labels import MissingPolicy
from ..validation import BinaryWeight, ClassWeight
from .region import region_loss


def _dice(
    squared: bool,
    include_background: bool,
    pool: str,
    smooth: float,
    reduction: str,
    process_group: object | None,
    num_classes: int,
) -> RatioLinear:
    """The Dice part of a loss from its options, checked."""
    validation.choice("pool", pool, validation.POOLS)
    validation.choice("reduction", reduction, validation.REDUCTIONS)
    validation.non_negative("smooth", smooth)
    if not include_background and num_classes == 1:
        raise ValueError("include_background: got False with one class, which leaves none; allowed is True")
    if process_group is not None and pool != "batch":
        raise ValueError(f"process_group: needs pool='batch', got pool={pool!r}")
    return RatioLinear(
        smooth_numerator=smooth,
        smooth_denominator=smooth,
        squared=squared,
        first_class=0 if include_background else 1,
        pool_batch=pool == "batch",
        mean=reduction != "sum",
    )


def _check_compound(pool: str, reduction: str, lambdas: dict[str, float]) -> None:
    if reduction == "none" and pool == "batch":
        raise ValueError("reduction: got 'none' with pool='batch', which has no loss of a sample; allowed is 'mean'")
    for name, value in lambdas.items():
        validation.non_negative(name, value)


def soft_dice_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    activation: str | None = "softmax",
    squared: bool = True,
    include_background: bool = True,
    pool: str = "sample",
    smooth: float = 1e-5,
    class_weight: ClassWeight = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    process_group: object | None = None,
    validate: bool | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""Soft Dice loss.

    `1 - (2 sum(p g) + smooth) / (sum(p^2) + sum(g^2) + smooth)` for every sample and class (Milletari et al.,
    "V-Net", 2016), or with `sum(p) + sum(g)` in the denominator if not `squared` (Sudre et al., 2017).

    Args:
        input: logits (N, C, *spatial), or probabilities if `activation` is None.
        target: integer labels (N, *spatial) or (N, 1, *spatial), or a dense target (N, C, *spatial).
        mask: voxel weights (N, *spatial), (N, 1, *spatial) or (N, C, *spatial), or one for each sample and class,
            (N, C); 0 removes a voxel.
        activation: "softmax", "sigmoid" or None.
        squared: whether the denominator sums squares.
        include_background: whether class 0 enters the loss; the softmax always runs over all classes.
        pool: "sample" for a Dice of each sample, "batch" for one over all samples.
        smooth: added to numerator and denominator, at least 0.
        class_weight: weight of each class (C,), or one number; the mean divides by the count, as MONAI's does.
        reduction: "mean" or "sum" over samples and classes, or "none" for (N, C') ((1, C') pooled).
        ignore_index: label (or value of a dense target) whose voxels are removed.
        process_group: sums are added over its ranks first, with `pool="batch"`; all ranks get the same loss.
        validate: whether labels out of range raise; None = where that needs no device synchronisation.
        backend: "auto" or a name: see `fastmed info`.

    Returns:
        A scalar, or a tensor for "none"; float32 (float64 for float64 input). Between 0 and 1 for unit weights.

    Raises:
        ValueError: for an argument out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import soft_dice_loss
        >>> logits = torch.tensor([[[20.0, -20.0], [-20.0, 20.0]]], requires_grad=True)
        >>> loss = soft_dice_loss(logits, torch.tensor([[0, 1]]))
        >>> loss.backward()
        >>> round(loss.item(), 6)
        0.0
    """
    operands = validation.region_input(input, target, mask, activation, ignore_index)
    loss = _dice(squared, include_background, pool, smooth, reduction, process_group, input.shape[1])
    weights = LossWeights(region=validation.class_weights("class_weight", class_weight, input))
    return region_loss(
        operands,
        loss,
        weights,
        reduction=reduction,
        process_group=process_group,
        validate=validate,
        backend=backend,
    )


def dice_bce_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    squared: bool = True,
    include_background: bool = True,
    pool: str = "sample",
    smooth: float = 1e-5,
    class_weight: ClassWeight = None,
    pos_weight: BinaryWeight = None,
    neg_weight: BinaryWeight = None,
    task_weight: ClassWeight = None,
    missing: MissingPolicy | None = None,
    lambda_dice: float = 1.0,
    lambda_bce: float = 1.0,
    reduction: str = "mean",
    ignore_index: int | None = None,
    process_group: object | None = None,
    validate: bool | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""Soft Dice plus weighted binary cross entropy of sigmoid outputs, from one pass.

    `lambda_dice * Dice + lambda_bce * sum(pos_weight g softplus(-x) + neg_weight (1 - g) softplus(x)) / sum(w)`:
    torch's `binary_cross_entropy_with_logits` with its `pos_weight`, over all classes, and the Dice of
    `soft_dice_loss`. Exactly 0 where every voxel is removed.

    Partial labels, of patients annotated for some classes only, are a mask (N, C), or labels of -1 or NaN in the
    channels without annotation and `missing="ignore"`: they leave both terms, and take no gradient.

    Args:
        input: logits (N, C, *spatial), a sigmoid each.
        target: dense target (N, C, *spatial); integer labels (N, *spatial), one-hot for C > 1.
        mask: voxel weights of both terms, see `soft_dice_loss`; or one for each sample and class, (N, C). With one
            spatial dimension of size C, such a mask is read as voxel weights; then give it as (N, C, C).
        squared: see `soft_dice_loss`.
        include_background: whether class 0 enters the Dice; the cross entropy always has all classes.
        pool: see `soft_dice_loss`.
        smooth: see `soft_dice_loss`.
        class_weight: weight of each class in the Dice, (C,) or one number.
        pos_weight: weight of positives in the cross entropy, (C,) or one number, or "balanced": the share of
            negatives in the batch, in the same pass.
        neg_weight: weight of negatives, likewise; "balanced" is the share of positives.
        task_weight: weight of each class in the cross entropy, (C,) or one number.
        missing: what -1 in a dense target stands for, see `multitask_bce_loss`; NaN is then ignored as well.
        lambda_dice: factor of the Dice, at least 0.
        lambda_bce: factor of the cross entropy, at least 0.
        reduction: "mean", "sum" over regions and voxels, or "none" for one loss a sample, (N,).
        ignore_index: see `soft_dice_loss`.
        process_group: see `soft_dice_loss`.
        validate: see `soft_dice_loss`.
        backend: see `soft_dice_loss`.

    Returns:
        A scalar, or (N,) for "none"; float32 (float64 for float64 input), at least 0.

    Raises:
        ValueError: for an argument out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import dice_bce_loss
        >>> logits, lesion = torch.zeros(1, 1, 8, 8, 8), torch.ones(1, 8, 8, 8, dtype=torch.uint8)
        >>> round(dice_bce_loss(logits, lesion).item(), 4)  # Dice 1 - 1 / 1.25, cross entropy log 2
        0.8931
    """
    operands = validation.binary_input(input, target, mask, ignore_index=ignore_index, missing=missing)
    _check_compound(pool, reduction, {"lambda_dice": lambda_dice, "lambda_bce": lambda_bce})
    balance_pos, balance_neg, pos, neg = validation.binary_weights(pos_weight, neg_weight, task_weight, input)
    dice = _dice(squared, include_background, pool, smooth, reduction, process_group, input.shape[1])
    loss = dice._replace(
        lambda_ratio=lambda_dice,
        lambda_nll=lambda_bce,
        nll_mean="elements",
        balance_pos=balance_pos,
        balance_neg=balance_neg,
    )
    return region_loss(
        operands,
        loss,
        LossWeights(validation.class_weights("class_weight", class_weight, input), pos, neg),
        reduction=reduction,
        process_group=process_group,
        validate=validate,
        backend=backend,
    )


def dice_ce_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    squared: bool = True,
    include_background: bool = True,
    pool: str = "sample",
    smooth: float = 1e-5,
    class_weight: ClassWeight = None,
    lambda_dice: float = 1.0,
    lambda_ce: float = 1.0,
    reduction: str = "mean",
    ignore_index: int | None = None,
    process_group: object | None = None,
    validate: bool | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""Soft Dice plus cross entropy of softmax outputs, from one pass.

    `lambda_dice * Dice + lambda_ce * CE`, the CE as torch's `cross_entropy`: with labels `sum_c v_c nll_c / sum_c
    v_c target_c`, with a dense target the sum divided by the number of voxels; but exactly 0, not NaN, where
    every voxel is removed.

    Args:
        input: logits (N, C, *spatial), C at least 2.
        target: integer labels (N, *spatial) or (N, 1, *spatial), or a dense target (N, C, *spatial).
        mask: voxel weights of both terms, see `soft_dice_loss`.
        squared: see `soft_dice_loss`.
        include_background: whether class 0 enters the Dice; the cross entropy always has all classes.
        pool: see `soft_dice_loss`.
        smooth: see `soft_dice_loss`.
        class_weight: weight of each class in both terms, (C,) or one number.
        lambda_dice: factor of the Dice, at least 0.
        lambda_ce: factor of the cross entropy, at least 0.
        reduction: "mean", "sum" over regions and voxels, or "none" for one loss a sample, (N,).
        ignore_index: see `soft_dice_loss`.
        process_group: see `soft_dice_loss`.
        validate: see `soft_dice_loss`.
        backend: see `soft_dice_loss`.

    Returns:
        A scalar, or (N,) for "none"; float32 (float64 for float64 input), at least 0.

    Raises:
        ValueError: for an argument out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import dice_ce_loss
        >>> logits, labels = torch.zeros(1, 4, 8, 8, 8), torch.randint(4, (1, 8, 8, 8))
        >>> round(dice_ce_loss(logits, labels, lambda_dice=0.0).item(), 4)  # log 4
        1.3863
    """
    operands = validation.region_input(input, target, mask, "softmax", ignore_index)
    _check_compound(pool, reduction, {"lambda_dice": lambda_dice, "lambda_ce": lambda_ce})
    dice = _dice(squared, include_background, pool, smooth, reduction, process_group, input.shape[1])
    nll_mean = "voxels" if operands.is_dense else "target"
    loss = dice._replace(lambda_ratio=lambda_dice, lambda_nll=lambda_ce, nll_mean=nll_mean)
    class_weights = validation.class_weights("class_weight", class_weight, input)
    return region_loss(
        operands,
        loss,
        LossWeights(region=class_weights, nll_pos=class_weights),
        reduction=reduction,
        process_group=process_group,
        validate=validate,
        backend=backend,
    )
