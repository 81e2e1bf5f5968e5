"""Metrics that torchmetrics computes from true and false positives and negatives."""

from __future__ import annotations

from torch import Tensor
from torchmetrics import classification as peer

from . import counting
from .task import OfTask


class BinaryStatScores(peer.BinaryStatScores):
    """Counts in one pass; arguments, values and errors are those of torchmetrics' class of this name."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the counts of a batch, (N, ...) each."""
        counts = counting.binary(self, preds, target)
        if counts is None:
            super().update(preds, target)
        else:
            tn, fp, fn, tp = counts.flatten(-2).unbind(-1)
            self._update_state(tp.squeeze(), fp.squeeze(), tn.squeeze(), fn.squeeze())


class MulticlassStatScores(peer.MulticlassStatScores):
    """Counts in one pass; arguments, values and errors are those of torchmetrics' class of this name."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the counts of a batch: labels (N, ...) or scores (N, C, ...), target (N, ...).

        Of scores with `top_k` above 1, torchmetrics does the counting.
        """
        counts = counting.multiclass(self, preds, target) if self.top_k == 1 else None
        if counts is None:
            super().update(preds, target)
            return
        tp = counts.diagonal(dim1=-2, dim2=-1)
        fp, fn, total = counts.sum(-2) - tp, counts.sum(-1) - tp, counts.sum((-2, -1))
        if self.average == "micro" and self.multidim_average == "global":
            tp, fp, fn, total = tp.sum(), fp.sum(), fn.sum(), counts.shape[-1] * total
            self._update_state(tp, fp, total - tp - fp - fn, fn)
        else:
            self._update_state(tp, fp, total.unsqueeze(-1) - tp - fp - fn, fn)


class MultilabelStatScores(peer.MultilabelStatScores):
    """Counts in one pass; arguments, values and errors are those of torchmetrics' class of this name."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add the counts of a batch, (N, L, ...) each."""
        counts = counting.multilabel(self, preds, target)
        if counts is None:
            super().update(preds, target)
        else:
            tn, fp, fn, tp = counts.flatten(-2).unbind(-1)
            self._update_state(tp.squeeze(), fp.squeeze(), tn.squeeze(), fn.squeeze())


class StatScores(OfTask, peer.StatScores): ...


class BinaryAccuracy(BinaryStatScores, peer.BinaryAccuracy): ...


class MulticlassAccuracy(MulticlassStatScores, peer.MulticlassAccuracy): ...


class MultilabelAccuracy(MultilabelStatScores, peer.MultilabelAccuracy): ...


class Accuracy(OfTask, peer.Accuracy): ...


class BinaryPrecision(BinaryStatScores, peer.BinaryPrecision): ...


class MulticlassPrecision(MulticlassStatScores, peer.MulticlassPrecision): ...


class MultilabelPrecision(MultilabelStatScores, peer.MultilabelPrecision): ...


class Precision(OfTask, peer.Precision): ...


class BinaryRecall(BinaryStatScores, peer.BinaryRecall): ...


class MulticlassRecall(MulticlassStatScores, peer.MulticlassRecall): ...


class MultilabelRecall(MultilabelStatScores, peer.MultilabelRecall): ...


class Recall(OfTask, peer.Recall): ...


class BinarySpecificity(BinaryStatScores, peer.BinarySpecificity): ...


class MulticlassSpecificity(MulticlassStatScores, peer.MulticlassSpecificity): ...


class MultilabelSpecificity(MultilabelStatScores, peer.MultilabelSpecificity): ...


class Specificity(OfTask, peer.Specificity): ...


class BinaryFBetaScore(BinaryStatScores, peer.BinaryFBetaScore): ...


class MulticlassFBetaScore(MulticlassStatScores, peer.MulticlassFBetaScore): ...


class MultilabelFBetaScore(MultilabelStatScores, peer.MultilabelFBetaScore): ...


class FBetaScore(OfTask, peer.FBetaScore): ...


class BinaryF1Score(BinaryStatScores, peer.BinaryF1Score): ...


class MulticlassF1Score(MulticlassStatScores, peer.MulticlassF1Score): ...


class MultilabelF1Score(MultilabelStatScores, peer.MultilabelF1Score): ...


class F1Score(OfTask, peer.F1Score): ...


class BinaryHammingDistance(BinaryStatScores, peer.BinaryHammingDistance): ...


class MulticlassHammingDistance(MulticlassStatScores, peer.MulticlassHammingDistance): ...


class MultilabelHammingDistance(MultilabelStatScores, peer.MultilabelHammingDistance): ...


class HammingDistance(OfTask, peer.HammingDistance): ...
