"""Compound losses: an overlap and a cross entropy from one pass over the voxels."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from .. import formulas, validation
from ..contract import LossWeights, RatioLinear, RegionSums, Wanted, changed
from ..labels import MissingPolicy
from ..validation import BinaryWeight, ClassWeight
from .entropy import binary_focal_terms, cross_entropy_terms, is_dense
from .options import Options, RegionOptions
from .overlap import dice_ratio, tversky_ratio
from .terms import OVERLAP, Pass, Term, evaluate, ratio_linear_term


def _check(options: Options, lambdas: dict[str, float]) -> None:
    options.check()
    if options.reduction == "none" and options.pool == "batch":
        raise ValueError("reduction: got 'none' with pool='batch', which has no loss of a sample; allowed is 'mean'")
    for name, value in lambdas.items():
        validation.non_negative(name, value)


def _dice(input: Tensor, options: Options, squared: bool, smooth: float) -> RatioLinear:
    return changed(
        dice_ratio(squared, smooth),
        first_class=options.first_class(input),
        pool_batch=options.pool == "batch",
        mean=options.reduction != "sum",
    )


def dice_bce_terms(
    input: Tensor,
    options: Options,
    *,
    squared: bool = True,
    smooth: float = 1e-5,
    pos_weight: BinaryWeight = None,
    neg_weight: BinaryWeight = None,
    task_weight: ClassWeight = None,
    missing: MissingPolicy | None = None,
    lambda_dice: float = 1.0,
    lambda_bce: float = 1.0,
) -> list[Term]:
    """The terms of `dice_bce_loss`."""
    _check(options, {"lambda_dice": lambda_dice, "lambda_bce": lambda_bce})
    balance_pos, balance_neg, pos, neg = validation.binary_weights(pos_weight, neg_weight, task_weight, input)
    loss = changed(
        _dice(input, options, squared, smooth),
        lambda_ratio=lambda_dice,
        lambda_nll=lambda_bce,
        nll_mean="elements",
        balance_pos=balance_pos,
        balance_neg=balance_neg,
    )
    weights = LossWeights(options.weights(input), pos, neg)
    return [ratio_linear_term(Pass("sigmoid", OVERLAP, missing=missing), loss, weights, options)]


def dice_ce_terms(
    input: Tensor,
    target: Tensor,
    options: Options,
    *,
    squared: bool = True,
    smooth: float = 1e-5,
    label_smoothing: float = 0.0,
    lambda_dice: float = 1.0,
    lambda_ce: float = 1.0,
) -> list[Term]:
    """The terms of `dice_ce_loss`."""
    _check(options, {"lambda_dice": lambda_dice, "lambda_ce": lambda_ce})
    loss = changed(
        _dice(input, options, squared, smooth),
        lambda_ratio=lambda_dice,
        lambda_nll=lambda_ce,
        nll_mean="voxels" if is_dense(input, target) else "target",
    )
    weights = options.weights(input)
    reads = Pass("softmax", OVERLAP, label_smoothing=label_smoothing)
    return [ratio_linear_term(reads, loss, LossWeights(region=weights, nll_pos=weights), options)]


def dice_focal_terms(
    input: Tensor,
    target: Tensor,
    options: Options,
    *,
    activation: str = "softmax",
    squared: bool = True,
    smooth: float = 1e-5,
    gamma: float = 2.0,
    alpha: ClassWeight = None,
    lambda_dice: float = 1.0,
    lambda_focal: float = 1.0,
) -> list[Term]:
    """The terms of `dice_focal_loss`."""
    validation.choice("activation", activation, ("softmax", "sigmoid"))
    _check(options, {"lambda_dice": lambda_dice, "lambda_focal": lambda_focal})
    of_all = changed(options, include_background=True)
    if activation == "sigmoid":
        (focal,) = binary_focal_terms(input, of_all, gamma=gamma, alpha=alpha)
    elif alpha is None:
        (focal,) = cross_entropy_terms(input, target, of_all, gamma=gamma)
    else:
        raise ValueError(f"alpha: got {alpha!r} with activation='softmax', which has class_weight; allowed is None")
    assert focal.fused is not None
    of_focal, weights = focal.fused
    loss = changed(
        _dice(input, options, squared, smooth),
        lambda_ratio=lambda_dice,
        lambda_nll=lambda_focal,
        nll_mean=of_focal.nll_mean,
    )
    weights = changed(weights, region=options.weights(input))
    return [ratio_linear_term(focal.reads, loss, weights, options)]


def unified_focal_terms(
    input: Tensor,
    options: Options,
    *,
    weight: float = 0.5,
    delta: float = 0.6,
    gamma: float = 0.5,
    smooth: float = 1e-5,
) -> list[Term]:
    """The terms of `unified_focal_loss`."""
    _check(options, {})
    for name, value in (("weight", weight), ("delta", delta), ("gamma", gamma)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name}: got {value!r}, allowed is 0 to 1")
    tversky, weights = tversky_ratio(1.0 - delta, delta, smooth), options.weights(input)
    selection = RatioLinear(pool_batch=options.pool == "batch")

    def weighted(values: Tensor, first_class: int = 0) -> Tensor:
        return values if weights is None else values * weights[first_class : first_class + values.shape[1]]

    def per_voxel(costs: Tensor, sums: RegionSums) -> Tensor:
        """The mean over voxels of the cost of some classes, or of each sample."""
        voxels = sums.weight.mean(1)
        if options.reduction == "none":
            return costs.sum(1) / voxels.clamp(min=1.0)
        return costs.sum() if options.reduction == "sum" else costs.sum() / voxels.sum().clamp(min=1.0)

    def background(sums: RegionSums) -> Tensor:
        assert sums.nll_pos is not None
        return per_voxel((1.0 - delta) * weighted(sums.nll_pos[:, :1]), sums)

    def foreground(sums: RegionSums) -> Tensor:
        assert sums.nll_pos is not None
        return per_voxel(delta * weighted(sums.nll_pos[:, 1:], 1), sums)

    def overlap(sums: RegionSums) -> Tensor:
        loss = formulas.overlap_loss(formulas.regions_of(sums, selection), tversky)
        enhanced = weighted(formulas.focal_ratio(loss[:, 1:], 1.0 - gamma), 1)
        return options.reduce(
            torch.cat([weighted(loss[:, :1]), enhanced], 1) if options.include_background else enhanced
        )

    plain, nll = Pass("softmax", OVERLAP), Wanted(nll=True)
    return [
        Term(changed(plain, wanted=nll), foreground, factor=weight),
        Term(plain, overlap, factor=1.0 - weight),
        Term(changed(plain, wanted=nll, gamma=gamma), background, factor=weight),
    ]


def dice_bce_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    squared: bool = True,
    smooth: float = 1e-5,
    pos_weight: BinaryWeight = None,
    neg_weight: BinaryWeight = None,
    task_weight: ClassWeight = None,
    missing: MissingPolicy | None = None,
    lambda_dice: float = 1.0,
    lambda_bce: float = 1.0,
    **options: Unpack[RegionOptions],
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
        squared: whether the denominator of the Dice sums squares.
        smooth: added to numerator and denominator of the Dice, at least 0.
        pos_weight: weight of positives in the cross entropy, (C,) or one number, or "balanced": the share of
            negatives in the batch, in the same pass.
        neg_weight: weight of negatives, likewise; "balanced" is the share of positives.
        task_weight: weight of each class in the cross entropy, (C,) or one number; `class_weight` is of the Dice.
        missing: what -1 in a dense target stands for, see `multitask_bce_loss`; NaN is then ignored as well.
        lambda_dice: factor of the Dice, at least 0.
        lambda_bce: factor of the cross entropy, at least 0.
        **options: those of all losses over regions, see `RegionOptions`.

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
    chosen = Options(**options)
    terms = dice_bce_terms(
        input,
        chosen,
        squared=squared,
        smooth=smooth,
        pos_weight=pos_weight,
        neg_weight=neg_weight,
        task_weight=task_weight,
        missing=missing,
        lambda_dice=lambda_dice,
        lambda_bce=lambda_bce,
    )
    return evaluate(terms, input, target, mask, chosen)


def dice_ce_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    squared: bool = True,
    smooth: float = 1e-5,
    label_smoothing: float = 0.0,
    lambda_dice: float = 1.0,
    lambda_ce: float = 1.0,
    **options: Unpack[RegionOptions],
) -> Tensor:
    r"""Soft Dice plus cross entropy of softmax outputs, from one pass.

    `lambda_dice * Dice + lambda_ce * CE`, the CE as torch's `cross_entropy`: with labels `sum_c v_c nll_c / sum_c
    v_c target_c`, with a dense target the sum divided by the number of voxels; but exactly 0, not NaN, where
    every voxel is removed.

    Args:
        input: logits (N, C, *spatial), C at least 2.
        target: integer labels (N, *spatial) or (N, 1, *spatial), or a dense target (N, C, *spatial).
        mask: voxel weights of both terms, see `soft_dice_loss`.
        squared: whether the denominator of the Dice sums squares.
        smooth: added to numerator and denominator of the Dice, at least 0.
        label_smoothing: of the cross entropy: e turns a target g into `(1 - e) g + e / C`.
        lambda_dice: factor of the Dice, at least 0.
        lambda_ce: factor of the cross entropy, at least 0. `class_weight` weighs in both terms.
        **options: those of all losses over regions, see `RegionOptions`.

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
    chosen = Options(**options)
    terms = dice_ce_terms(
        input,
        target,
        chosen,
        squared=squared,
        smooth=smooth,
        label_smoothing=label_smoothing,
        lambda_dice=lambda_dice,
        lambda_ce=lambda_ce,
    )
    return evaluate(terms, input, target, mask, chosen)


def dice_focal_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    activation: str = "softmax",
    squared: bool = True,
    smooth: float = 1e-5,
    gamma: float = 2.0,
    alpha: ClassWeight = None,
    lambda_dice: float = 1.0,
    lambda_focal: float = 1.0,
    **options: Unpack[RegionOptions],
) -> Tensor:
    r"""Soft Dice plus focal loss, from one pass.

    `lambda_dice * Dice + lambda_focal * focal`, see `soft_dice_loss` and `focal_loss`; the activation is that of both.

    Args:
        input: logits (N, C, *spatial).
        target: integer labels (N, *spatial) or (N, 1, *spatial), or a dense target (N, C, *spatial).
        mask: voxel weights of both terms, see `soft_dice_loss`.
        activation: "softmax" or "sigmoid".
        squared: whether the denominator of the Dice sums squares.
        smooth: added to numerator and denominator of the Dice, at least 0.
        gamma: exponent of the focal loss, at least 0.
        alpha: share of the positives in each class under sigmoid, (C,) or one number, 0 to 1, or None.
        lambda_dice: factor of the Dice, at least 0.
        lambda_focal: factor of the focal loss, at least 0. `class_weight` weighs in both terms.
        **options: those of all losses over regions, see `RegionOptions`.

    Returns:
        A scalar, or (N,) for reduction "none"; float32 (float64 for float64 input), at least 0.

    Raises:
        ValueError: for an argument out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import dice_focal_loss
        >>> logits, labels = torch.zeros(1, 4, 8, 8, 8), torch.randint(4, (1, 8, 8, 8))
        >>> round(dice_focal_loss(logits, labels, lambda_dice=0.0).item(), 4)  # (3 / 4)^2 log 4
        0.7798
    """
    chosen = Options(**options)
    terms = dice_focal_terms(
        input,
        target,
        chosen,
        activation=activation,
        squared=squared,
        smooth=smooth,
        gamma=gamma,
        alpha=alpha,
        lambda_dice=lambda_dice,
        lambda_focal=lambda_focal,
    )
    return evaluate(terms, input, target, mask, chosen)


def unified_focal_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    weight: float = 0.5,
    delta: float = 0.6,
    gamma: float = 0.5,
    smooth: float = 1e-5,
    **options: Unpack[RegionOptions],
) -> Tensor:
    r"""Asymmetric unified focal loss of softmax outputs: cross entropy and Tversky, focal where they should be.

    `weight (-1/V) sum_v [(1 - delta) g_0 (1 - p_0)^gamma log p_0 + delta sum_{c>0} g_c log p_c]
    + (1 - weight) mean_c of (1 - T_0) and (1 - T_c)^(1 - gamma)`, T the Tversky index with weights 1 - delta of false
    positives and delta of false negatives: the background is suppressed in the cross entropy, the foreground enhanced
    in the overlap (Yeung et al., "Unified Focal loss", 2022). Takes two passes, one of each focal exponent.

    Args:
        input: logits (N, C, *spatial), C at least 2, class 0 the background.
        target: integer labels (N, *spatial) or (N, 1, *spatial), or a dense target (N, C, *spatial).
        mask: voxel weights of both terms, see `soft_dice_loss`.
        weight: share of the cross entropy, 0 to 1.
        delta: weight of the foreground in the cross entropy, and of false negatives in the overlap, 0 to 1.
        gamma: exponent that suppresses the background and enhances the foreground, 0 to 1.
        smooth: added to numerator and denominator of the Tversky index, at least 0.
        **options: those of all losses over regions, see `RegionOptions`.

    Returns:
        A scalar, or (N,) for reduction "none"; float32 (float64 for float64 input), at least 0.

    Raises:
        ValueError: for an argument out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import unified_focal_loss
        >>> logits, labels = torch.zeros(1, 2, 8, 8), torch.zeros(1, 8, 8, dtype=torch.uint8)
        >>> round(unified_focal_loss(logits, labels, weight=1.0).item(), 4)  # 0.4 sqrt(1 / 2) log 2
        0.1961
    """
    chosen = Options(**options)
    terms = unified_focal_terms(
        input,
        chosen,
        weight=weight,
        delta=delta,
        gamma=gamma,
        smooth=smooth,
    )
    return evaluate(terms, input, target, mask, chosen)
