"""`get_stats` in whole numbers: of several classes the library counts in float32, which stands still at 2^24."""

from __future__ import annotations

from typing import Any

from segmentation_models_pytorch import metrics as peer
from torch import Tensor

from ...functional import confusion_counts
from ..attempt import attempt

__all__ = ["get_stats"]

Stats = tuple[Tensor, Tensor, Tensor, Tensor]


def _is_binary(maps: Tensor) -> bool:
    return bool((maps == maps.bool()).all())


def _of_labels(output: Tensor, target: Tensor, ignore_index: int | None, num_classes: int) -> Stats:
    if ignore_index is not None and 0 <= ignore_index < num_classes:
        raise ValueError("ignore_index: is a class")
    matrix = confusion_counts(output, target, num_classes, ignore_index=ignore_index, validate=True)
    tp = matrix.diagonal(dim1=1, dim2=2)
    fp, fn = matrix.sum(1) - tp, matrix.sum(2) - tp
    tn = matrix.sum((1, 2)).unsqueeze(1) - tp - fp - fn
    # The library's counts of several classes are on the CPU, wherever the labels are.
    return tp.cpu(), fp.cpu(), fn.cpu(), tn.cpu()


def _of_maps(output: Tensor, target: Tensor, threshold: Any) -> Stats:
    if threshold is not None:
        output, target = output >= threshold, target >= threshold
    elif not (_is_binary(output) and _is_binary(target)):
        raise ValueError("output, target: hold other numbers than 0 and 1")
    counts = confusion_counts(output, target, target.shape[1], threshold=0.5)
    tn, fp, fn, tp = counts.unbind(-1)
    return tp, fp, fn, tn


def _fused(
    output: Tensor, target: Tensor, mode: str, ignore_index: int | None, threshold: Any, num_classes: int | None
) -> Stats:
    """The counts; `ValueError` for what the library is to judge."""
    if target.is_floating_point() or output.shape != target.shape or target.ndim < 2:
        raise ValueError("output, target: are not of one shape (N, ...), or the target is not of an integer type")
    if mode == "multiclass":
        if output.is_floating_point() or threshold is not None or num_classes is None:
            raise ValueError("mode: 'multiclass' needs labels and num_classes, and takes no threshold")
        return _of_labels(output, target, ignore_index, num_classes)
    if mode not in ("binary", "multilabel") or ignore_index is not None:
        raise ValueError(f"mode: {mode!r} with ignore_index {ignore_index}")
    if output.is_floating_point() and threshold is None:
        raise ValueError("threshold: is missing for scores")
    return _of_maps(output, target, threshold)


def get_stats(
    output: Tensor,
    target: Tensor,
    mode: str,
    ignore_index: int | None = None,
    threshold: Any = None,
    num_classes: int | None = None,
) -> Stats:
    """`segmentation_models_pytorch.metrics.get_stats`, counted in one pass and exact for volumes of any size.

    Args:
        output: labels (N, ...) if multiclass, else scores or maps of 0 and 1 (N, C, ...).
        target: integers of the same shape.
        mode: "binary", "multilabel" or "multiclass".
        ignore_index: label that is not counted, outside the classes; of "multiclass" only.
        threshold: a voxel is positive where `output >= threshold`; not of "multiclass".
        num_classes: number of classes, for "multiclass".

    Returns:
        True positives, false positives, false negatives and true negatives, each int64 (N, C).

    Raises:
        ValueError: as the library.

    Example:
        >>> import torch
        >>> from fastmed.compat.smp import get_stats
        >>> tp, fp, fn, tn = get_stats(
        ...     torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1]]), mode="multiclass", num_classes=2
        ... )
        >>> tp.tolist(), fp.tolist(), fn.tolist(), tn.tolist()
        ([[1, 2]], [[0, 1]], [[1, 0]], [[2, 1]])
    """
    return attempt("get_stats", _fused, peer.get_stats, output, target, mode, ignore_index, threshold, num_classes)
