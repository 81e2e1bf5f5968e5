"""The fourfold table: what a test or a segmentation found, against what is there.

| | predicted negative | predicted positive |
|---|---|---|
| negative | tn | fp |
| positive | fn | tp |
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...validation import tensor

__all__ = ["Fourfold", "at_thresholds", "fourfold", "one_versus_rest"]


class Fourfold(NamedTuple):
    """Fourfold tables, each field float64 of one shape.

    Attributes:
        tn: true negatives.
        fp: false positives, the false alarms.
        fn: false negatives, the misses.
        tp: true positives.
    """

    tn: Tensor
    fp: Tensor
    fn: Tensor
    tp: Tensor


def fourfold(table: Tensor) -> Fourfold:
    """Name the columns of multi-label counts.

    Args:
        table: counts (..., 4) in the order tn, fp, fn, tp, as `confusion_counts` gives them with a threshold.

    Returns:
        Fields of shape (...), float64: exact below 2**53.

    Raises:
        ValueError: if the last dimension is not 4.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import fourfold
        >>> fourfold(torch.tensor([[5, 1, 2, 3]])).fn.tolist()
        [2.0]
    """
    tensor("table", table)
    if table.ndim < 1 or table.shape[-1] != 4:
        raise ValueError(f"table: got shape {tuple(table.shape)}, allowed is (..., 4), in the order tn, fp, fn, tp")
    return Fourfold(*table.double().unbind(-1))


def one_versus_rest(matrix: Tensor) -> Fourfold:
    """Set each class of a confusion matrix against all others.

    Args:
        matrix: counts (..., C, C), rows = target, as `confusion_counts` gives them for label maps.

    Returns:
        Fields of shape (..., C), float64: exact below 2**53.

    Raises:
        ValueError: if the last two dimensions differ.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import one_versus_rest
        >>> one_versus_rest(torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 8]])).fp.tolist()
        [1.0, 2.0, 0.0]
    """
    counts = check_matrix(matrix)
    tp = counts.diagonal(dim1=-2, dim2=-1)
    fn = counts.sum(-1) - tp
    fp = counts.sum(-2) - tp
    tn = counts.sum((-2, -1)).unsqueeze(-1) - tp - fn - fp
    return Fourfold(tn, fp, fn, tp)


def at_thresholds(counts: Tensor) -> Fourfold:
    """Call positive what scores in the k-th bin or above, for every k.

    Args:
        counts: (..., 2, K), negatives and positives by bins of ascending score, as in `ScoreHistogram`.

    Returns:
        Fields of shape (..., K + 1), float64: from everything called positive to nothing.

    Raises:
        ValueError: if the last dimension but one is not 2.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import at_thresholds, sensitivity, specificity
        >>> table = at_thresholds(torch.tensor([[3, 2, 0], [0, 1, 4]]))
        >>> sensitivity(table).tolist(), specificity(table).tolist()
        ([1.0, 1.0, 0.8, 0.0], [0.0, 0.6, 1.0, 1.0])
    """
    tensor("counts", counts)
    if counts.ndim < 2 or counts.shape[-2] != 2:
        raise ValueError(f"counts: got shape {tuple(counts.shape)}, allowed is (..., 2, K), negatives and positives")
    below = torch.nn.functional.pad(counts.double().cumsum(-1), (1, 0))
    above = below[..., -1:] - below
    return Fourfold(tn=below[..., 0, :], fp=above[..., 0, :], fn=below[..., 1, :], tp=above[..., 1, :])


def check_matrix(matrix: Tensor) -> Tensor:
    """Refuse what is no confusion matrix.

    Args:
        matrix: counts (..., C, C).

    Returns:
        The counts in float64, where float32 would round from 2**24 on.

    Raises:
        ValueError: if the last two dimensions differ.
    """
    tensor("matrix", matrix)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"matrix: got shape {tuple(matrix.shape)}, allowed is (..., C, C), rows = target")
    return matrix.double()
