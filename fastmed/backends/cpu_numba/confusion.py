"""Confusion counts in Numba, serial: what counts where the native extension was not built."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK = 2048
# Neighbours mostly fall into one cell, and an increment waits for the store of the one before it: consecutive
# voxels go to different copies of the table, unless it is large.
_COPIES = 4
_MAX_CELLS_COPIED = 1 << 16


@numba.njit(nogil=True, cache=True)
def _count(
    prediction: NDArray[Any],
    target: NDArray[Any],
    ignores: bool,
    ignore_index: int,
    cells: NDArray[Any],
    table: NDArray[np.int64],
    counts: NDArray[np.int64],
    invalid: NDArray[np.int64],
) -> None:
    """Counts labels (N, V) by way of the cells of a block and a table (copies, rows * columns) of one sample.

    Row C takes targets out of range, row C + 1 ignored voxels and column C predictions out of range, so that
    the first loop has no branch and becomes vector instructions.
    """
    samples, voxels = target.shape
    classes = counts.shape[1]
    columns = classes + 1
    copies = table.shape[0]
    for sample in range(samples):
        table[:] = 0
        for begin in range(0, voxels, _BLOCK):
            row_labels = target[sample, begin : begin + _BLOCK]
            column_labels = prediction[sample, begin : begin + _BLOCK]
            count = row_labels.shape[0]
            for i in range(count):
                row_label, column_label = np.int64(row_labels[i]), np.int64(column_labels[i])
                row = row_label if 0 <= row_label < classes else classes
                if ignores and row_label == ignore_index:
                    row = classes + 1
                column = column_label if 0 <= column_label < classes else classes
                cells[i] = row * columns + column
            # Unsigned indices, which need no test for negative ones.
            whole = count // copies * copies
            for i in range(0, whole, copies):
                for copy in range(copies):
                    table[np.uint64(copy), np.uint64(cells[np.uint64(i + copy)])] += 1
            for i in range(whole, count):
                table[0, np.uint64(cells[np.uint64(i)])] += 1
        for row in range(columns):
            for column in range(columns):
                total = table[:, row * columns + column].sum()
                if row < classes and column < classes:
                    counts[sample, row, column] = total
                else:
                    invalid[sample] += total


def _array(labels: Tensor) -> NDArray[Any]:
    return (labels.view(torch.uint8) if labels.dtype == torch.bool else labels).numpy()


def confusion_counts(
    prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int | None
) -> tuple[Tensor, Tensor]:
    """See `Backend.confusion_counts`."""
    samples = target.shape[0]
    size = (num_classes + 2) * (num_classes + 1)
    is_small = size <= _MAX_CELLS_COPIED
    cells = np.empty(_BLOCK, dtype=np.uint16 if is_small else np.int64)
    table = np.empty((_COPIES if is_small else 1, size), dtype=np.int64)
    counts = np.zeros((samples, num_classes, num_classes), dtype=np.int64)
    invalid = np.zeros(samples, dtype=np.int64)
    ignores = ignore_index is not None
    _count(_array(prediction), _array(target), ignores, ignore_index or 0, cells, table, counts, invalid)
    return torch.from_numpy(counts), torch.from_numpy(invalid)
