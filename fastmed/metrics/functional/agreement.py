"""Agreement over all classes at once, from confusion matrices."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from .empty import Empty, ratio
from .fourfold import check_matrix

__all__ = ["multiclass_cohen_kappa", "multiclass_mcc"]

Weights = Literal["linear", "quadratic"]


def multiclass_mcc(matrix: Tensor, *, empty: Empty = "nan") -> Tensor:
    """Matthews' correlation of several classes (Gorodkin, "Comparing two K-category assignments", 2004).

    Args:
        matrix: counts (..., C, C), rows = target.
        empty: value where the target, or the prediction, is of one class throughout.

    Returns:
        float64 (...), at most 1, and 0 by chance; for two classes the `mcc` of either.

    Raises:
        ValueError: if the last two dimensions differ, or for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import multiclass_mcc
        >>> multiclass_mcc(torch.tensor([[5, 0, 0], [0, 5, 0], [0, 5, 0]])).item()
        0.6123724356957945
    """
    counts = check_matrix(matrix)
    target, prediction = counts.sum(-1), counts.sum(-2)
    total = target.sum(-1)
    agreed = counts.diagonal(dim1=-2, dim2=-1).sum(-1)
    spread = [total**2 - (marginal**2).sum(-1) for marginal in (target, prediction)]
    return ratio(agreed * total - (target * prediction).sum(-1), (spread[0] * spread[1]).sqrt(), empty)


def multiclass_cohen_kappa(matrix: Tensor, weights: Weights | None = None, *, empty: Empty = "nan") -> Tensor:
    """Cohen's kappa of several classes, weighted where the classes are an order.

    1 - observed / expected disagreement (Cohen, "Weighted kappa", 1968). A disagreement weighs 1, or, between class
    i and class j, |i - j| ("linear") or (i - j)**2 ("quadratic"). Expected is that of two readers who are independent
    and give each class as often as these do.

    Args:
        matrix: counts (..., C, C): rows one reader, columns the other.
        weights: None, "linear" or "quadratic".
        empty: value where both readers gave every case one same class.

    Returns:
        float64 (...), at most 1, and 0 by chance; unweighted, of two classes, the `cohen_kappa` of either.

    Raises:
        ValueError: if the last two dimensions differ, for unknown weights, or for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import multiclass_cohen_kappa
        >>> grades = torch.tensor([[10, 5, 0], [5, 10, 5], [0, 5, 10]])
        >>> [round(multiclass_cohen_kappa(grades, weights).item(), 3) for weights in (None, "linear", "quadratic")]
        [0.394, 0.524, 0.667]
    """
    if weights is not None and weights not in get_args(Weights):
        raise ValueError(f"weights: got {weights!r}, allowed is None or one of {get_args(Weights)}")
    counts = check_matrix(matrix)
    grades = torch.arange(counts.shape[-1], dtype=counts.dtype, device=counts.device)
    distance = (grades[:, None] - grades).abs()
    weight = {None: (distance > 0).double(), "linear": distance, "quadratic": distance**2}[weights]
    total = counts.sum((-2, -1))
    expected = (weight * counts.sum(-1, keepdim=True) * counts.sum(-2, keepdim=True)).sum((-2, -1))
    return ratio(expected - (weight * counts).sum((-2, -1)) * total, expected, empty)
