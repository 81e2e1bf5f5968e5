"""Losses as modules: they hold the configuration, the mathematics is in `fastmed.functional`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import functional, validation
from .functional.segmentation import ClassWeight


class _RegionLoss(nn.Module):
    """Configuration of a loss; class weights are buffers, so that they follow the module's device."""

    def __init__(self, weights: dict[str, ClassWeight], **options: Any) -> None:
        super().__init__()
        for name, value in weights.items():
            tensor = None if value is None else torch.as_tensor(value, dtype=torch.float32)
            self.register_buffer(name, tensor, persistent=False)
        self._weights = tuple(weights)
        self._options = options
        validation.choice("pool", options["pool"], validation.POOLS)
        validation.choice("reduction", options["reduction"], validation.REDUCTIONS)
        validation.choice("activation", options.get("activation"), validation.ACTIVATIONS)
        validation.non_negative("smooth", options["smooth"])

    def _arguments(self) -> dict[str, Any]:
        return {**self._options, **{name: getattr(self, name) for name in self._weights}}

    def extra_repr(self) -> str:
        """The options, as they were given."""
        return ", ".join(f"{name}={value!r}" for name, value in self._arguments().items())


class DiceLoss(_RegionLoss):
    """Soft Dice loss; see `fastmed.functional.soft_dice_loss` for every argument.

    Args:
        activation: "softmax", "sigmoid" or None for probabilities.
        squared: whether the denominator sums squares.
        include_background: whether class 0 enters the loss.
        pool: "sample" or "batch".
        smooth: added to numerator and denominator.
        class_weight: weight of each class (C,), or one number.
        reduction: "mean", "sum" or "none".
        ignore_index: label (or value of a dense target) whose voxels are removed.
        process_group: sums are added over its ranks first, with `pool="batch"`.
        backend: "auto" or a name: see `fastmed info`.

    Shape:
        input (N, C, *spatial); target (N, *spatial) or (N, 1, *spatial) integer, or (N, C, *spatial); mask
        (N, *spatial), (N, 1, *spatial) or (N, C, *spatial). Returns a scalar, or (N, C') for reduction "none".

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
        include_background: bool = True,
        pool: str = "sample",
        smooth: float = 1e-5,
        class_weight: ClassWeight = None,
        reduction: str = "mean",
        ignore_index: int | None = None,
        process_group: object | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            {"class_weight": class_weight},
            activation=activation,
            squared=squared,
            include_background=include_background,
            pool=pool,
            smooth=smooth,
            reduction=reduction,
            ignore_index=ignore_index,
            process_group=process_group,
            backend=backend,
        )

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of these logits."""
        return functional.soft_dice_loss(input, target, mask, **self._arguments())


class DiceBCELoss(_RegionLoss):
    """Soft Dice plus weighted binary cross entropy; see `fastmed.functional.dice_bce_loss` for every argument.

    Args:
        squared: whether the denominator of the Dice sums squares.
        include_background: whether class 0 enters the Dice.
        pool: "sample" or "batch".
        smooth: added to numerator and denominator of the Dice.
        class_weight: weight of each class in the Dice (C,), or one number.
        pos_weight: weight of positives in the cross entropy, (C,) or one number.
        neg_weight: weight of negatives in the cross entropy, (C,) or one number.
        lambda_dice: factor of the Dice.
        lambda_bce: factor of the cross entropy.
        reduction: "mean", "sum" or "none".
        ignore_index: value of the target whose voxels are removed.
        process_group: sums are added over its ranks first, with `pool="batch"`.
        backend: "auto" or a name: see `fastmed info`.

    Shape:
        As `DiceLoss`; returns a scalar, or (N,) for reduction "none".

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
        include_background: bool = True,
        pool: str = "sample",
        smooth: float = 1e-5,
        class_weight: ClassWeight = None,
        pos_weight: ClassWeight = None,
        neg_weight: ClassWeight = None,
        lambda_dice: float = 1.0,
        lambda_bce: float = 1.0,
        reduction: str = "mean",
        ignore_index: int | None = None,
        process_group: object | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            {"class_weight": class_weight, "pos_weight": pos_weight, "neg_weight": neg_weight},
            squared=squared,
            include_background=include_background,
            pool=pool,
            smooth=smooth,
            lambda_dice=lambda_dice,
            lambda_bce=lambda_bce,
            reduction=reduction,
            ignore_index=ignore_index,
            process_group=process_group,
            backend=backend,
        )

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of these logits."""
        return functional.dice_bce_loss(input, target, mask, **self._arguments())


class DiceCELoss(_RegionLoss):
    """Soft Dice plus cross entropy; see `fastmed.functional.dice_ce_loss` for every argument.

    Args:
        squared: whether the denominator of the Dice sums squares.
        include_background: whether class 0 enters the Dice.
        pool: "sample" or "batch".
        smooth: added to numerator and denominator of the Dice.
        class_weight: weight of each class in both terms (C,), or one number.
        lambda_dice: factor of the Dice.
        lambda_ce: factor of the cross entropy.
        reduction: "mean", "sum" or "none".
        ignore_index: label whose voxels are removed.
        process_group: sums are added over its ranks first, with `pool="batch"`.
        backend: "auto" or a name: see `fastmed info`.

    Shape:
        As `DiceLoss`, C at least 2; returns a scalar, or (N,) for reduction "none".

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
        include_background: bool = True,
        pool: str = "sample",
        smooth: float = 1e-5,
        class_weight: ClassWeight = None,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        reduction: str = "mean",
        ignore_index: int | None = None,
        process_group: object | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            {"class_weight": class_weight},
            squared=squared,
            include_background=include_background,
            pool=pool,
            smooth=smooth,
            lambda_dice=lambda_dice,
            lambda_ce=lambda_ce,
            reduction=reduction,
            ignore_index=ignore_index,
            process_group=process_group,
            backend=backend,
        )

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of these logits."""
        return functional.dice_ce_loss(input, target, mask, **self._arguments())
