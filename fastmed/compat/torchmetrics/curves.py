"""Metrics that torchmetrics computes from scores at many thresholds.

With `thresholds`, a search finds how many of them each score reaches, and one count of these numbers gives the tables
at all thresholds, where torchmetrics compares every score with every threshold. Without, the ranks of the scores that
it keeps give the area under the curve.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import classification as peer
from torchmetrics.utilities.compute import normalize_logits_if_needed
from torchmetrics.utilities.data import dim_zero_cat

from ...functional import rank_statistics
from .task import OfTask


def _tables(scores: Tensor, positive: Tensor, thresholds: Any, valid: Tensor | None = None) -> Tensor:
    """Counts (thresholds, L, 2, 2) of scores (M, L), called positive from the threshold on; a NaN never is."""
    dtype = torch.promote_types(scores.dtype, thresholds.dtype)
    ascending, order = thresholds.to(dtype).sort()
    steps, labels = len(thresholds) + 1, scores.shape[1]
    reached = torch.bucketize(scores.to(dtype).nan_to_num(nan=-torch.inf), ascending, right=True)
    cell = reached + steps * (positive + 2 * torch.arange(labels, device=scores.device))
    cell = cell.flatten() if valid is None else cell[valid]
    counts = torch.bincount(cell, minlength=2 * labels * steps).view(labels, 2, steps)
    below = counts.cumsum(-1)
    tables = torch.stack([below, below[..., -1:] - below], dim=-1)[..., :-1, :]
    return tables.permute(2, 0, 1, 3)[order.argsort()]


def _is_binned(metric: Any) -> bool:
    return metric.thresholds is not None


def _has_scores(metric: Any) -> bool:
    """Whether there are scores: a list of batches, and after a synchronisation of ranks one tensor."""
    return len(metric.preds) > 0


def _is_binary(target: Tensor, ignore_index: int | None) -> bool:
    known = (target == 0) | (target == 1)
    return bool((known if ignore_index is None else known | (target == ignore_index)).all())


class BinaryPrecisionRecallCurve(peer.BinaryPrecisionRecallCurve):
    """Counts in one pass; arguments, values and errors are those of torchmetrics' class of this name."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add scores and targets of a batch, (N, ...) each."""
        fits = preds.shape == target.shape and preds.is_floating_point() and not target.is_floating_point()
        if not _is_binned(self) or not fits or not _is_binary(target, self.ignore_index):
            super().update(preds, target)
            return
        if self.ignore_index is not None:
            kept = target != self.ignore_index
            preds, target = preds[kept], target[kept]
        scores = normalize_logits_if_needed(preds.flatten(), self.normalization)
        self.confmat += _tables(scores[:, None], target.flatten()[:, None], self.thresholds)[:, 0]


class MulticlassPrecisionRecallCurve(peer.MulticlassPrecisionRecallCurve):
    """Counts in one pass; arguments, values and errors are those of torchmetrics' class of this name."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add scores (N, C, ...) and targets (N, ...) of a batch."""
        fits = preds.shape[:1] + preds.shape[2:] == target.shape and preds.shape[1:2] == (self.num_classes,)
        fits = fits and preds.is_floating_point() and not target.is_floating_point()
        if not _is_binned(self) or self.average == "micro" or not fits:
            super().update(preds, target)
            return
        scores, labels = preds.movedim(1, -1).flatten(0, -2), target.flatten()
        if self.ignore_index is not None:
            kept = labels != self.ignore_index
            scores, labels = scores[kept], labels[kept]
        if not ((labels >= 0) & (labels < self.num_classes)).all():
            super().update(preds, target)
            return
        scores = normalize_logits_if_needed(scores, "softmax")
        of_class = labels[:, None] == torch.arange(self.num_classes, device=labels.device)
        self.confmat += _tables(scores, of_class, self.thresholds)


