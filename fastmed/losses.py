"""Losses as modules: they hold the configuration, the mathematics is in `fastmed.functional`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import functional, validation
from .labels import MissingPolicy
from .validation import BinaryWeight, ClassWeight

_CHOICES: dict[str, Sequence[object]] = {
    "pool": validation.POOLS,
    "reduction": validation.REDUCTIONS,
    "activation": validation.ACTIVATIONS,
    "normalize": validation.NORMALIZATIONS,
}


class _RegionLoss(nn.Module):
    """Configuration of a loss; class weights are buffers, so that they follow the module's device."""

    def __init__(self, weights: dict[str, BinaryWeight], **options: Any) -> None:
        super().__init__()
        for name, value in weights.items():
            if value is None or isinstance(value, str):
                validation.choice(name, value, (None, *validation.BALANCES))
                options[name] = value
            else:
                self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32), persistent=False)
        self._options = options
        for name, allowed in _CHOICES.items():
            if name in options:
                validation.choice(name, options[name], allowed)
        for name in ("smooth", "gamma"):
            validation.non_negative(name, options.get(name, 0.0))
        validation.smoothing("label_smoothing", options.get("label_smoothing", 0.0))
        if options.get("missing") is not None:
            validation.missing_policy(options["missing"])

    def _arguments(self) -> dict[str, Any]:
        return {**self._options, **self._buffers}

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
        pos_weight: weight of positives in the cross entropy, (C,) or one number, or "balanced".
        neg_weight: weight of negatives in the cross entropy, (C,) or one number, or "balanced".
        task_weight: weight of each class in the cross entropy, (C,) or one number.
        missing: what -1 in a dense target stands for; NaN is then ignored as well.
        lambda_dice: factor of the Dice.
        lambda_bce: factor of the cross entropy.
        reduction: "mean", "sum" or "none".
        ignore_index: value of the target whose voxels are removed.
        process_group: sums are added over its ranks first, with `pool="batch"`.
        backend: "auto" or a name: see `fastmed info`.

    Shape:
        As `DiceLoss`; the mask also (N, C), of patients annotated for some classes only. Returns a scalar, or (N,)
        for reduction "none".

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
        pos_weight: BinaryWeight = None,
        neg_weight: BinaryWeight = None,
        task_weight: ClassWeight = None,
        missing: MissingPolicy | None = None,
        lambda_dice: float = 1.0,
        lambda_bce: float = 1.0,
        reduction: str = "mean",
        ignore_index: int | None = None,
        process_group: object | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            {
                "class_weight": class_weight,
                "pos_weight": pos_weight,
                "neg_weight": neg_weight,
                "task_weight": task_weight,
            },
            missing=missing,
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


class MultiTaskBCELoss(_RegionLoss):
    """Weighted binary cross entropy of many tasks; see `fastmed.functional.multitask_bce_loss` for every argument.

    Args:
        pos_weight: weight of positives, (T,) or one number, or "balanced": the share of negatives in the batch.
        neg_weight: weight of negatives, likewise; `fastmed.class_balance` gives both for a data set.
        task_weight: weight of each task, (T,) or one number.
        missing: what the label -1 stands for: "ignore", "ones", "zeros" or `fastmed.Smooth(low, high)`, or one of
            these for each task. NaN is always ignored.
        label_smoothing: e turns a target g into `(1 - e) g + e / 2`.
        gamma: exponent of the focal factor.
        reduction: "mean", "sum" or "none" over tasks.
        normalize: "task", "valid" or "total": what the loss of a task is divided by.
        process_group: sums are added over its ranks first.
        backend: "auto" or a name: see `fastmed info`.

    Shape:
        logits and target (N, T) or (N, T, *spatial), the mask likewise. Returns a scalar, or (T,) for reduction
        "none".

    Example:
        >>> import torch, fastmed
        >>> labels = torch.tensor([[1.0, 0.0], [0.0, float("nan")], [0.0, 1.0]])
        >>> loss = fastmed.MultiTaskBCELoss(*fastmed.class_balance(labels))
        >>> logits = torch.zeros(3, 2, requires_grad=True)
        >>> loss(logits, labels).backward()
        >>> logits.grad[1, 1].item()
        0.0
    """

    def __init__(
        self,
        pos_weight: BinaryWeight = None,
        neg_weight: BinaryWeight = None,
        *,
        task_weight: ClassWeight = None,
        missing: MissingPolicy = "ignore",
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
        reduction: str = "mean",
        normalize: str = "task",
        process_group: object | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            {"pos_weight": pos_weight, "neg_weight": neg_weight, "task_weight": task_weight},
            missing=missing,
            label_smoothing=label_smoothing,
            gamma=gamma,
            reduction=reduction,
            normalize=normalize,
            process_group=process_group,
            backend=backend,
        )

    def forward(self, logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of these logits."""
        return functional.multitask_bce_loss(logits, target, mask, **self._arguments())
