"""MONAI's metrics of overlap and of the ROC curve, with the counting in one pass.

Each class is MONAI's own but for the arithmetic on voxels: arguments, shapes, buffers, reductions and NaN conventions
are MONAI's. What a pass over hard maps does not count (soft labels, connected components, shapes that do not fit) goes
MONAI's own way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai import metrics as peer
from monai.utils import Average, look_up_option
from torch import Tensor

from ...functional import confusion_counts, rank_statistics
from ...metrics.functional import one_versus_rest

__all__ = ["ConfusionMatrixMetric", "DiceMetric", "MeanIoU", "ROCAUCMetric"]


def _is_binary(maps: Tensor) -> bool:
    return maps.dtype == torch.bool or bool((maps == maps.bool()).all())


def _is_of_float64(*maps: Tensor) -> bool:
    return any(each.dtype == torch.float64 for each in maps)


def _ignore_index(metric: Any) -> int | None:
    """The option of recent versions of MONAI."""
    return getattr(metric, "ignore_index", None)


def _valid_voxels(y: Tensor, ignore_index: int | None) -> Tensor | None:
    """MONAI's mask (B, 1, *spatial) of the voxels that count, or None for all."""
    if ignore_index is None:
        return None
    if y.shape[1] == 1:
        return y != ignore_index
    if 0 <= ignore_index < y.shape[1]:
        return y[:, ignore_index : ignore_index + 1] == 0
    return y.sum(1, keepdim=True) > 0


def _counts(y_pred: Tensor, y: Tensor, mask: Tensor | None) -> Tensor | None:
    """Counts (B, C, 4) of binary maps in the order tn, fp, fn, tp; None if the target is not binary."""
    if y_pred.shape != y.shape or y.numel() == 0 or (mask is not None and not _is_binary(y)):
        return None
    counts = confusion_counts(y_pred, y, y.shape[1], threshold=0.5, mask=mask, validate=False)
    # Without a mask, a voxel that was not counted had another target than 0 and 1.
    return counts if mask is not None or bool((counts.sum(-1) == y[0, 0].numel()).all()) else None


def _channel_counts(y_pred: Tensor, y: Tensor, include_background: bool, ignore_index: int | None) -> Tensor | None:
    """Counts (B, C, 4) of the channels that count, an ignored one as if it were empty in both maps."""
    if y_pred.shape != y.shape or not _is_binary(y_pred):
        return None
    channels = y.shape[1]
    if channels == 1 and not include_background and ignore_index is not None:
        return None  # MONAI then takes the index for that of a channel after the background.
    is_channel = ignore_index is not None and 0 <= ignore_index < channels
    counts = _counts(y_pred, y, None if is_channel else _valid_voxels(y, ignore_index))
    if counts is None:
        return None
    if is_channel and (include_background or ignore_index != 0):
        total = counts[:, ignore_index].sum(-1)
        counts[:, ignore_index] = 0
        counts[:, ignore_index, 0] = total
    return counts if include_background or channels == 1 else counts[:, 1:]


def _labels(maps: Tensor) -> Tensor | None:
    """Label map (B, *spatial) of a single channel, or None if it holds fractions."""
    labels = maps[:, 0]
    if not labels.is_floating_point():
        return labels
    whole = labels.to(torch.int32)
    return whole if bool((whole == labels).all()) else None


def _label_map_counts(y_pred: Tensor, y: Tensor, num_classes: int, ignore_index: int | None) -> Tensor | None:
    """Counts (B, C, 4) of each class against the rest, of maps (B, 1, *spatial); None for labels of no class."""
    prediction, target = _labels(y_pred), _labels(y)
    if prediction is None or target is None or target.numel() == 0:
        return None
    try:
        matrix = confusion_counts(prediction, target, num_classes, ignore_index=ignore_index, validate=True)
    except ValueError:
        return None
    return torch.stack(one_versus_rest(matrix), dim=-1)


class ConfusionMatrixMetric(peer.ConfusionMatrixMetric):
    """`monai.metrics.ConfusionMatrixMetric` at the speed of one pass over the voxels.

    Arguments, shapes, reductions and NaN conventions are MONAI's; see there.

    Example:
        >>> import torch
        >>> from fastmed.compat.monai import ConfusionMatrixMetric
        >>> metric = ConfusionMatrixMetric(metric_name=["sensitivity", "precision"])
        >>> y = torch.tensor([[[0, 0, 1, 1]]])
        >>> metric(y_pred=torch.tensor([[[0, 1, 1, 1]]]), y=y).tolist()  # tp, fp, tn, fn
        [[[2.0, 1.0, 1.0, 0.0]]]
        >>> [round(value.item(), 4) for value in metric.aggregate()]
        [1.0, 0.6667]
    """

    def _compute_tensor(self, y_pred: Tensor, y: Tensor) -> Tensor:
        is_table = y_pred.ndim == 2 or (y_pred.ndim == 3 and y_pred.shape[-1] == 1)
        counts = None
        # Of a table with compute_sample MONAI warns, and goes on without.
        if y_pred.ndim >= 2 and not (is_table and self.compute_sample):
            counts = _channel_counts(y_pred, y, self.include_background, _ignore_index(self))
        if counts is None:
            return super()._compute_tensor(y_pred, y)
        tn, fp, fn, tp = counts.float().unbind(-1)
        return torch.stack([tp, fp, tn, fn], dim=-1)


