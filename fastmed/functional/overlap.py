"""Losses of how much prediction and target overlap, each a formula on the sums of one pass over the voxels."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from .. import formulas, validation
from ..contract import LossWeights, RatioLinear, RegionSums, Wanted, changed
from .options import Options, RegionOptions
from .terms import OVERLAP, Pass, Term, evaluate, ratio_linear_term, region_term

WEIGHTINGS = ("square", "simple", "uniform")


def dice_ratio(squared: bool, smooth: float) -> RatioLinear:
    """Dice as a member of its family."""
    validation.non_negative("smooth", smooth)
    return RatioLinear(smooth_numerator=smooth, smooth_denominator=smooth, squared=squared)


def jaccard_ratio(squared: bool, smooth: float) -> RatioLinear:
    """Jaccard as a member of its family."""
    return changed(dice_ratio(squared, smooth), denominator_tp=-2.0, denominator_pred=2.0, denominator_target=2.0)


def tversky_ratio(alpha: float, beta: float, smooth: float) -> RatioLinear:
    """Tversky as a member of its family."""
    validation.non_negative("alpha", alpha)
    validation.non_negative("beta", beta)
    return changed(
        dice_ratio(False, smooth),
        numerator_tp=1.0,
        denominator_tp=1.0 - alpha - beta,
        denominator_pred=alpha,
        denominator_target=beta,
    )


def ratio_terms(ratio: RatioLinear, input: Tensor, options: Options, activation: str | None) -> list[Term]:
    """An overlap ratio under the options of all losses."""
    options.check()
    loss = changed(
        ratio,
        first_class=options.first_class(input),
        pool_batch=options.pool == "batch",
        mean=options.reduction != "sum",
    )
    return [ratio_linear_term(Pass(activation, OVERLAP), loss, LossWeights(region=options.weights(input)), options)]


def dice_terms(
    input: Tensor, options: Options, *, activation: str | None = "softmax", squared: bool = True, smooth: float = 1e-5
) -> list[Term]:
    """The terms of `soft_dice_loss`."""
    return ratio_terms(dice_ratio(squared, smooth), input, options, activation)


def jaccard_terms(
    input: Tensor, options: Options, *, activation: str | None = "softmax", squared: bool = True, smooth: float = 1e-5
) -> list[Term]:
    """The terms of `jaccard_loss`."""
    return ratio_terms(jaccard_ratio(squared, smooth), input, options, activation)


def tversky_terms(
    input: Tensor,
    options: Options,
    *,
    activation: str | None = "softmax",
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 1.0,
    smooth: float = 1e-5,
) -> list[Term]:
    """The terms of `tversky_loss`."""
    ratio = tversky_ratio(alpha, beta, smooth)
    if gamma == 1.0:
        return ratio_terms(ratio, input, options, activation)
    if not gamma > 0:
        raise ValueError(f"gamma: got {gamma!r}, allowed is a number above 0")

    def focal(regions: RegionSums) -> Tensor:
        return formulas.focal_ratio(formulas.overlap_loss(regions, ratio), 1.0 / gamma)

    return [region_term(Pass(activation, OVERLAP), focal, options, input)]


def generalized_dice_terms(
    input: Tensor,
    options: Options,
    *,
    activation: str | None = "softmax",
    weighting: str = "square",
    smooth: float = 1e-5,
) -> list[Term]:
    """The terms of `generalized_dice_loss`."""
    validation.choice("weighting", weighting, WEIGHTINGS)
    validation.non_negative("smooth", smooth)
    weights = options.weights(input)
    of_regions = None if weights is None else weights[options.first_class(input) :]

    def formula(regions: RegionSums) -> Tensor:
        return formulas.generalized_dice(regions, weighting, smooth, of_regions)

    return [region_term(Pass(activation, OVERLAP), formula, options, input, weigh=False)]


def log_cosh_dice_terms(
    input: Tensor, options: Options, *, activation: str | None = "softmax", squared: bool = True, smooth: float = 1e-5
) -> list[Term]:
    """The terms of `log_cosh_dice_loss`."""
    ratio = dice_ratio(squared, smooth)

    def formula(regions: RegionSums) -> Tensor:
        return formulas.log_cosh(formulas.overlap_loss(regions, ratio))

    return [region_term(Pass(activation, OVERLAP), formula, options, input)]


def mcc_terms(
    input: Tensor, options: Options, *, activation: str | None = "softmax", smooth: float = 1e-5
) -> list[Term]:
    """The terms of `mcc_loss`."""
    validation.non_negative("smooth", smooth)
    return [region_term(Pass(activation, OVERLAP), lambda regions: formulas.matthews(regions, smooth), options, input)]


def sensitivity_specificity_terms(
    input: Tensor,
    options: Options,
    *,
    activation: str | None = "softmax",
    sensitivity_share: float = 0.05,
    smooth: float = 1e-5,
) -> list[Term]:
    """The terms of `sensitivity_specificity_loss`."""
    validation.non_negative("smooth", smooth)
    if not 0.0 <= sensitivity_share <= 1.0:
        raise ValueError(f"sensitivity_share: got {sensitivity_share!r}, allowed is 0 to 1")

    def formula(regions: RegionSums) -> Tensor:
        return formulas.sensitivity_specificity(regions, sensitivity_share, smooth)

    return [region_term(Pass(activation, Wanted(nll=False, soft=True)), formula, options, input)]


def soft_dice_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    activation: str | None = "softmax",
    squared: bool = True,
    smooth: float = 1e-5,
    **options: Unpack[RegionOptions],
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
        smooth: added to numerator and denominator, at least 0.
        **options: those of all losses over regions, see `RegionOptions`.

    Returns:
        A scalar, or (N, C') ((1, C') pooled) for reduction "none"; float32 (float64 for float64 input).

    Raises:
        ValueError: for an argument out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import soft_dice_loss
        >>> logits = torch.tensor([[[2.0, -2.0, -2.0], [-2.0, 2.0, 2.0]]], requires_grad=True)
        >>> loss = soft_dice_loss(logits, torch.tensor([[0, 1, 0]]))
        >>> loss.backward()
        >>> round(loss.item(), 4)
        0.3275
    """
    chosen = Options(**options)
    terms = dice_terms(input, chosen, activation=activation, squared=squared, smooth=smooth)
    return evaluate(terms, input, target, mask, chosen)


