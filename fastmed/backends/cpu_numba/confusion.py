"""Confusion counts in Numba, serial: what counts where the native extension was not built.

A block of voxels at a time becomes rows and columns of its table, in loops without a branch, which LLVM turns into
vector instructions. Row K takes targets out of range, row K + 1 voxels that are not counted and column K predictions
out of range, for K classes, or 2 where every class has a table of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...contract import CountInput
from .compilation import compiled
from .conversion import PLAIN, half, value_of

_BLOCK = 2048
# Neighbours mostly fall into one cell, and an increment waits for the store of the one before it: consecutive
# voxels go to different copies of the table, unless it is large.
_COPIES = 4
_MAX_CELLS_COPIED = 1 << 16
# Types that NumPy does not have, or that compiled code reads as others.
_BITS = {torch.float16: torch.uint16, torch.bfloat16: torch.uint16, torch.bool: torch.uint8}


class _View(NamedTuple):
    """An operand as flat memory with element strides; `channel` is 0 where all classes share its values."""

    memory: Any
    half: int
    sample: int
    channel: int
    voxel: int


class _Removed(NamedTuple):
    """What is not counted: an ignored value of the target, and voxels outside the mask."""

    has_ignore: bool
    ignore_index: int
    has_mask: bool
    mask: _View


class _Tiles(NamedTuple):
    """A block's rows, columns and values, in the first-level cache."""

    rows: Any
    columns: Any
    input: Any
    best: Any
    target: Any
    kept: Any


@compiled
def _load(tile: Any, source: Any, sample: int, channel: int, voxel: int) -> None:
    """Fills a tile of any type with the voxels from `voxel` on of a sample and channel."""
    memory, stride = source.memory, source.voxel
    start = sample * source.sample + channel * source.channel + voxel * stride
    if source.half != PLAIN:
        for i in range(tile.size):
            tile[i] = value_of(memory[start + i * stride], source.half)
    elif stride == 1:
        run = memory[start : start + tile.size]
        for i in range(tile.size):
            tile[i] = run[i]
    else:
        for i in range(tile.size):
            tile[i] = memory[start + i * stride]


@compiled
def _encode_labels(codes: Any, labels: Any, classes: int) -> None:
    for i in range(codes.size):
        inside = (labels[i] >= 0) & (labels[i] < classes)
        codes[i] = labels[i] if inside else classes


@compiled
def _encode_presence(rows: Any, target: Any) -> None:
    for i in range(rows.size):
        value = target[i]
        row = 1 if value == 1 else (0 if value == 0 else 2)
        rows[i] = 3 if (value == -1) | (value != value) else row


@compiled
def _encode_above(columns: Any, scores: Any, threshold: Any) -> None:
    for i in range(columns.size):
        columns[i] = 1 if scores[i] > threshold else 0


@compiled
def _remove(rows: Any, target: Any, kept: Any, removed: Any, code: int, sample: int, channel: int, voxel: int) -> None:
    """Gives voxels that are not counted their row."""
    if removed.has_ignore:
        for i in range(rows.size):
            rows[i] = code if target[i] == removed.ignore_index else rows[i]
    if removed.has_mask:
        _load(kept, removed.mask, sample, channel, voxel)
        for i in range(rows.size):
            rows[i] = rows[i] if kept[i] != 0 else code


@compiled
def _encode_argmax(columns: Any, best: Any, scores: Any, input: Any, classes: int, sample: int, voxel: int) -> None:
    """The class of the largest score; of equal ones the lowest, and the first NaN before any number."""
    best[:] = -np.inf
    columns[:] = 0
    for c in range(classes):
        _load(scores, input, sample, c, voxel)
        for i in range(columns.size):
            score, top = scores[i], best[i]
            better = (top == top) & (not (score <= top))
            best[i] = score if better else top
            columns[i] = c if better else columns[i]


@compiled
def _tally(rows: Any, columns: Any, classes: int, table: Any) -> None:
    """Counts a block in a table (copies, cells)."""
    copies = table.shape[0]
    for i in range(rows.size):
        rows[i] = rows[i] * (classes + 1) + columns[i]
    # Unsigned indices, which need no test for negative ones.
    whole = rows.size // copies * copies
    for i in range(0, whole, copies):
        for copy in range(copies):
            table[np.uint64(copy), np.uint64(rows[np.uint64(i + copy)])] += 1
    for i in range(whole, rows.size):
        table[0, np.uint64(rows[np.uint64(i)])] += 1


@compiled
def _flush(table: Any, classes: int, counts: Any) -> int:
    """Adds a table to counts (K, K), and clears it; returns what was out of range."""
    invalid = 0
    for row in range(classes + 1):
        for column in range(classes + 1):
            total = table[:, row * (classes + 1) + column].sum()
            if row < classes and column < classes:
                counts[row, column] += total
            else:
                invalid += total
    table[:] = 0
    return invalid


@compiled
def _encode_target(rows: Any, tiles: Any, target: Any, removed: Any, classes: int, sample: int, voxel: int) -> None:
    labels = tiles.target[: rows.size]
    _load(labels, target, sample, 0, voxel)
    _encode_labels(rows, labels, classes)
    _remove(rows, labels, tiles.kept[: rows.size], removed, classes + 1, sample, 0, voxel)


