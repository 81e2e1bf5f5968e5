"""Compound losses as modules: they hold the configuration, the mathematics is in `fastmed.functional`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import Unpack

from ..contract import changed
from ..functional import compound
from ..functional.options import RegionOptions
from ..functional.terms import evaluate
from ..labels import MissingPolicy
from ..validation import BinaryWeight, ClassWeight
from .base import EagerModule, RegionLoss


class DiceBCELoss(RegionLoss):
    """Soft Dice plus weighted binary cross entropy; see `fastmed.functional.dice_bce_loss` for every argument.

    Args:
        squared: whether the denominator of the Dice sums squares.
        smooth: added to numerator and denominator of the Dice.
        pos_weight: weight of positives in the cross entropy, (C,) or one number, or "balanced".
        neg_weight: weight of negatives in the cross entropy, (C,) or one number, or "balanced".
        task_weight: weight of each class in the cross entropy, (C,) or one number.
        missing: what -1 in a dense target stands for; NaN is then ignored as well.
        lambda_dice: factor of the Dice.
        lambda_bce: factor of the cross entropy.
        **options: those of all losses over regions, see `fastmed.functional.RegionOptions`.

    Shape:
        See `RegionLoss`; reduction "none" gives (N,).

    Example:
        >>> import torch, fastmed
        >>> loss = fastmed.DiceBCELoss(pos_weight=5.0)
        >>> logits = torch.randn(2, 1, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(2, (2, 1, 8, 8, 8))).backward()
    """

    def __init__(
        self,
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
    ) -> None:
        own = {
            "squared": squared,
            "smooth": smooth,
            "pos_weight": pos_weight,
            "neg_weight": neg_weight,
            "task_weight": task_weight,
            "missing": missing,
            "lambda_dice": lambda_dice,
            "lambda_bce": lambda_bce,
        }
        super().__init__(compound.dice_bce_terms, False, own, **options)


class DiceCELoss(RegionLoss):
    """Soft Dice plus cross entropy; see `fastmed.functional.dice_ce_loss` for every argument.

    Args:
        squared: whether the denominator of the Dice sums squares.
        smooth: added to numerator and denominator of the Dice.
        label_smoothing: of the cross entropy: e turns a target g into `(1 - e) g + e / C`.
        lambda_dice: factor of the Dice.
        lambda_ce: factor of the cross entropy.
        **options: those of all losses over regions, see `fastmed.functional.RegionOptions`.

    Shape:
        See `RegionLoss`; reduction "none" gives (N,).

    Example:
        >>> import torch, fastmed
        >>> loss = fastmed.DiceCELoss(include_background=False, ignore_index=255)
        >>> logits = torch.randn(2, 4, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(4, (2, 8, 8, 8))).backward()
    """

    def __init__(
        self,
        *,
        squared: bool = True,
        smooth: float = 1e-5,
        label_smoothing: float = 0.0,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        **options: Unpack[RegionOptions],
    ) -> None:
        own = {
            "squared": squared,
            "smooth": smooth,
            "label_smoothing": label_smoothing,
            "lambda_dice": lambda_dice,
            "lambda_ce": lambda_ce,
        }
        super().__init__(compound.dice_ce_terms, True, own, **options)


class DiceFocalLoss(RegionLoss):
    """Soft Dice plus focal loss; see `fastmed.functional.dice_focal_loss` for every argument.

    Args:
        activation: "softmax" or "sigmoid".
        squared: whether the denominator of the Dice sums squares.
        smooth: added to numerator and denominator of the Dice.
        gamma: exponent of the focal factor.
        alpha: share of the positives in each class under sigmoid, or None.
        lambda_dice: factor of the Dice.
        lambda_focal: factor of the focal loss.
        **options: those of all losses over regions, see `fastmed.functional.RegionOptions`.

    Shape:
        See `RegionLoss`; reduction "none" gives (N,).

    Example:
        >>> import torch, fastmed
        >>> loss = fastmed.DiceFocalLoss(gamma=2.0)
        >>> logits = torch.randn(2, 4, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(4, (2, 8, 8, 8))).backward()
    """

    def __init__(
        self,
        activation: str = "softmax",
        *,
        squared: bool = True,
        smooth: float = 1e-5,
        gamma: float = 2.0,
        alpha: ClassWeight = None,
        lambda_dice: float = 1.0,
        lambda_focal: float = 1.0,
        **options: Unpack[RegionOptions],
    ) -> None:
        own = {
            "activation": activation,
            "squared": squared,
            "smooth": smooth,
            "gamma": gamma,
            "alpha": alpha,
            "lambda_dice": lambda_dice,
            "lambda_focal": lambda_focal,
        }
        super().__init__(compound.dice_focal_terms, True, own, **options)


class UnifiedFocalLoss(RegionLoss):
    """Asymmetric unified focal loss; see `fastmed.functional.unified_focal_loss` for every argument.

    Args:
        weight: share of the cross entropy, 0 to 1.
        delta: weight of the foreground, and of false negatives, 0 to 1.
        gamma: suppresses the background and enhances the foreground, 0 to 1.
        smooth: added to numerator and denominator of the Tversky index.
        **options: those of all losses over regions, see `fastmed.functional.RegionOptions`.

    Shape:
        See `RegionLoss`; reduction "none" gives (N,).

    Example:
        >>> import torch, fastmed
        >>> loss = fastmed.UnifiedFocalLoss()
        >>> logits = torch.randn(2, 4, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(4, (2, 8, 8, 8))).backward()
    """

    def __init__(
        self,
        *,
        weight: float = 0.5,
        delta: float = 0.6,
        gamma: float = 0.5,
        smooth: float = 1e-5,
        **options: Unpack[RegionOptions],
    ) -> None:
        own = {
            "weight": weight,
            "delta": delta,
            "gamma": gamma,
            "smooth": smooth,
        }
        super().__init__(compound.unified_focal_terms, False, own, **options)


# Options of the pass rather than of a loss: those that share passes must agree on them.
_OF_THE_PASS = ("reduction", "ignore_index", "process_group", "slab_group", "validate", "backend")


class CompoundLoss(EagerModule):
    """Any weighted sum of losses over regions. Those that need the same of the voxels share one pass over them.

    A pass is shared by losses with the same activation, and among those with a cross entropy by those with the same
    `gamma` and `label_smoothing`.

    Args:
        losses: losses of this package over regions. They agree on `reduction`, `ignore_index`, `process_group`,
            `slab_group`, `validate` and `backend`; the other options are each loss's own.
        weights: factor of each loss; None for ones.

    Shape:
        See `RegionLoss`; reduction "none" gives (N,).

    Raises:
        TypeError: for something that is no such loss.
        ValueError: for no losses, losses that do not agree, or another number of weights.

    Example:
        >>> import torch, fastmed
        >>> loss = fastmed.CompoundLoss([fastmed.DiceLoss(), fastmed.MCCLoss(), fastmed.FocalLoss()], [1.0, 0.5, 0.5])
        >>> logits = torch.randn(2, 4, 8, 8, 8, requires_grad=True)
        >>> loss(logits, torch.randint(4, (2, 8, 8, 8))).backward()
    """

    def __init__(self, losses: Sequence[RegionLoss], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        for loss in losses:
            if not isinstance(loss, RegionLoss):
                raise TypeError(f"losses: got {type(loss).__name__}, allowed are losses over regions such as DiceLoss")
        if not losses:
            raise ValueError("losses: got none, allowed is one or more")
        self.weights = [1.0] * len(losses) if weights is None else [float(weight) for weight in weights]
        if len(self.weights) != len(losses):
            raise ValueError(f"weights: got {len(self.weights)}, allowed is one for each of the {len(losses)} losses")
        for name in _OF_THE_PASS:
            values = [getattr(loss.options(), name) for loss in losses]
            if any(value != values[0] for value in values):
                raise ValueError(f"losses: got {name} = {values}, allowed is the same for all")
        if any((loss.options().reduction, loss.options().pool) == ("none", "batch") for loss in losses):
            raise ValueError("losses: got reduction 'none' with pool='batch', which has no loss of a sample")
        self.losses = nn.ModuleList(losses)

    def forward(
        self, input: Tensor, target: Tensor, mask: Tensor | None = None, hard_counts: Tensor | None = None
    ) -> Tensor:
        """The loss of these logits; adds the counts of the hard prediction to `hard_counts`, int64 (C, 4), if given."""
        terms = [
            changed(term, factor=weight * term.factor)
            for loss, weight in zip(self.losses, self.weights, strict=True)
            for term in loss.terms(input, target)  # type: ignore[operator]
        ]
        options = changed(self.losses[0].options(), hard_counts=hard_counts)  # type: ignore[operator]
        value = evaluate(terms, input, target, mask, options)
        # One overlap alone has a loss of each region.
        return value.mean(1) if value.ndim == 2 else value