def jaccard_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    activation: str | None = "softmax",
    squared: bool = True,
    smooth: float = 1e-5,
    **options: Unpack[RegionOptions],
) -> Tensor:
    r"""Soft Jaccard loss, also called IoU loss.

    `1 - (2 I + smooth) / (2 (P + Y - I) + smooth)` for every sample and class, with I = sum(p g) and P, Y the sums of
    p^2 and g^2, or of p and g if not `squared` (Rahman and Wang, 2016); smoothed as MONAI does.

    Args:
        input: logits (N, C, *spatial), or probabilities if `activation` is None.
        target: integer labels (N, *spatial) or (N, 1, *spatial), or a dense target (N, C, *spatial).
        mask: voxel weights (N, *spatial), (N, 1, *spatial) or (N, C, *spatial), or one for each sample and class,
            (N, C); 0 removes a voxel.
        activation: "softmax", "sigmoid" or None.
        squared: whether the denominator sums squares.
        smooth: added to numerator and denominator, at least 0.
        **options: those of all losses over regions, see `RegionOptions`.

    Returns:
        A scalar, or (N, C') ((1, C') pooled) for reduction "none"; float32 (float64 for float64 input).

    Raises:
        ValueError: for an argument out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import jaccard_loss
        >>> logits = torch.tensor([[[2.0, -2.0, -2.0], [-2.0, 2.0, 2.0]]], requires_grad=True)
        >>> loss = jaccard_loss(logits, torch.tensor([[0, 1, 0]]))
        >>> loss.backward()
        >>> round(loss.item(), 4)
        0.4934
    """
    chosen = Options(**options)
    terms = jaccard_terms(input, chosen, activation=activation, squared=squared, smooth=smooth)
    return evaluate(terms, input, target, mask, chosen)