class DiceMetric(peer.DiceMetric):
    """`monai.metrics.DiceMetric` at the speed of one pass over the voxels.

    Arguments, shapes, reductions and NaN conventions are MONAI's; see there. Soft labels and `per_component` take
    MONAI's own way.

    Example:
        >>> import torch
        >>> from fastmed.compat.monai import DiceMetric
        >>> metric = DiceMetric(num_classes=3, include_background=False, reduction="mean_batch")
        >>> y = torch.tensor([[[0, 1, 1, 0]]])
        >>> metric(y_pred=torch.tensor([[[0, 1, 0, 2]]]), y=y)  # NaN: no voxel of class 2 in the truth
        tensor([[0.6667,    nan]])
        >>> metric.aggregate()
        tensor([0.6667, 0.0000])
    """

    def _compute_tensor(self, y_pred: Tensor, y: Tensor) -> Tensor:
        counts = self._fused(y_pred, y) if y_pred.ndim >= 3 and y_pred.ndim == y.ndim else None
        if counts is None:
            return super()._compute_tensor(y_pred, y)
        dtype = torch.float64 if y.shape[1] > 1 and _is_of_float64(y) else torch.float32
        _, fp, fn, tp = counts.unbind(-1)
        dice = (2 * tp).to(dtype) / (2 * tp + fp + fn).to(dtype)
        empty = torch.full_like(dice, torch.nan) if self.ignore_empty else (fp == 0).to(dtype)
        return torch.where(tp + fn > 0, dice, empty)

    def _fused(self, y_pred: Tensor, y: Tensor) -> Tensor | None:
        classes = self.num_classes or y_pred.shape[1]
        channels = (y_pred.shape[1], y.shape[1])
        ignored = _ignore_index(self)
        if getattr(self, "per_component", False) or y_pred.shape[2:] != y.shape[2:]:
            return None
        if classes == 1:
            if channels != (1, 1):
                return None
            return _counts(y_pred == 1, y == 1, _valid_voxels(y, ignored))
        first = 0 if self.include_background else 1
        if channels == (1, 1):
            counts = _label_map_counts(y_pred, y, classes, ignored)
            return None if counts is None else counts[:, first:]
        if not set(channels) <= {1, classes}:
            return None
        index = torch.arange(classes, device=y.device).view(-1, *[1] * (y.ndim - 2))
        mask = _valid_voxels(y, ignored)
        found = y_pred == index if channels[0] == 1 else y_pred.bool()
        counts = _counts(found, y == index if channels[1] == 1 else y, mask)
        return None if counts is None else counts[:, first:]


class MeanIoU(peer.MeanIoU):
    """`monai.metrics.MeanIoU` at the speed of one pass over the voxels.

    Arguments, shapes, reductions and NaN conventions are MONAI's; see there. Soft maps take MONAI's own way.

    Example:
        >>> import torch
        >>> from fastmed.compat.monai import MeanIoU
        >>> metric = MeanIoU()
        >>> y = torch.tensor([[[0, 0, 1, 1]]])
        >>> metric(y_pred=torch.tensor([[[0, 1, 1, 1]]]), y=y)
        tensor([[0.6667]])
    """

    def _compute_tensor(self, y_pred: Tensor, y: Tensor) -> Tensor:
        counts = None
        if y_pred.ndim >= 3:
            counts = _channel_counts(y_pred, y, self.include_background, _ignore_index(self))
        if counts is None:
            return super()._compute_tensor(y_pred, y)
        dtype = torch.float64 if _is_of_float64(y_pred, y) else torch.float32
        _, fp, fn, tp = counts.unbind(-1)
        union = tp + fp + fn
        iou = tp.to(dtype) / union.to(dtype)
        if self.ignore_empty:
            return iou.where(tp + fn > 0, torch.nan)
        return iou.where(union > 0, 1.0)


class ROCAUCMetric(peer.ROCAUCMetric):
    """`monai.metrics.ROCAUCMetric`, ranking the scores of all classes in one pass instead of a loop over samples.

    Arguments, shapes and NaN conventions are MONAI's; see there.

    Example:
        >>> import torch
        >>> from fastmed.compat.monai import ROCAUCMetric
        >>> metric = ROCAUCMetric()
        >>> _ = metric(y_pred=torch.tensor([0.1, 0.4, 0.35, 0.8]), y=torch.tensor([0, 0, 1, 1]))
        >>> metric.aggregate()
        0.75
    """

    def aggregate(self, average: Average | str | None = None) -> np.ndarray | float | list[float]:
        """The area under the curve of all that was buffered.

        Args:
            average: "macro", "weighted", "micro" or "none" over classes; that of the metric by default.
        """
        average = look_up_option(average or self.average, Average)
        buffers = self.get_buffer()
        found = None if buffers is None else _areas(buffers[0], buffers[1], average == Average.MICRO)
        if found is None:
            return super().aggregate(average)
        areas, positives = found
        if len(areas) == 1 or average == Average.NONE:
            return areas if len(areas) > 1 else areas[0]
        return np.average(areas, weights=positives if average == Average.WEIGHTED else None)


def _areas(y_pred: Tensor, y: Tensor, pool: bool) -> tuple[list[float], list[int]] | None:
    """Area and number of positives of each class; None where MONAI warns that an area is not defined, or fails."""
    scores, labels = (each.reshape(-1, 1) if pool or each.ndim == 1 else each for each in (y_pred, y))
    if scores.shape != labels.shape or scores.ndim != 2 or not _is_binary(labels):
        return None
    try:
        ranks = rank_statistics(scores if scores.is_floating_point() else scores.double(), labels, validate=True)
    except ValueError:
        return None
    pairs = ranks.positives * ranks.negatives
    return None if bool((pairs == 0).any()) else ((ranks.u / pairs).tolist(), ranks.positives.tolist())
