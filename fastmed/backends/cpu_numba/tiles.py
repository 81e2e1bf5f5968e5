"""Tiles: a few hundred voxels of every operand as contiguous float32, which all kernels compute on.

One loader per kind of operand instead of one kernel per combination of dtypes, strides, targets and masks. A tile
lives in the first-level cache, so the detour costs two instructions per eight elements.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from ...contract import STATISTICS
from .memory import flat, load
from .vector_math import elementwise, reduction

# Each tile is summed in float32, tiles in float64: 1024 terms keep the error of the sums near 1e-7.
TILE = 1024
# Tiles that one work item goes through; fixed, so that the order of all additions is that of the data alone.
TILES_PER_CHUNK = 16
# Partial sums have one more column after the statistics: targets out of range.
INVALID = STATISTICS

_F = np.float32
# A choice between an element and something else, put back into its place, becomes a masked store, which is slow on
# some CPUs. Unless the element is changed: by the addition of nothing.
_NOT_MASKED = _F(0.0)

compiled = njit(cache=True, nogil=True, error_model="numpy")
# `prange` and nothing else: each further transformation is a pass over the code that finds nothing here.
_PASSES = {"comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"}
parallel = njit(cache=True, nogil=True, error_model="numpy", parallel={"prange": True, **dict.fromkeys(_PASSES, False)})


class View(NamedTuple):
    """An operand as flat memory with element strides; `channel` is 0 where all classes share its values."""

    memory: Any
    kind: int
    sample: int
    channel: int
    voxel: int


class Target(NamedTuple):
    """The target, dense or labels, the label to remove, and what -1 stands for in each class, if it does."""

    values: View
    dense: bool
    has_ignore: bool
    ignore_index: int
    has_uncertain: bool
    uncertain: Any


class Mask(NamedTuple):
    """Voxel weights; `values` is unused where there are none."""

    values: View
    present: bool


# Numba's parallel loops take arrays and numbers but no tuples. So a kernel gets an empty array of the type of each
# operand, and two vectors from which it builds the tuples. In int64: voxels, chunks, sigmoid, which statistics, then
# address, span, kind and strides of each operand, the address and number of the values that -1 stands for, then the
# flags. In float32: smoothing and gamma.
VOXELS, CHUNKS, SIGMOID, NLL, REGION, SOFT, HARD = range(7)
INPUT, TARGET, MASK, GRADIENT, UNCERTAIN, _FLAGS = 7, 13, 19, 25, 31, 33
SMOOTHING, GAMMA = 0, 1


@compiled
def _unpack_view(like: Any, layout: Any, at: int) -> Any:
    memory = flat(layout[at], like, layout[at + 1])
    return View(memory, layout[at + 2], layout[at + 3], layout[at + 4], layout[at + 5])


@compiled
def unpack(input: Any, target: Any, mask: Any, layout: Any, numbers: Any) -> Any:
    """The operands as tuples."""
    flags = layout[_FLAGS:]
    values = _unpack_view(target, layout, TARGET)
    uncertain = flat(layout[UNCERTAIN], numbers, layout[UNCERTAIN + 1])
    return (
        _unpack_view(input, layout, INPUT),
        Target(values, flags[0] != 0, flags[1] != 0, flags[2], layout[UNCERTAIN] != 0, uncertain),
        Mask(_unpack_view(mask, layout, MASK), flags[3] != 0),
    )


@compiled
def unpack_gradient(like: Any, layout: Any) -> Any:
    """The gradient as a tuple."""
    return _unpack_view(like, layout, GRADIENT)


@compiled
def load_view(tile: Any, source: Any, sample: int, channel: int, voxel: int) -> None:
    """Fills a tile with the voxels from `voxel` on of one sample and channel."""
    start = sample * source.sample + channel * source.channel + voxel * source.voxel
    load(tile, source.memory, source.kind, start, source.voxel)


@compiled
def load_labels(labels: Any, weight: Any, target: Any, classes: int, sample: int, voxel: int) -> int:
    """Fills the label tile, with -1 for no class, and removes ignored voxels; returns labels out of range."""
    source = target.values
    start = sample * source.sample + voxel * source.voxel
    memory = source.memory[start:]
    invalid = 0
    for i in range(labels.size):
        label = np.int64(memory[i * source.voxel])
        inside = label >= 0 and label < classes
        labels[i] = np.int32(label if inside else -1)
        invalid += not inside
    if target.has_ignore:
        for i in range(labels.size):
            label = np.int64(memory[i * source.voxel])
            ignored = label == target.ignore_index
            weight[i] *= _F(0.0) if ignored else _F(1.0)
            invalid -= ignored and not (label >= 0 and label < classes)
    return invalid


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


@elementwise
def remove(tile: Any, weight: Any) -> None:
    """Zeroes the values of removed voxels, whatever they were."""
    for i in range(tile.size):
        tile[i] = (_F(0.0) if weight[i] == _F(0.0) else tile[i]) + _NOT_MASKED


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
