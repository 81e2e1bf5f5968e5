"""Losses of overlap as modules: they hold the configuration, the mathematics is in `fastmed.functional`."""

from __future__ import annotations

from typing_extensions import Unpack

from ..functional import overlap
from ..functional.options import RegionOptions
from .base import RegionLoss


class DiceLoss(RegionLoss):
    """Soft Dice loss; see `fastmed.functional.soft_dice_loss` for every argument.

    Args:
        activation: "softmax", "sigmoid" or None for probabilities.
        squared: whether the denominator sums squares.
        smooth: added to numerator and denominator.
        **options: those of all losses over regions, see `fastmed.functional.RegionOptions`.

    Shape:
        See `RegionLoss`; reduction "none" gives (N, C'), pooled (1, C').

    Example:
        >>> import torch, fastmed
        >>> loss = fastmed.DiceLoss("softmax", include_background=False)
        >>> logits = torch.randn(2, 4, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(4, (2, 8, 8, 8))).backward()
    """

    def __init__(
        self,
        activation: str | None = "softmax",
        *,
        squared: bool = True,
        smooth: float = 1e-5,
        **options: Unpack[RegionOptions],
    ) -> None:
        own = {
            "activation": activation,
            "squared": squared,
            "smooth": smooth,
        }
        super().__init__(overlap.dice_terms, False, own, **options)


class JaccardLoss(RegionLoss):
    """Soft Jaccard (IoU) loss; see `fastmed.functional.jaccard_loss` for every argument.

    Args:
        activation: "softmax", "sigmoid" or None for probabilities.
        squared: whether the denominator sums squares.
        smooth: added to numerator and denominator.
        **options: those of all losses over regions, see `fastmed.functional.RegionOptions`.

    Shape:
        See `RegionLoss`; reduction "none" gives (N, C'), pooled (1, C').

    Example:
        >>> import torch, fastmed
        >>> loss = fastmed.JaccardLoss("softmax")
        >>> logits = torch.randn(2, 4, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(4, (2, 8, 8, 8))).backward()
    """

    def __init__(
        self,
        activation: str | None = "softmax",
        *,
        squared: bool = True,
        smooth: float = 1e-5,
        **options: Unpack[RegionOptions],
    ) -> None:
        own = {
            "activation": activation,
            "squared": squared,
            "smooth": smooth,
        }
        super().__init__(overlap.jaccard_terms, False, own, **options)


class TverskyLoss(RegionLoss):
    """Tversky loss, focal if gamma is not 1; see `fastmed.functional.tversky_loss` for every argument.

    Args:
        activation: "softmax", "sigmoid" or None for probabilities.
        alpha: weight of false positives.
        beta: weight of false negatives.
        gamma: the loss is taken to the power 1 / gamma.
        smooth: added to numerator and denominator.
        **options: those of all losses over regions, see `fastmed.functional.RegionOptions`.

    Shape:
        See `RegionLoss`; reduction "none" gives (N, C'), pooled (1, C').

    Example:
        >>> import torch, fastmed
        >>> loss = fastmed.TverskyLoss(alpha=0.3, beta=0.7, gamma=4 / 3)
        >>> logits = torch.randn(2, 4, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(4, (2, 8, 8, 8))).backward()
    """

    def __init__(
        self,
        activation: str | None = "softmax",
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        smooth: float = 1e-5,
        **options: Unpack[RegionOptions],
    ) -> None:
        own = {
            "activation": activation,
            "alpha": alpha,
            "beta": beta,
            "gamma": gamma,
            "smooth": smooth,
        }
        super().__init__(overlap.tversky_terms, False, own, **options)


