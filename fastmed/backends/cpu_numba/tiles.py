"""Tiles: a few hundred voxels of every operand as contiguous float32, which all kernels compute on.

One loader per kind of operand instead of one kernel per combination of dtypes, strides, targets and masks. A tile
lives in the first-level cache, so the detour costs two instructions per eight elements.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from ...contract import PRED, PRED_SQ, STATISTICS, TARGET, TARGET_SQ, TP
from . import memory
from .compilation import compiled, elementwise, reduction
from .conversion import IGNORED
from .job import INVALID
from .memory import load, view

# Each tile is summed in float32, tiles in float64: 1024 terms keep the error of the sums near 1e-7.
TILE = 1024
# Tiles that one work item goes through; fixed, so that the order of all additions is that of the data alone.
TILES_PER_CHUNK = 16

# Float32 values that fit into half of a second-level cache.
_CACHED = 1 << 16

_F = np.float32
# A choice between an element and something else, put back into its place, becomes a masked store, which is slow on
# some CPUs. Unless the element is changed: by the addition of nothing.
_NOT_MASKED = _F(0.0)


@compiled
def tile_size(classes: int) -> int:
    """Voxels whose probabilities of all classes stay in the second-level cache.

    No fewer than have to be: each class of a tile is a stretch of memory of its own, and the shorter these are, the
    more pages there are to a byte.
    """
    size = TILE
    while size > 64 and size * classes > _CACHED:
        size //= 2
    return size


@compiled
def load_view(tile: Any, source: Any, sample: int, channel: int, voxel: int) -> None:
    """Fills a tile with the voxels from `voxel` on of one sample and channel."""
    start = sample * source.sample + channel * source.channel + voxel * source.voxel
    load(tile, source.address, source.converter, start, source.voxel)


@compiled
def load_labels(labels: Any, weight: Any, target: Any, classes: int, sample: int, voxel: int) -> int:
    """Fills the label tile, with -1 for no class, and removes ignored voxels; returns labels out of range."""
    source = target.values
    start = sample * source.sample + voxel * source.voxel
    of_memory = (np.int64(labels.ctypes.data), labels.size, source.address, start, source.voxel)
    memory.call(source.converter, (*of_memory, target.ignore_index))
    # Without its sign a negative label is larger than any class.
    limit, outside = np.uint32(classes), np.int32(0)
    if target.has_ignore:
        for i in range(labels.size):
            is_ignored = labels[i] == IGNORED
            weight[i] *= _F(0.0) if is_ignored else _F(1.0)
            outside = np.int32(outside - np.int32(is_ignored))
    for i in range(labels.size):
        is_outside = np.int32(not np.uint32(labels[i]) < limit)
        labels[i] = np.int32(labels[i] | -is_outside)
        outside = np.int32(outside + is_outside)
    return int(outside)


@compiled
def one_hot(tile: Any, labels: Any, channel: int) -> None:
    """Fills a tile with 1 where the label is this class, else 0."""
    wanted = np.int32(channel)
    for i in range(tile.size):
        tile[i] = _F(1.0) if labels[i] == wanted else _F(0.0)


@elementwise
def remove_value(tile: Any, weight: Any, value: Any) -> None:
    """Removes the voxels of the ignored value."""
    for i in range(tile.size):
        weight[i] *= _F(0.0) if tile[i] == value else _F(1.0)
        tile[i] = (_F(0.0) if tile[i] == value else tile[i]) + _NOT_MASKED


@reduction
def replace_uncertain(tile: Any, weight: Any, uncertain: Any) -> Any:
    """Puts a value in the place of each -1, and 0 where that or a NaN is removed; returns values outside [0, 1]."""
    invalid = _F(0.0)
    for i in range(tile.size):
        # Read before anything is chosen: a load in a branch would have to be masked.
        label, mask, policy = tile[i], weight[i], uncertain[i]
        value = policy if label == _F(-1.0) else label
        kept = mask * (_F(1.0) if value == value else _F(0.0))
        unknown = _F(1.0) if (value < _F(0.0)) | (value > _F(1.0)) else _F(0.0)
        invalid += unknown if kept != _F(0.0) else _F(0.0)
        weight[i] = kept
        tile[i] = value if kept != _F(0.0) else _F(0.0)
    return invalid


@compiled
def load_dense(tile: Any, weight: Any, target: Any, sample: int, channel: int, voxel: int) -> Any:
    """Fills a tile with a dense target and removes what is ignored or missing; returns values out of range."""
    load_view(tile, target.values, sample, channel, voxel)
    if target.has_ignore:
        remove_value(tile, weight, _F(target.ignore_index))
    if target.has_uncertain:
        # A number in place of this tile would keep the loop from being vectorised.
        return replace_uncertain(tile, weight, np.full(tile.size, target.uncertain[channel]))
    return _F(0.0)


def at(weight: Any, i: int) -> Any:
    """The weight of a voxel; 1 without weights, which are None."""
    raise NotImplementedError("compiled code only")


@overload(at, inline="always")
def _overload_at(weight: Any, i: int) -> Any:
    if isinstance(weight, types.NoneType):

        def one(weight: Any, i: int) -> Any:
            return _F(1.0)

        return one

    def get(weight: Any, i: int) -> Any:
        return weight[i]

    return get


@compiled
def tile_of(scratch: Any, operand: Any, sample: int, channel: int, voxel: int) -> Any:
    """The tile of one sample and channel: memory itself where its elements are float32 side by side, else scratch."""
    start = sample * operand.sample + channel * operand.channel + voxel * operand.voxel
    return view(scratch, operand.address, operand.converter, start, operand.voxel)


@compiled
def is_apart(gradient: Any) -> Any:
    """Whether a tile of the gradient is computed elsewhere than in the memory where it belongs."""
    return gradient.adds or not memory.in_place(gradient.values.converter, gradient.values.voxel)


@compiled
def gradient_tile(scratch: Any, gradient: Any, sample: int, channel: int, voxel: int) -> Any:
    """Where a tile of the gradient is computed: in memory itself, or in the scratch tile if it is apart."""
    return scratch if gradient.adds else tile_of(scratch, gradient.values, sample, channel, voxel)


@elementwise
def _add_to(tile: Any, other: Any) -> None:
    for i in range(tile.size):
        tile[i] += other[i]


@compiled
def put(tile: Any, gradient: Any, start: int, step: int) -> None:
    """Writes a tile of the gradient to the elements `start + i * step`, or adds it to them."""
    if gradient.adds:
        before = np.empty(tile.size, np.float32)
        load(before, gradient.values.address, gradient.before, start, step)
        _add_to(tile, before)
    memory.store(tile, gradient.values.address, gradient.values.converter, start, step)


@compiled
def put_gradient(tile: Any, gradient: Any, sample: int, channel: int, voxel: int) -> None:
    """Puts the tile of one sample and channel, which was computed apart, where it belongs."""
    values = gradient.values
    put(tile, gradient, sample * values.sample + channel * values.channel + voxel * values.voxel, values.voxel)


@compiled
def removes(target: Any, mask: Any) -> Any:
    """Whether voxels may be without weight."""
    return mask.present or target.has_ignore or target.has_uncertain


@compiled
def load_weight(weight: Any, mask: Any, sample: int, channel: int, voxel: int) -> None:
    """Fills a tile with the voxel weights, 1 without a mask."""
    if mask.present:
        load_view(weight, mask.values, sample, channel, voxel)
    else:
        weight[:] = _F(1.0)


@compiled
def forget(labels: Any, kept: Any) -> None:
    """Gives removed voxels the label of no class."""
    for i in range(labels.size):
        labels[i] = labels[i] if kept[i] != _F(0.0) else np.int32(-1)


@elementwise
def below(highest: Any, x: Any) -> Any:
    """How far a logit is below the highest; no reduction may take the difference apart, or large logits absorb it."""
    return highest - x


@elementwise
def remove(tile: Any, weight: Any) -> None:
    """Zeroes the values of removed voxels, whatever they were."""
    for i in range(tile.size):
        tile[i] = (_F(0.0) if weight[i] == _F(0.0) else tile[i]) + _NOT_MASKED


@reduction
def add_up(kept: Any) -> Any:
    """The number of voxels that are kept."""
    total = _F(0.0)
    for i in range(kept.size):
        total += kept[i]
    return total


@compiled
def add_class(sums: Any, tp: Any, pred: Any, pred_sq: Any, target: Any) -> None:
    """Adds the statistics of a class of labels in a tile: a target of 0 and 1 is its own square."""
    sums[TP] += tp
    sums[PRED] += pred
    sums[PRED_SQ] += pred_sq
    sums[TARGET] += target
    sums[TARGET_SQ] += target


@compiled
def combine(partials: Any, stacked: Any, invalid: Any) -> None:
    """Adds partial sums (N, C, chunks, statistics) in order; NaN for a sample with targets out of range."""
    samples, classes, chunks, _ = partials.shape
    for n in range(samples):
        wrong = 0.0
        for c in range(classes):
            for chunk in range(chunks):
                wrong += partials[n, c, chunk, INVALID]
        invalid[n] = np.int64(wrong)
        poison = np.nan if wrong > 0.0 else 0.0
        for c in range(classes):
            for s in range(STATISTICS):
                total = poison
                for chunk in range(chunks):
                    total += partials[n, c, chunk, s]
                stacked[s, n, c] = total
