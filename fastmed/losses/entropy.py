"""Cross entropies as modules: they hold the configuration, the mathematics is in `fastmed.functional`."""

from __future__ import annotations

from typing_extensions import Unpack

from ..functional import entropy
from ..functional.options import RegionOptions
from ..validation import ClassWeight
from .base import RegionLoss


class CrossEntropyLoss(RegionLoss):
    """Cross entropy of softmax outputs; see `fastmed.functional.cross_entropy_loss` for every argument.

    Args:
        label_smoothing: e turns a target g into `(1 - e) g + e / C`.
        **options: those of all losses over regions, see `fastmed.functional.RegionOptions`.

    Shape:
        See `RegionLoss`; reduction "none" gives (N,).

    Example:
        >>> import torch, fastmed
        >>> loss = fastmed.CrossEntropyLoss(label_smoothing=0.1)
        >>> logits = torch.randn(2, 4, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(4, (2, 8, 8, 8))).backward()
    """

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        **options: Unpack[RegionOptions],
    ) -> None:
        own = {
            "label_smoothing": label_smoothing,
        }
        super().__init__(entropy.cross_entropy_terms, True, own, **options)


class FocalLoss(RegionLoss):
    """Focal loss; see `fastmed.functional.focal_loss` for every argument.

    Args:
        activation: "softmax" or "sigmoid".
        gamma: exponent of the focal factor.
        alpha: share of the positives in each class under sigmoid, or None.
        label_smoothing: e turns a target g into `(1 - e) g + e / C`.
        **options: those of all losses over regions, see `fastmed.functional.RegionOptions`.

    Shape:
        See `RegionLoss`; reduction "none" gives (N,).

    Example:
        >>> import torch, fastmed
        >>> loss = fastmed.FocalLoss("sigmoid", alpha=0.25)
        >>> logits = torch.randn(2, 1, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(2, (2, 1, 8, 8, 8))).backward()
    """

    def __init__(
        self,
        activation: str = "softmax",
        *,
        gamma: float = 2.0,
        alpha: ClassWeight = None,
        label_smoothing: float = 0.0,
        **options: Unpack[RegionOptions],
    ) -> None:
        own = {
            "activation": activation,
            "gamma": gamma,
            "alpha": alpha,
            "label_smoothing": label_smoothing,
        }
        super().__init__(entropy.focal_terms, True, own, **options)
