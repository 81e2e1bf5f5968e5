"""Metrics as pure functions of confusion counts.

Every function takes counts of shape (..., C, C), rows = target and columns = prediction, as
`fastmed.functional.confusion_counts` returns them, and gives float64 (..., C): each class against the rest. A ratio
without cases, as the sensitivity for a class that does not occur, is NaN. Counts add, ratios do not: sum the
counts of several samples first for a pooled metric, or average the ratios for a mean over samples.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["accuracy", "dice", "npv", "ppv", "prevalence", "sensitivity", "specificity"]


class _OneVersusRest(NamedTuple):
    """Fourfold table of each class, every field float64 (..., C)."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor


def _one_versus_rest(counts: Tensor) -> _OneVersusRest:
    if counts.ndim < 2 or counts.shape[-1] != counts.shape[-2]:
        raise ValueError(f"counts: got shape {tuple(counts.shape)}, allowed is (..., C, C)")
    counts = counts.double()  # exact below 2**53 voxels, where float32 would round from 2**24 on
    tp = counts.diagonal(dim1=-2, dim2=-1)
    fn = counts.sum(-1) - tp
    fp = counts.sum(-2) - tp
    return _OneVersusRest(tp, fp, fn, counts.sum((-2, -1)).unsqueeze(-1) - tp - fn - fp)


def sensitivity(counts: Tensor) -> Tensor:
    """Share of the voxels of a class that were found: TP / (TP + FN), also called recall.

    Args:
        counts: confusion counts (..., C, C), rows = target.

    Returns:
        float64 (..., C) in [0, 1]; NaN for a class that is not in the target.

    Raises:
        ValueError: if the last two dimensions differ.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import sensitivity
        >>> sensitivity(torch.tensor([[6, 2], [1, 3]])).tolist()
        [0.75, 0.75]
    """
    table = _one_versus_rest(counts)
    return table.tp / (table.tp + table.fn)


def specificity(counts: Tensor) -> Tensor:
    """Share of the voxels of other classes that were not given this one: TN / (TN + FP).

    Args:
        counts: confusion counts (..., C, C), rows = target.

    Returns:
        float64 (..., C) in [0, 1]; NaN where every voxel of the target has the class.

    Raises:
        ValueError: if the last two dimensions differ.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import specificity
        >>> specificity(torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 8]])).tolist()
        [0.9166666666666666, 0.875, 1.0]
    """
    table = _one_versus_rest(counts)
    return table.tn / (table.tn + table.fp)


def ppv(counts: Tensor) -> Tensor:
    """Positive predictive value: TP / (TP + FP), also called precision. It depends on the prevalence.

    Args:
        counts: confusion counts (..., C, C), rows = target.

    Returns:
        float64 (..., C) in [0, 1]; NaN for a class that was never predicted.

    Raises:
        ValueError: if the last two dimensions differ.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import ppv
        >>> ppv(torch.tensor([[6, 2], [2, 6]])).tolist()
        [0.75, 0.75]
    """
    table = _one_versus_rest(counts)
    return table.tp / (table.tp + table.fp)


def npv(counts: Tensor) -> Tensor:
    """Negative predictive value: TN / (TN + FN). It depends on the prevalence.

    Args:
        counts: confusion counts (..., C, C), rows = target.

    Returns:
        float64 (..., C) in [0, 1]; NaN where every voxel was given the class.

    Raises:
        ValueError: if the last two dimensions differ.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import npv
        >>> npv(torch.tensor([[6, 2], [0, 8]])).tolist()
        [0.8, 1.0]
    """
    table = _one_versus_rest(counts)
    return table.tn / (table.tn + table.fn)


def prevalence(counts: Tensor) -> Tensor:
    """Share of the voxels of the target that have the class: (TP + FN) / all.

    Args:
        counts: confusion counts (..., C, C), rows = target.

    Returns:
        float64 (..., C) in [0, 1], summing to 1 over the classes; NaN if nothing was counted.

    Raises:
        ValueError: if the last two dimensions differ.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import prevalence
        >>> prevalence(torch.tensor([[6, 2], [0, 8]])).tolist()
        [0.5, 0.5]
    """
    table = _one_versus_rest(counts)
    return (table.tp + table.fn) / sum(table)


def accuracy(counts: Tensor) -> Tensor:
    """Share of the voxels that are rightly given or not given the class: (TP + TN) / all.

    It is the mean of sensitivity and specificity weighted by prevalence, so for a rare class it says little more
    than that the class is rare.

    Args:
        counts: confusion counts (..., C, C), rows = target.

    Returns:
        float64 (..., C) in [0, 1]; NaN if nothing was counted.

    Raises:
        ValueError: if the last two dimensions differ.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import accuracy
        >>> accuracy(torch.tensor([[6, 2], [0, 8]])).tolist()
        [0.875, 0.875]
    """
    table = _one_versus_rest(counts)
    return (table.tp + table.tn) / sum(table)


def dice(counts: Tensor) -> Tensor:
    """Dice coefficient of hard predictions: 2 TP / (2 TP + FP + FN) (Dice, "Ecologic association", 1945).

    Args:
        counts: confusion counts (..., C, C), rows = target.

    Returns:
        float64 (..., C) in [0, 1]; NaN for a class neither in the target nor in the prediction.

    Raises:
        ValueError: if the last two dimensions differ.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import dice
        >>> dice(torch.tensor([[6, 2], [2, 6]])).tolist()
        [0.75, 0.75]
    """
    table = _one_versus_rest(counts)
    return 2.0 * table.tp / (2.0 * table.tp + table.fp + table.fn)
