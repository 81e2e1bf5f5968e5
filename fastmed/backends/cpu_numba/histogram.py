"""Score histograms in Numba, serial: what counts where the native extension was not built."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...contract import EXTRA_COLUMNS, Bins, Scored
from .arrays import axes_in_memory_order, label_array, score_array
from .binary import sigmoid
from .compilation import compiled, elementwise
from .vector_math import exp_non_positive, log_positive

_BLOCK = 1024
_TRANSFORMS = {"identity": 0, "sigmoid": 1, "logit": 2}
_F = np.float32


@elementwise
def _logit(p: Any) -> Any:
    p = p if p > _F(0.0) else _F(0.0)
    p = p if p < _F(1.0) else _F(1.0)
    q = _F(1.0) - p
    larger = p if p > q else q
    smaller = q if p > q else p
    magnitude = log_positive(larger / smaller)
    return magnitude if p > q else -magnitude


@elementwise
def _column(score: Any, value: Any, bins: int, low: Any, high: Any, scale: Any) -> Any:
    """Column of a score whose transform is `value`: below, the bins, above, NaN."""
    position = (value - low) * scale
    last = _F(bins - 1)
    position = position if position > _F(0.0) else _F(0.0)
    position = position if position < last else last
    column = np.int32(position) + np.int32(1)
    column = np.int32(0) if value < low else column
    column = np.int32(bins + 1) if value > high else column
    return column if score == score else np.int32(bins + 2)


@compiled
def _columns(
    scores: NDArray[Any], transform: int, bins: int, low: Any, high: Any, scale: Any, columns: NDArray[np.int32]
) -> None:
    """One loop a transform, so that each becomes vector instructions."""
    count = scores.shape[0]
    if transform == 0:
        for i in range(count):
            score = _F(scores[i])
            columns[i] = _column(score, score, bins, low, high, scale)
    elif transform == 1:
        for i in range(count):
            score = _F(scores[i])
            columns[i] = _column(score, sigmoid(score, exp_non_positive(-abs(score))), bins, low, high, scale)
    else:
        for i in range(count):
            score = _F(scores[i])
            columns[i] = _column(score, _logit(score), bins, low, high, scale)


@compiled
def _count(
    scores: NDArray[Any],
    target: NDArray[Any],
    mask: NDArray[np.uint8],
    tasks_inner: bool,
    transform: int,
    limits: tuple[Any, Any, Any],
    columns: NDArray[np.int32],
    counts: NDArray[np.int64],
    invalid: NDArray[np.int64],
) -> None:
    """Counts scores whose last axis is the one along which they lie in memory: tasks or voxels."""
    low, high, scale = limits
    bins = counts.shape[2] - EXTRA_COLUMNS
    for i in range(scores.shape[0]):
        for j in range(scores.shape[1]):
            for begin in range(0, scores.shape[2], _BLOCK):
                of_block = scores[i, j, begin : begin + _BLOCK]
                _columns(of_block, transform, bins, low, high, scale, columns)
                for k in range(of_block.shape[0]):
                    label = target[i, j, begin + k]
                    task = begin + k if tasks_inner else j
                    if mask[i, j, begin + k] == 0:
                        continue
                    if label == 0 or label == 1:
                        counts[task, np.int64(label), columns[k]] += 1
                    elif label == label and label != -1:
                        invalid[task] += 1


def score_histogram(operands: Scored, bins: Bins) -> tuple[Tensor, Tensor]:
    """See `Backend.score_histogram`."""
    tasks = operands.scores.shape[1]
    counts = np.zeros((tasks, 2, bins.number + EXTRA_COLUMNS), dtype=np.int64)
    invalid = np.zeros(tasks, dtype=np.int64)
    axes, tasks_inner = axes_in_memory_order(operands.scores)
    scores, target, mask = operands
    kept = torch.ones((), dtype=torch.bool).expand_as(scores) if mask is None else mask
    _count(
        score_array(scores.permute(axes)),
        label_array(target.permute(axes)),
        label_array(kept.permute(axes)),
        tasks_inner,
        _TRANSFORMS[bins.transform],
        tuple(map(np.float32, bins.in_float32())),
        np.empty(_BLOCK, dtype=np.int32),
        counts,
        invalid,
    )
    return torch.from_numpy(counts), torch.from_numpy(invalid)