def tversky_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    activation: str | None = "softmax",
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 1.0,
    smooth: float = 1e-5,
    **options: Unpack[RegionOptions],
) -> Tensor:
    r"""Tversky loss, and its focal form.

    `1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth)` for every sample and class, with TP = sum(p g),
    FP = sum(p (1 - g)) and FN = sum((1 - p) g) (Salehi et al., 2017); to the power 1 / gamma if gamma is not 1
    (Abraham and Khan, "A Novel Focal Tversky Loss", 2019).

    Args:
        input: logits (N, C, *spatial), or probabilities if `activation` is None.
        target: integer labels (N, *spatial) or (N, 1, *spatial), or a dense target (N, C, *spatial).
        mask: voxel weights (N, *spatial), (N, 1, *spatial) or (N, C, *spatial), or one for each sample and class,
            (N, C); 0 removes a voxel.
        activation: "softmax", "sigmoid" or None.
        alpha: weight of false positives, at least 0.
        beta: weight of false negatives, at least 0.
        gamma: above 0; the focal form of the paper has 4 / 3.
        smooth: added to numerator and denominator, at least 0.
        **options: those of all losses over regions, see `RegionOptions`.

    Returns:
        A scalar, or (N, C') ((1, C') pooled) for reduction "none"; float32 (float64 for float64 input).

    Raises:
        ValueError: for an argument out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import tversky_loss
        >>> logits = torch.tensor([[[2.0, -2.0, -2.0], [-2.0, 2.0, 2.0]]], requires_grad=True)
        >>> loss = tversky_loss(logits, torch.tensor([[0, 1, 0]]), alpha=0.3, beta=0.7)
        >>> loss.backward()
        >>> round(loss.item(), 4)
        0.3275
    """
    chosen = Options(**options)
    terms = tversky_terms(input, chosen, activation=activation, alpha=alpha, beta=beta, gamma=gamma, smooth=smooth)
    return evaluate(terms, input, target, mask, chosen)


def generalized_dice_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    activation: str | None = "softmax",
    weighting: str = "square",
    smooth: float = 1e-5,
    **options: Unpack[RegionOptions],
) -> Tensor:
    r"""Generalised Dice loss.

    `1 - (2 sum_c w_c sum(p g) + smooth) / (sum_c w_c (sum(p) + sum(g)) + smooth)` for every sample: one ratio over all
    classes, in which each weighs by the inverse of its volume (Sudre et al., 2017). A class without a voxel
    takes the largest weight of the others, as in MONAI.

    Args:
        input: logits (N, C, *spatial), or probabilities if `activation` is None.
        target: integer labels (N, *spatial) or (N, 1, *spatial), or a dense target (N, C, *spatial).
        mask: voxel weights (N, *spatial), (N, 1, *spatial) or (N, C, *spatial), or one for each sample and class,
            (N, C); 0 removes a voxel.
        activation: "softmax", "sigmoid" or None.
        weighting: "square" = 1 / volume^2, "simple" = 1 / volume, "uniform" = 1.
        smooth: added to numerator and denominator, at least 0.
        **options: those of all losses over regions, see `RegionOptions`.

    Returns:
        A scalar, or (N,) ((1,) pooled) for reduction "none"; float32 (float64 for float64 input).

    Raises:
        ValueError: for an argument out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import generalized_dice_loss
        >>> logits = torch.tensor([[[2.0, -2.0, -2.0], [-2.0, 2.0, 2.0]]], requires_grad=True)
        >>> loss = generalized_dice_loss(logits, torch.tensor([[0, 1, 0]]))
        >>> loss.backward()
        >>> round(loss.item(), 4)
        0.3406
    """
    chosen = Options(**options)
    terms = generalized_dice_terms(input, chosen, activation=activation, weighting=weighting, smooth=smooth)
    return evaluate(terms, input, target, mask, chosen)


def log_cosh_dice_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    activation: str | None = "softmax",
    squared: bool = True,
    smooth: float = 1e-5,
    **options: Unpack[RegionOptions],
) -> Tensor:
    r"""Log-cosh Dice loss.

    `log(cosh(D))` of the soft Dice loss D of every sample and class, which is smooth where D is small (Jadon, "A
    survey of loss functions for semantic segmentation", 2020).

    Args:
        input: logits (N, C, *spatial), or probabilities if `activation` is None.
        target: integer labels (N, *spatial) or (N, 1, *spatial), or a dense target (N, C, *spatial).
        mask: voxel weights (N, *spatial), (N, 1, *spatial) or (N, C, *spatial), or one for each sample and class,
            (N, C); 0 removes a voxel.
        activation: "softmax", "sigmoid" or None.
        squared: whether the denominator sums squares.
        smooth: added to numerator and denominator, at least 0.
        **options: those of all losses over regions, see `RegionOptions`.

    Returns:
        A scalar, or (N, C') ((1, C') pooled) for reduction "none"; float32 (float64 for float64 input).

    Raises:
        ValueError: for an argument out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import log_cosh_dice_loss
        >>> logits = torch.tensor([[[2.0, -2.0, -2.0], [-2.0, 2.0, 2.0]]], requires_grad=True)
        >>> loss = log_cosh_dice_loss(logits, torch.tensor([[0, 1, 0]]))
        >>> loss.backward()
        >>> round(loss.item(), 4)
        0.0527
    """
    chosen = Options(**options)
    terms = log_cosh_dice_terms(input, chosen, activation=activation, squared=squared, smooth=smooth)
    return evaluate(terms, input, target, mask, chosen)


