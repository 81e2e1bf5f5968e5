"""Metrics that torchmetrics computes from a confusion matrix."""

from __future__ import annotations

from torch import Tensor
from torchmetrics import classification as peer

from . import counting
from .task import OfTask


class BinaryConfusionMatrix(peer.BinaryConfusionMatrix):
    """Counts in one pass; arguments, values and errors are those of torchmetrics' class of this name."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the counts of a batch, (N, ...) each."""
        if self.ignore_index is not None and preds.is_floating_point() and preds.shape == target.shape:
            # Whether scores are logits is told from those that are not ignored.
            kept = target != self.ignore_index
            preds, target = preds[kept], target[kept]
        counts = counting.binary(self, preds, target)
        if counts is None:
            super().update(preds, target)
        else:
            self.confmat += counts


class MulticlassConfusionMatrix(peer.MulticlassConfusionMatrix):
    """Counts in one pass; arguments, values and errors are those of torchmetrics' class of this name."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the counts of a batch: labels (N, ...) or scores (N, C, ...), target (N, ...)."""
        counts = counting.multiclass(self, preds, target)
        if counts is None:
            super().update(preds, target)
        else:
            self.confmat += counts


class MultilabelConfusionMatrix(peer.MultilabelConfusionMatrix):
    """Counts in one pass; arguments, values and errors are those of torchmetrics' class of this name."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the counts of a batch, (N, L, ...) each."""
        counts = counting.multilabel(self, preds, target)
        if counts is None:
            super().update(preds, target)
        else:
            self.confmat += counts


class ConfusionMatrix(OfTask, peer.ConfusionMatrix): ...


class BinaryJaccardIndex(BinaryConfusionMatrix, peer.BinaryJaccardIndex): ...


class MulticlassJaccardIndex(MulticlassConfusionMatrix, peer.MulticlassJaccardIndex): ...


class MultilabelJaccardIndex(MultilabelConfusionMatrix, peer.MultilabelJaccardIndex): ...


class JaccardIndex(OfTask, peer.JaccardIndex): ...


class BinaryCohenKappa(BinaryConfusionMatrix, peer.BinaryCohenKappa): ...


class MulticlassCohenKappa(MulticlassConfusionMatrix, peer.MulticlassCohenKappa): ...


class CohenKappa(OfTask, peer.CohenKappa): ...


class BinaryMatthewsCorrCoef(BinaryConfusionMatrix, peer.BinaryMatthewsCorrCoef): ...


class MulticlassMatthewsCorrCoef(MulticlassConfusionMatrix, peer.MulticlassMatthewsCorrCoef): ...


class MultilabelMatthewsCorrCoef(MultilabelConfusionMatrix, peer.MultilabelMatthewsCorrCoef): ...


class MatthewsCorrCoef(OfTask, peer.MatthewsCorrCoef): ...
