"""The operators that count: confusion matrices, score histograms and ranks."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from .. import dispatch
from ..contract import EXTRA_COLUMNS, Bins, CountInput, RankStatistics, Request, Scored
from .library import as_table, define, is_reported, raise_out_of_range, raise_unknown
from .shortcut import call


def _raise_not_binary(target: Tensor, mask: Tensor | None, ignore_index: int | None, count: int) -> NoReturn:
    target, allowed = target.to(torch.float64), "0, 1, and NaN or -1 (missing)"
    known = (target == 0) | (target == 1) | target.isnan() | (target == -1)
    if ignore_index is not None:
        known |= target == ignore_index
        allowed += f", or {ignore_index} (ignore_index)"
    if mask is not None:
        known |= ~mask
    raise_unknown(target, known, count, allowed)


def _raise_not_counted(operands: CountInput, count: int) -> NoReturn:
    if operands.threshold is not None:
        _raise_not_binary(operands.target, operands.mask, operands.ignore_index, count)
    argument = "target" if operands.input.ndim == 3 else "input or target"
    raise_out_of_range(argument, count, operands.num_classes, operands.ignore_index)


def _confusion_counts(*arguments: Any) -> Tensor:
    *fields, validate, backend = arguments
    operands = CountInput(*fields)
    input, target = operands.input, operands.target
    request = Request("confusion_counts", input.device.type, input.dtype, target.dtype, operands.num_classes)
    counts, invalid = dispatch.select(request, backend).confusion_counts(operands)
    if is_reported(invalid, validate):
        _raise_not_counted(operands, int(invalid.sum()))
    return counts


def _scored(scores: Tensor, target: Tensor, mask: Tensor | None) -> Scored:
    """The operands as backends see them: the rows of a table (N, T) are the voxels of one sample."""
    if scores.ndim == 2:
        return Scored(as_table(scores), as_table(target), None if mask is None else as_table(mask))
    return Scored(scores, target, mask)


def _score_histogram(
    scores: Tensor,
    target: Tensor,
    mask: Tensor | None,
    transform: str,
    bins: int,
    low: float,
    high: float,
    validate: bool | None,
    backend: str,
) -> Tensor:
    operands = _scored(scores, target, mask)
    request = Request("score_histogram", scores.device.type, scores.dtype, target.dtype, scores.shape[1])
    chosen = dispatch.select(request, backend)
    counts, invalid = chosen.score_histogram(operands, Bins(transform, bins, low, high))
    if is_reported(invalid, validate):
        _raise_not_binary(operands.target, operands.mask, None, int(invalid.sum()))
    return counts


def _rank_statistics(
    scores: Tensor, target: Tensor, mask: Tensor | None, validate: bool | None, backend: str
) -> Tensor:
    operands = _scored(scores, target, mask)
    request = Request("rank_statistics", scores.device.type, scores.dtype, target.dtype, scores.shape[1])
    stacked, invalid = dispatch.select(request, backend).rank_statistics(operands)
    if is_reported(invalid, validate):
        _raise_not_binary(operands.target, operands.mask, None, int(invalid.sum()))
    undefined = stacked[_U].isnan()
    if is_reported(undefined, validate):
        raise ValueError(
            f"scores: got NaN for task {undefined.tolist().index(True)}, allowed are numbers, which have a rank; "
            "give those labels a mask of False to leave them out"
        )
    return stacked


_U = RankStatistics._fields.index("u")


define(
    "confusion_counts(Tensor input, Tensor target, Tensor? mask, int num_classes, Tensor? threshold, "
    "int? ignore_index, bool pooled, bool? validate, str backend) -> Tensor",
    _confusion_counts,
)
define(
    "score_histogram(Tensor scores, Tensor target, Tensor? mask, str transform, int bins, float low, float high, "
    "bool? validate, str backend) -> Tensor",
    _score_histogram,
)
define(
    "rank_statistics(Tensor scores, Tensor target, Tensor? mask, bool? validate, str backend) -> Tensor",
    _rank_statistics,
)


@torch.library.register_fake("fastmed::confusion_counts")
def _(*arguments: Any) -> Tensor:
    operands = CountInput(*arguments[:-2])
    return operands.target.new_empty(operands.counts_shape, dtype=torch.int64)


@torch.library.register_fake("fastmed::score_histogram")
def _(scores: Tensor, target: Tensor, mask: Tensor | None, transform: str, bins: int, *_arguments: Any) -> Tensor:
    return scores.new_empty((scores.shape[1], 2, bins + EXTRA_COLUMNS), dtype=torch.int64)


@torch.library.register_fake("fastmed::rank_statistics")
def _(scores: Tensor, *_arguments: Any) -> Tensor:
    return scores.new_empty((len(RankStatistics._fields), scores.shape[1]), dtype=torch.float64)


def confusion_counts(operands: CountInput, validate: bool | None, backend: str) -> Tensor:
    """Counts int64, see `Backend.confusion_counts`."""
    op = torch.ops.fastmed.confusion_counts.default
    counts: Tensor = call(op, _confusion_counts, None, *operands, validate, backend)
    return counts


def score_histogram(operands: Scored, bins: Bins, validate: bool | None, backend: str) -> Tensor:
    """Counts int64, see `Backend.score_histogram`."""
    op = torch.ops.fastmed.score_histogram.default
    counts: Tensor = call(op, _score_histogram, None, *operands, *bins, validate, backend)
    return counts


def rank_statistics(operands: Scored, validate: bool | None, backend: str) -> Tensor:
    """Stacked float64, see `Backend.rank_statistics`."""
    op = torch.ops.fastmed.rank_statistics.default
    stacked: Tensor = call(op, _rank_statistics, None, *operands, validate, backend)
    return stacked
