"""What torchmetrics counts of labels, scores and targets, in one pass.

Each function answers None for what that pass does not count exactly: labels of a floating dtype or out of range, and
shapes that do not fit. Its caller then takes torchmetrics' own way, which counts it or raises the error that its
users know.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics.utilities.compute import normalize_logits_if_needed

from ...functional import confusion_counts


def _are_labels(tensor: Tensor) -> bool:
    return tensor.ndim > 0 and tensor.numel() > 0 and not tensor.is_floating_point()


def _is_samplewise(metric: Any) -> bool:
    return getattr(metric, "multidim_average", "global") == "samplewise"


def _counts(metric: Any, maps: tuple[Tensor, Tensor], num_classes: int, pool: str) -> Tensor | None:
    try:
        return confusion_counts(
            *maps,
            num_classes,
            ignore_index=metric.ignore_index,
            pool=pool,
            validate=True if metric.validate_args else None,
        )
    except (TypeError, ValueError):
        return None


def _positive(preds: Tensor, threshold: float) -> Tensor:
    """What is called positive of scores or logits, told apart by torchmetrics' rule; labels as they are."""
    return normalize_logits_if_needed(preds, "sigmoid") > threshold if preds.is_floating_point() else preds


def binary(metric: Any, preds: Tensor, target: Tensor) -> Tensor | None:
    """Counts (2, 2) of a binary metric, (N, 2, 2) if it tells samples apart."""
    if preds.shape != target.shape or not _are_labels(target):
        return None
    if _is_samplewise(metric) and target.ndim < 2:
        return None
    maps = (_positive(preds, metric.threshold), target)
    return _counts(metric, maps, 2, "sample" if _is_samplewise(metric) else "batch")


def multiclass(metric: Any, preds: Tensor, target: Tensor) -> Tensor | None:
    """Counts (C, C) of a multi-class metric, (N, C, C) if it tells samples apart."""
    of_scores = preds.ndim == target.ndim + 1
    shape = preds.shape[:1] + preds.shape[2:] if of_scores else preds.shape
    if metric.num_classes is None or shape != target.shape or not _are_labels(target):
        return None
    if of_scores != preds.is_floating_point() or (of_scores and preds.shape[1] != metric.num_classes):
        return None
    if _is_samplewise(metric) and target.ndim < 2:
        return None
    return _counts(metric, (preds, target), metric.num_classes, "sample" if _is_samplewise(metric) else "batch")


def multilabel(metric: Any, preds: Tensor, target: Tensor) -> Tensor | None:
    """Counts (L, 2, 2) of a multi-label metric, (N, L, 2, 2) if it tells samples apart."""
    if preds.shape != target.shape or not _are_labels(target) or preds.shape[1:2] != (metric.num_labels,):
        return None
    scores = _positive(preds, metric.threshold)
    # Each label is a binary map of its own, so that values out of range are found.
    if not _is_samplewise(metric):
        return _counts(metric, (scores.transpose(0, 1).flatten(1), target.transpose(0, 1).flatten(1)), 2, "sample")
    samples = target.shape[:2]
    maps = (scores.reshape(samples.numel(), -1), target.reshape(samples.numel(), -1))
    table = _counts(metric, maps, 2, "sample")
    return None if table is None else table.unflatten(0, samples)
