"""Rank statistics: positives and negatives of each task sorted apart by NumPy, then merged in compiled loops."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...contract import RankStatistics, Scored
from .arrays import axes_in_memory_order, label_array, score_array
from .compilation import compiled
from .threads import SERIAL_BELOW


@compiled
def _split(
    scores: NDArray[Any],
    target: NDArray[Any],
    mask: NDArray[np.uint8],
    tasks_inner: bool,
    split: NDArray[Any],
    sizes: NDArray[np.int64],
    invalid: NDArray[np.int64],
) -> None:
    """Copies the positives of each task to the front of its row, the negatives to the back.

    `sizes` (2, T) gets how many there are of each; the last axis of the scores is the one along which they lie in
    memory: tasks or voxels.
    """
    last = split.shape[1] - 1
    for i in range(scores.shape[0]):
        for j in range(scores.shape[1]):
            for k in range(scores.shape[2]):
                task = k if tasks_inner else j
                label = target[i, j, k]
                if mask[i, j, k] == 0:
                    continue
                if label == 1:
                    split[task, sizes[0, task]] = scores[i, j, k]
                    sizes[0, task] += 1
                elif label == 0:
                    split[task, last - sizes[1, task]] = scores[i, j, k]
                    sizes[1, task] += 1
                elif label == label and label != -1:
                    invalid[task] += 1


@compiled
def _merge(positives: NDArray[Any], negatives: NDArray[Any], statistics: NDArray[np.float64]) -> None:
    """U and the sums of squares of two sorted arrays, group by group of equal scores."""
    m, n = positives.shape[0], negatives.shape[0]
    twice_u = 0
    positive_squares = negative_squares = 0.0
    i = j = 0
    while i < m or j < n:
        score = positives[i] if j == n or (i < m and positives[i] < negatives[j]) else negatives[j]
        i_past, j_past = i, j
        while i_past < m and positives[i_past] == score:
            i_past += 1
        while j_past < n and negatives[j_past] == score:
            j_past += 1
        twice_lower, twice_higher = j + j_past, 2 * m - i - i_past
        twice_u += (i_past - i) * twice_lower
        positive_squares += (i_past - i) * (0.5 * twice_lower) ** 2
        negative_squares += (j_past - j) * (0.5 * twice_higher) ** 2
        i, j = i_past, j_past
    statistics[:] = twice_u / 2, positive_squares, negative_squares


def rank_statistics(operands: Scored) -> tuple[Tensor, Tensor]:
    """See `Backend.rank_statistics`."""
    axes, tasks_inner = axes_in_memory_order(operands.scores)
    tasks = operands.scores.shape[1]
    scores, target, mask = operands
    kept = torch.ones((), dtype=torch.bool).expand_as(scores) if mask is None else mask
    scores_array = score_array(scores.permute(axes))
    split = np.empty((tasks, scores[:, :1].numel()), dtype=scores_array.dtype)
    sizes, invalid = np.zeros((2, tasks), dtype=np.int64), np.zeros(tasks, dtype=np.int64)
    operands_in_order = (scores_array, label_array(target.permute(axes)), label_array(kept.permute(axes)))
    _split(*operands_in_order, tasks_inner, split, sizes, invalid)
    stacked = np.empty((len(RankStatistics._fields), tasks))
    stacked[:2] = sizes

    def rank(task: int) -> None:
        row, (positives, negatives) = split[task], sizes[:, task]
        parts = row[:positives], row[row.size - negatives :]
        for part in parts:
            part.sort()
        # NaN is sorted last.
        if any(part.size and np.isnan(part[-1]) for part in parts):
            stacked[2:, task] = np.nan
        else:
            _merge(*parts, stacked[2:, task])

    threads = min(torch.get_num_threads(), tasks)
    if threads <= 1 or scores.numel() < SERIAL_BELOW:
        for task in range(tasks):
            rank(task)
    else:
        # Sorting and merging hold no lock. The threads live for this call: a pool would not survive a fork.
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(rank, range(tasks)))
    return torch.from_numpy(stacked), torch.from_numpy(invalid)