def mcc_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    activation: str | None = "softmax",
    smooth: float = 1e-5,
    **options: Unpack[RegionOptions],
) -> Tensor:
    r"""Loss of the correlation coefficient of Matthews.

    `1 - (TP TN - FP FN) / (sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)) + smooth)` of the soft confusion matrix of
    every sample and class, which counts the true negatives too (Abhishek and Hamarneh, 2021).

    Args:
        input: logits (N, C, *spatial), or probabilities if `activation` is None.
        target: integer labels (N, *spatial) or (N, 1, *spatial), or a dense target (N, C, *spatial).
        mask: voxel weights (N, *spatial), (N, 1, *spatial) or (N, C, *spatial), or one for each sample and class,
            (N, C); 0 removes a voxel.
        activation: "softmax", "sigmoid" or None.
        smooth: added to the denominator, at least 0.
        **options: those of all losses over regions, see `RegionOptions`.

    Returns:
        A scalar, or (N, C') ((1, C') pooled) for reduction "none"; float32 (float64 for float64 input).

    Raises:
        ValueError: for an argument out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import mcc_loss
        >>> logits = torch.tensor([[[2.0, -2.0, -2.0], [-2.0, 2.0, 2.0]]], requires_grad=True)
        >>> loss = mcc_loss(logits, torch.tensor([[0, 1, 0]]))
        >>> loss.backward()
        >>> round(loss.item(), 4)
        0.5201
    """
    chosen = Options(**options)
    terms = mcc_terms(input, chosen, activation=activation, smooth=smooth)
    return evaluate(terms, input, target, mask, chosen)


def sensitivity_specificity_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    activation: str | None = "softmax",
    sensitivity_share: float = 0.05,
    smooth: float = 1e-5,
    **options: Unpack[RegionOptions],
) -> Tensor:
    r"""Sensitivity-specificity loss.

    `r sum((g - p)^2 g) / (sum(g) + smooth) + (1 - r) sum((g - p)^2 (1 - g)) / (sum(1 - g) + smooth)` for every sample
    and class, with r the `sensitivity_share` (Brosch et al., 2015). For hard targets.

    Args:
        input: logits (N, C, *spatial), or probabilities if `activation` is None.
        target: integer labels (N, *spatial) or (N, 1, *spatial), or a dense target (N, C, *spatial).
        mask: voxel weights (N, *spatial), (N, 1, *spatial) or (N, C, *spatial), or one for each sample and class,
            (N, C); 0 removes a voxel.
        activation: "softmax", "sigmoid" or None.
        sensitivity_share: r, 0 to 1: small for lesions, which are rare.
        smooth: added to both denominators, at least 0.
        **options: those of all losses over regions, see `RegionOptions`.

    Returns:
        A scalar, or (N, C') ((1, C') pooled) for reduction "none"; float32 (float64 for float64 input).

    Raises:
        ValueError: for an argument out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import sensitivity_specificity_loss
        >>> logits = torch.tensor([[[2.0, -2.0, -2.0], [-2.0, 2.0, 2.0]]], requires_grad=True)
        >>> loss = sensitivity_specificity_loss(logits, torch.tensor([[0, 1, 0]]))
        >>> loss.backward()
        >>> round(loss.item(), 4)
        0.2413
    """
    chosen = Options(**options)
    terms = sensitivity_specificity_terms(
        input, chosen, activation=activation, sensitivity_share=sensitivity_share, smooth=smooth
    )
    return evaluate(terms, input, target, mask, chosen)