@compiled
def _count_maps(
    input: Any, target: Any, removed: Any, samples: int, voxels: int, tiles: Any, table: Any, counts: Any, invalid: Any
) -> None:
    """Counts label maps in (N, C, C), with one table for all samples if N is 1."""
    classes = counts.shape[1]
    for sample in range(samples):
        output = min(sample, counts.shape[0] - 1)
        for voxel in range(0, voxels, _BLOCK):
            size = min(_BLOCK, voxels - voxel)
            rows, columns, labels = tiles.rows[:size], tiles.columns[:size], tiles.input[:size]
            _encode_target(rows, tiles, target, removed, classes, sample, voxel)
            _load(labels, input, sample, 0, voxel)
            _encode_labels(columns, labels, classes)
            _tally(rows, columns, classes, table)
        invalid[output] += _flush(table, classes, counts[output])


@compiled
def _count_scores(
    input: Any, target: Any, removed: Any, samples: int, voxels: int, tiles: Any, table: Any, counts: Any, invalid: Any
) -> None:
    """Counts the labels that scores give."""
    classes = counts.shape[1]
    for sample in range(samples):
        output = min(sample, counts.shape[0] - 1)
        for voxel in range(0, voxels, _BLOCK):
            size = min(_BLOCK, voxels - voxel)
            rows, columns, scores = tiles.rows[:size], tiles.columns[:size], tiles.input[:size]
            _encode_target(rows, tiles, target, removed, classes, sample, voxel)
            _encode_argmax(columns, tiles.best[:size], scores, input, classes, sample, voxel)
            _tally(rows, columns, classes, table)
        invalid[output] += _flush(table, classes, counts[output])


@compiled
def _count_tasks(
    input: Any,
    target: Any,
    removed: Any,
    thresholds: Any,
    samples: int,
    voxels: int,
    tiles: Any,
    table: Any,
    counts: Any,
    invalid: Any,
) -> None:
    """Counts each class on its own in (N, C, 2, 2)."""
    for sample in range(samples):
        output = min(sample, counts.shape[0] - 1)
        for c in range(counts.shape[1]):
            for voxel in range(0, voxels, _BLOCK):
                size = min(_BLOCK, voxels - voxel)
                rows, columns = tiles.rows[:size], tiles.columns[:size]
                scores, truth = tiles.input[:size], tiles.target[:size]
                _load(truth, target, sample, c, voxel)
                _encode_presence(rows, truth)
                _remove(rows, truth, tiles.kept[:size], removed, 3, sample, c, voxel)
                _load(scores, input, sample, c, voxel)
                _encode_above(columns, scores, thresholds[c])
                _tally(rows, columns, 2, table)
            invalid[output] += _flush(table, 2, counts[output, c])


def _flat(tensor: Tensor) -> _View:
    by_sample, *by_channel, by_voxel = tensor.stride()
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    memory = tensor.as_strided((span,), (1,))
    if tensor.dtype in _BITS:
        memory = memory.view(_BITS[tensor.dtype])
    return _View(memory.numpy(), half(tensor.dtype), by_sample, sum(by_channel), by_voxel)


def _real(dtype: torch.dtype) -> type[np.floating[Any]]:
    """The type in which all values of a tensor compare as they are."""
    return np.float64 if dtype.itemsize > 2 and dtype != torch.float32 else np.float32


_NO_MASK = torch.ones((1, 1), dtype=torch.bool)


def confusion_counts(operands: CountInput) -> tuple[Tensor, Tensor]:
    """See `Backend.confusion_counts`."""
    input, target, mask, num_classes, threshold, ignore_index, pooled = operands
    samples, voxels = target.shape[0], target.shape[-1]
    counts = torch.zeros(operands.counts_shape, dtype=torch.int64)
    invalid = torch.zeros(1 if pooled else samples, dtype=torch.int64)
    if target.numel() == 0:
        return counts, invalid
    is_map = input.ndim == 2
    classes = num_classes if threshold is None else 2
    cells = (classes + 2) * (classes + 1)
    code = np.int32 if cells < 1 << 31 else np.int64
    real = _real(input.dtype)
    tiles = _Tiles(
        rows=np.empty(_BLOCK, code),
        columns=np.empty(_BLOCK, code),
        input=np.empty(_BLOCK, np.int64 if is_map else real),
        best=np.empty(_BLOCK, real),
        target=np.empty(_BLOCK, np.int64 if threshold is None else _real(target.dtype)),
        kept=np.empty(_BLOCK, np.uint8),
    )
    table = np.zeros((_COPIES if cells <= _MAX_CELLS_COPIED else 1, cells), dtype=np.int64)
    outputs = counts.view(-1, num_classes, *((classes,) if threshold is None else (2, 2))).numpy(), invalid.numpy()
    removed = _Removed(
        ignore_index is not None, ignore_index or 0, mask is not None, _flat(_NO_MASK if mask is None else mask)
    )
    if threshold is not None:
        thresholds = threshold.numpy().astype(real)
        _count_tasks(_flat(input), _flat(target), removed, thresholds, samples, voxels, tiles, table, *outputs)
    else:
        count = _count_maps if is_map else _count_scores
        count(_flat(input), _flat(target), removed, samples, voxels, tiles, table, *outputs)
    return counts, invalid