class GeneralizedDiceLoss(RegionLoss):
    """Generalised Dice loss; see `fastmed.functional.generalized_dice_loss` for every argument.

    Args:
        activation: "softmax", "sigmoid" or None for probabilities.
        weighting: of the classes: "square", "simple" or "uniform".
        smooth: added to numerator and denominator.
        **options: those of all losses over regions, see `fastmed.functional.RegionOptions`.

    Shape:
        See `RegionLoss`; reduction "none" gives (N,), pooled (1,).

    Example:
        >>> import torch, fastmed
        >>> loss = fastmed.GeneralizedDiceLoss()
        >>> logits = torch.randn(2, 4, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(4, (2, 8, 8, 8))).backward()
    """

    def __init__(
        self,
        activation: str | None = "softmax",
        *,
        weighting: str = "square",
        smooth: float = 1e-5,
        **options: Unpack[RegionOptions],
    ) -> None:
        own = {
            "activation": activation,
            "weighting": weighting,
            "smooth": smooth,
        }
        super().__init__(overlap.generalized_dice_terms, False, own, **options)


class LogCoshDiceLoss(RegionLoss):
    """Log-cosh Dice loss; see `fastmed.functional.log_cosh_dice_loss` for every argument.

    Args:
        activation: "softmax", "sigmoid" or None for probabilities.
        squared: whether the denominator sums squares.
        smooth: added to numerator and denominator.
        **options: those of all losses over regions, see `fastmed.functional.RegionOptions`.

    Shape:
        See `RegionLoss`; reduction "none" gives (N, C'), pooled (1, C').

    Example:
        >>> import torch, fastmed
        >>> loss = fastmed.LogCoshDiceLoss()
        >>> logits = torch.randn(2, 4, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(4, (2, 8, 8, 8))).backward()
    """

    def __init__(
        self,
        activation: str | None = "softmax",
        *,
        squared: bool = True,
        smooth: float = 1e-5,
        **options: Unpack[RegionOptions],
    ) -> None:
        own = {
            "activation": activation,
            "squared": squared,
            "smooth": smooth,
        }
        super().__init__(overlap.log_cosh_dice_terms, False, own, **options)


class MCCLoss(RegionLoss):
    """Loss of the correlation coefficient of Matthews; see `fastmed.functional.mcc_loss` for every argument.

    Args:
        activation: "softmax", "sigmoid" or None for probabilities.
        smooth: added to the denominator.
        **options: those of all losses over regions, see `fastmed.functional.RegionOptions`.

    Shape:
        See `RegionLoss`; reduction "none" gives (N, C'), pooled (1, C').

    Example:
        >>> import torch, fastmed
        >>> loss = fastmed.MCCLoss()
        >>> logits = torch.randn(2, 4, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(4, (2, 8, 8, 8))).backward()
    """

    def __init__(
        self,
        activation: str | None = "softmax",
        *,
        smooth: float = 1e-5,
        **options: Unpack[RegionOptions],
    ) -> None:
        own = {
            "activation": activation,
            "smooth": smooth,
        }
        super().__init__(overlap.mcc_terms, False, own, **options)


class SensitivitySpecificityLoss(RegionLoss):
    """Sensitivity-specificity loss; see `fastmed.functional.sensitivity_specificity_loss` for every argument.

    Args:
        activation: "softmax", "sigmoid" or None for probabilities.
        sensitivity_share: weight of the error inside the target, 0 to 1.
        smooth: added to the denominators.
        **options: those of all losses over regions, see `fastmed.functional.RegionOptions`.

    Shape:
        See `RegionLoss`; reduction "none" gives (N, C'), pooled (1, C').

    Example:
        >>> import torch, fastmed
        >>> loss = fastmed.SensitivitySpecificityLoss()
        >>> logits = torch.randn(2, 4, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(4, (2, 8, 8, 8))).backward()
    """

    def __init__(
        self,
        activation: str | None = "softmax",
        *,
        sensitivity_share: float = 0.05,
        smooth: float = 1e-5,
        **options: Unpack[RegionOptions],
    ) -> None:
        own = {
            "activation": activation,
            "sensitivity_share": sensitivity_share,
            "smooth": smooth,
        }
        super().__init__(overlap.sensitivity_specificity_terms, False, own, **options)
