"""The multi-task loss with which torchxrayvision trains its models, in one pass in place of a loop over tasks.

`train_epoch` of its `scripts/train_utils.py` masks one task after the other, takes the mean binary cross entropy of
what is annotated, and adds the tasks up, each times its entry of `weights` where `cfg.taskweights` is set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..functional import multitask_bce_loss
from ..losses.base import EagerModule
from ..validation import ClassWeight

__all__ = ["MultiTaskLoss", "multitask_loss", "task_weights"]


def task_weights(labels: Tensor | npt.NDArray[Any]) -> Tensor:
    """The `weights` of `cfg.taskweights`: the more positives a task has, the less it weighs.

    With n the positives of each task, w = max(n) - n + mean(n), divided by its largest entry.

    Args:
        labels: all labels of the training set (N, T), a tensor or the NumPy array that a data set of torchxrayvision
            has as `labels`; NaN where a task is not annotated.

    Returns:
        float32 (T,) in (0, 1]; NaN if no task has a positive.

    Example:
        >>> import torch
        >>> from fastmed.compat import torchxrayvision as xrv
        >>> xrv.task_weights(torch.tensor([[1.0, 0.0], [1.0, torch.nan], [1.0, 1.0]]))
        tensor([0.5000, 1.0000])
    """
    positives = torch.as_tensor(labels).nansum(0, dtype=torch.float64)
    weights = positives.max() - positives + positives.mean()
    return (weights / weights.max()).float()


def multitask_loss(
    outputs: Tensor, targets: Tensor, weights: ClassWeight | npt.NDArray[Any] = None, *, backend: str = "auto"
) -> Tensor:
    """Sum over tasks of the mean binary cross entropy of the samples annotated for the task.

    Args:
        outputs: logits (N, T).
        targets: 0, 1, or NaN where a task is not annotated, (N, T). A task without any annotation adds nothing.
        weights: factor of each task (T,), a tensor, an array or a list, for example of `task_weights`.
        backend: "auto" or a name: see `fastmed info`.

    Returns:
        A scalar.

    Raises:
        ValueError: if shapes do not fit.
        TypeError: for dtypes that are not supported.

    Example:
        >>> import torch
        >>> from fastmed.compat import torchxrayvision as xrv
        >>> targets = torch.tensor([[1.0, torch.nan], [0.0, torch.nan]])
        >>> xrv.multitask_loss(torch.zeros(2, 2), targets)
        tensor(0.6931)
    """
    task_weight = weights.tolist() if isinstance(weights, np.ndarray) else weights
    return multitask_bce_loss(
        outputs, targets, task_weight=task_weight, normalize="task", reduction="sum", backend=backend
    )


class MultiTaskLoss(EagerModule):
    """`multitask_loss` as a module, with the task weights of a training set.

    Args:
        weights: factor of each task (T,), a tensor, an array or a list, for example of `task_weights`; follows the
            module's device.
        backend: "auto" or a name: see `fastmed info`.

    Shape:
        outputs and targets (N, T); returns a scalar.

    Example:
        >>> import torch
        >>> from fastmed.compat import torchxrayvision as xrv
        >>> labels = torch.randint(2, (100, 14)).float()
        >>> criterion = xrv.MultiTaskLoss(xrv.task_weights(labels))
        >>> outputs = torch.randn(100, 14, requires_grad=True)
        >>> criterion(outputs, labels).backward()
    """

    weights: Tensor | None

    def __init__(self, weights: ClassWeight | npt.NDArray[Any] = None, *, backend: str = "auto") -> None:
        super().__init__()
        factors = None if weights is None else torch.as_tensor(weights, dtype=torch.float32)
        self.register_buffer("weights", factors, persistent=False)
        self.backend = backend

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of these outputs."""
        return multitask_loss(outputs, targets, self.weights, backend=self.backend)
