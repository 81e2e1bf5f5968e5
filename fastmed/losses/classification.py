"""The loss of many binary tasks as a module."""

from __future__ import annotations

from torch import Tensor

from .. import validation
from ..functional import multitask_bce_loss
from ..labels import MissingPolicy
from ..validation import BinaryWeight, ClassWeight
from .base import ConfiguredLoss


class MultiTaskBCELoss(ConfiguredLoss):
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
        >>> logits.grad[1, 1].item() == 0
        True
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
        validation.missing_policy(missing)
        super().__init__(
            pos_weight=pos_weight,
            neg_weight=neg_weight,
            task_weight=task_weight,
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
        return multitask_bce_loss(logits, target, mask, **self.arguments())
