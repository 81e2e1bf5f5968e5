"""`SoftBCEWithLogitsLoss` and `SoftCrossEntropyLoss`, whose means also count the voxels that are ignored."""

from __future__ import annotations

from segmentation_models_pytorch import losses as peer
from torch import Tensor

from .... import ops, validation
from ....contract import LossWeights, RatioLinear, RegionInput, changed
from ...attempt import attempt

__all__ = ["SoftBCEWithLogitsLoss", "SoftCrossEntropyLoss"]

_SUM_OF_NLL = RatioLinear(lambda_ratio=0.0, lambda_nll=1.0, mean=False)


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: {reduction!r} gives a loss for each voxel")


def _per_class(weight: Tensor, y_pred: Tensor) -> Tensor | None:
    """The weight of each class (C,), or None for a tensor that has others within a class."""
    classes = y_pred.shape[1]
    # Shapes broadcast from the last dimension on: (C,) beside an image is a weight of columns.
    shape = (1,) * (y_pred.ndim - weight.ndim) + tuple(weight.shape)
    of_classes = shape[1] in (1, classes) and weight.numel() == shape[1] and len(shape) == y_pred.ndim
    return weight.reshape(-1).expand(classes) if of_classes else None


class SoftBCEWithLogitsLoss(peer.SoftBCEWithLogitsLoss):
    """`segmentation_models_pytorch.losses.SoftBCEWithLogitsLoss` in one pass; arguments and errors are the library's.

    A loss for each voxel (`reduction="none"`), a `pos_weight` for each voxel and a `smooth_factor` of 0.5 or more take
    the library's own way.

    Attributes:
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Example:
        >>> import torch
        >>> from fastmed.compat import smp
        >>> loss = smp.SoftBCEWithLogitsLoss(smooth_factor=0.1, pos_weight=torch.tensor([2.0, 1.0]).view(2, 1, 1))
        >>> loss(torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4))  # (1.9 + 1) / 2 log(2)
        tensor(1.0051)
    """

    backend: str = "auto"

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The loss of y_pred and y_true, both (N, C, *spatial)."""
        return attempt("SoftBCEWithLogitsLoss", self._fused, super().forward, y_pred, y_true)

    def _fused(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        _check_reduction(self.reduction)
        if y_true.shape != y_pred.shape or y_pred.ndim < 2:
            raise ValueError(f"y_true: has shape {tuple(y_true.shape)}, y_pred {tuple(y_pred.shape)}")
        mask, pos, neg = self._weights(y_pred)
        # The library's factor is the share of the other label, ours that of both.
        smoothing = 2.0 * (self.smooth_factor or 0.0)
        operands = validation.region_input(y_pred, y_true, mask, "sigmoid", None, smoothing)
        # The value of an element, where our own losses take the class for a voxel.
        operands = changed(operands, ignore_index=self.ignore_index)
        total = ops.region_loss(operands, _SUM_OF_NLL, LossWeights(None, pos, neg), None, self.backend)
        return total / y_pred.numel() if self.reduction == "mean" else total

    def _weights(self, y_pred: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Weights of voxels, of the positives of each class and of its negatives."""
        pos = None
        if self.pos_weight is not None:
            pos = _per_class(self.pos_weight, y_pred)
            if pos is None or pos.requires_grad:
                raise ValueError("pos_weight: is not one number for each class")
        if self.weight is None:
            return None, pos, None
        neg = _per_class(self.weight, y_pred)
        if neg is None:
            return self.weight.expand(y_pred.shape), pos, None
        if neg.requires_grad:
            raise ValueError("weight: takes a gradient")
        return None, neg if pos is None else neg * pos, neg


class SoftCrossEntropyLoss(peer.SoftCrossEntropyLoss):
    """`segmentation_models_pytorch.losses.SoftCrossEntropyLoss` in one pass; arguments and errors are the library's.

    A loss for each voxel (`reduction="none"`) takes the library's own way.

    Attributes:
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Example:
        >>> import torch
        >>> from fastmed.compat import smp
        >>> loss = smp.SoftCrossEntropyLoss(smooth_factor=0.1)
        >>> loss(torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int64))  # log(4)
        tensor(1.3863)
    """

    backend: str = "auto"

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The loss of y_pred (N, C, *spatial) and labels y_true (N, *spatial)."""
        return attempt("SoftCrossEntropyLoss", self._fused, super().forward, y_pred, y_true)

    def _fused(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        _check_reduction(self.reduction)
        operands = self._operands(y_pred, y_true)
        total = ops.region_loss(operands, _SUM_OF_NLL, LossWeights(), None, self.backend)
        voxels = y_pred.numel() // y_pred.shape[self.dim]
        return total / voxels if self.reduction == "mean" else total

    def _operands(self, y_pred: Tensor, y_true: Tensor) -> RegionInput:
        if y_true.ndim == y_pred.ndim and y_true.shape[self.dim] == 1:
            y_true = y_true.squeeze(self.dim)
        classes_second = y_pred.movedim(self.dim, 1)
        expected = (classes_second.shape[0], *classes_second.shape[2:])
        if tuple(y_true.shape) != expected:
            raise ValueError(f"y_true: has shape {tuple(y_true.shape)}, not {expected}")
        return validation.region_input(classes_second, y_true, None, "softmax", self.ignore_index, self.smooth_factor)