class MultilabelPrecisionRecallCurve(peer.MultilabelPrecisionRecallCurve):
    """Counts in one pass; arguments, values and errors are those of torchmetrics' class of this name."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add scores and targets of a batch, (N, L, ...) each."""
        fits = preds.shape == target.shape and preds.shape[1:2] == (self.num_labels,)
        fits = fits and preds.is_floating_point() and not target.is_floating_point()
        if not _is_binned(self) or not fits or not _is_binary(target, self.ignore_index):
            super().update(preds, target)
            return
        scores = normalize_logits_if_needed(preds.movedim(1, -1).flatten(0, -2), "sigmoid")
        labels = target.movedim(1, -1).flatten(0, -2)
        valid = None if self.ignore_index is None else labels != self.ignore_index
        self.confmat += _tables(scores, labels == 1, self.thresholds, valid)


class PrecisionRecallCurve(OfTask, peer.PrecisionRecallCurve): ...


class BinaryROC(BinaryPrecisionRecallCurve, peer.BinaryROC): ...


class MulticlassROC(MulticlassPrecisionRecallCurve, peer.MulticlassROC): ...


class MultilabelROC(MultilabelPrecisionRecallCurve, peer.MultilabelROC): ...


class ROC(OfTask, peer.ROC): ...


def _areas(scores: Tensor, positive: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
    """Exact areas float32 (L,) and number of positives of scores (M, L); None where an area is not defined."""
    try:
        ranks = rank_statistics(scores, positive, mask=valid)
    except ValueError:
        return None
    pairs = ranks.positives * ranks.negatives
    areas = ranks.u / pairs
    return None if bool((pairs == 0).any()) or bool(areas.isnan().any()) else (areas.float(), ranks.positives)


def _reduced(areas: Tensor, positives: Tensor, average: str | None) -> Tensor:
    if average == "macro":
        return areas.mean()
    if average == "weighted":
        return (areas * (positives / positives.sum())).sum()
    return areas


# The areas override a `compute` that gives curves, as torchmetrics' own do: hence what mypy is told to ignore.


class BinaryAUROC(BinaryPrecisionRecallCurve, peer.BinaryAUROC):
    """Counts and ranks in one pass; arguments, values and errors are those of torchmetrics' class of this name."""

    def compute(self) -> Tensor:  # type: ignore[override]
        """The area under the curve, exact without thresholds."""
        found = None
        if not _is_binned(self) and self.max_fpr in (None, 1) and _has_scores(self):
            found = _areas(dim_zero_cat(self.preds)[:, None], dim_zero_cat(self.target)[:, None])
        return super().compute() if found is None else found[0][0]


class MulticlassAUROC(MulticlassPrecisionRecallCurve, peer.MulticlassAUROC):
    """Counts and ranks in one pass; arguments, values and errors are those of torchmetrics' class of this name."""

    def compute(self) -> Tensor:  # type: ignore[override]
        """The area under the curve of each class against the others, exact without thresholds."""
        found = None
        if not _is_binned(self) and _has_scores(self):
            labels = dim_zero_cat(self.target)
            of_class = labels[:, None] == torch.arange(self.num_classes, device=labels.device)
            found = _areas(dim_zero_cat(self.preds), of_class)
        return super().compute() if found is None else _reduced(*found, self.average)


class MultilabelAUROC(MultilabelPrecisionRecallCurve, peer.MultilabelAUROC):
    """Counts and ranks in one pass; arguments, values and errors are those of torchmetrics' class of this name."""

    def compute(self) -> Tensor:  # type: ignore[override]
        """The area under the curve of each label, exact without thresholds."""
        found = None
        if not _is_binned(self) and _has_scores(self):
            scores, labels = dim_zero_cat(self.preds), dim_zero_cat(self.target)
            if self.average == "micro":
                scores, labels = scores.reshape(-1, 1), labels.reshape(-1, 1)
            valid = None if self.ignore_index is None else labels != self.ignore_index
            found = _areas(scores, labels == 1, valid)
        if found is None:
            return super().compute()
        return found[0][0] if self.average == "micro" else _reduced(*found, self.average)


class AUROC(OfTask, peer.AUROC): ...


class BinaryAveragePrecision(BinaryPrecisionRecallCurve, peer.BinaryAveragePrecision): ...


class MulticlassAveragePrecision(MulticlassPrecisionRecallCurve, peer.MulticlassAveragePrecision): ...


class MultilabelAveragePrecision(MultilabelPrecisionRecallCurve, peer.MultilabelAveragePrecision): ...


class AveragePrecision(OfTask, peer.AveragePrecision): ...
