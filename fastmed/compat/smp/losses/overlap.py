"""`DiceLoss`, `JaccardLoss` and `TverskyLoss`: one index of Tversky with three pairs of weights."""

from __future__ import annotations

from typing import Any

from segmentation_models_pytorch import losses as peer
from torch import Tensor

from .... import formulas, validation
from ....contract import RegionInput, RegionSums, changed
from ...attempt import attempt
from ...soft import soft_label_sums

__all__ = ["DiceLoss", "JaccardLoss", "TverskyLoss"]


def _operands(loss: Any, y_pred: Tensor, y_true: Tensor) -> RegionInput:
    """The operands of a pass, in the shape that the mode gives them."""
    samples = y_pred.shape[0]
    if y_true.shape[0] != samples:
        raise ValueError(f"y_true: has {y_true.shape[0]} samples, not {samples}")
    classes = 1 if loss.mode == peer.BINARY_MODE else y_pred.shape[1]
    has_labels = loss.mode == peer.MULTICLASS_MODE
    if has_labels and classes == 1:
        raise ValueError("mode: 'multiclass' with one class, to which every voxel belongs")
    target = y_true.reshape(samples, -1) if has_labels else y_true.reshape(samples, classes, -1)
    activation = ("softmax" if has_labels else "sigmoid") if loss.from_logits else None
    operands = validation.region_input(y_pred.reshape(samples, classes, -1), target, None, activation, None)
    # The value of an element, where our own losses take the class for a voxel.
    return changed(operands, ignore_index=loss.ignore_index)


def _sums(loss: Any, y_pred: Tensor, y_true: Tensor) -> RegionSums:
    """The sums of the batch, each (1, C), with the true positives of soft labels."""
    return formulas.pool_batch(soft_label_sums(_operands(loss, y_pred, y_true), loss.backend))


def _overlap(loss: Any, y_pred: Tensor, y_true: Tensor, alpha: float, beta: float) -> Tensor:
    """The loss of an index of Tversky; a class without a voxel in the target does not add to it."""
    sums = _sums(loss, y_pred, y_true)
    fp, fn = sums.pred - sums.tp, sums.target - sums.tp
    denominator = sums.tp + alpha * fp + beta * fn + loss.smooth
    score = (sums.tp + loss.smooth) / denominator.clamp_min(loss.eps)
    per_class = -score.clamp_min(loss.eps).log() if loss.log_loss else 1.0 - score
    per_class = (per_class * (sums.target > 0)).squeeze(0)
    return per_class if loss.classes is None else per_class[loss.classes]


class DiceLoss(peer.DiceLoss):
    """`segmentation_models_pytorch.losses.DiceLoss` in one pass; arguments, modes and errors are the library's.

    Attributes:
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Example:
        >>> import torch
        >>> from fastmed.compat import smp
        >>> loss = smp.DiceLoss(smp.MULTICLASS_MODE, ignore_index=255)
        >>> logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
        >>> loss(logits, torch.ones(1, 4, 4, dtype=torch.int64))  # 1 - 2 / 3, and nothing of the class without voxels
        tensor(0.1667, grad_fn=<MeanBackward0>)
    """

    backend: str = "auto"

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The loss of y_pred (N, C, *spatial) and y_true (N, *spatial), or (N, C, *spatial) if multilabel."""
        return attempt("DiceLoss", self._fused, super().forward, y_pred, y_true)

    def _fused(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        return self.aggregate_loss(_overlap(self, y_pred, y_true, 0.5, 0.5))


class TverskyLoss(peer.TverskyLoss):
    """`segmentation_models_pytorch.losses.TverskyLoss` in one pass; arguments, modes and errors are the library's.

    Attributes:
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Example:
        >>> import torch
        >>> from fastmed.compat import smp
        >>> loss = smp.TverskyLoss(smp.BINARY_MODE, alpha=0.3, beta=0.7, gamma=4 / 3)
        >>> logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
        >>> loss(logits, torch.ones(1, 4, 4)).backward()
    """

    backend: str = "auto"

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The loss of y_pred (N, C, *spatial) and y_true (N, *spatial), or (N, C, *spatial) if multilabel."""
        return attempt("TverskyLoss", self._fused, super().forward, y_pred, y_true)

    def _fused(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        return self.aggregate_loss(_overlap(self, y_pred, y_true, self.alpha, self.beta))


class JaccardLoss(peer.JaccardLoss):
    """`segmentation_models_pytorch.losses.JaccardLoss` in one pass; arguments, modes and errors are the library's.

    Attributes:
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Example:
        >>> import torch
        >>> from fastmed.compat import smp
        >>> loss = smp.JaccardLoss(smp.MULTILABEL_MODE, classes=[1], log_loss=True)
        >>> logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
        >>> loss(logits, torch.ones(1, 2, 4, 4)).backward()
    """

    backend: str = "auto"

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The loss of y_pred (N, C, *spatial) and y_true (N, *spatial), or (N, C, *spatial) if multilabel."""
        return attempt("JaccardLoss", self._fused, super().forward, y_pred, y_true)

    def _fused(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        return peer.DiceLoss.aggregate_loss(self, _overlap(self, y_pred, y_true, 1.0, 1.0))
