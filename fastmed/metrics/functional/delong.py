"""Variance of the area under the ROC curve: DeLong, DeLong and Clarke-Pearson, Biometrics 1988.

The placement of a positive is the share of the negatives that score below it, ties counting half; that of a negative
the share of the positives that score above it. The area is the mean placement of the positives, and of the negatives
too, and its variance the sum of the variances of both means.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...contract import RankStatistics
from .empty import ratio
from .intervals import Interval, check_level, normal_quantile

__all__ = ["AUROCDifference", "auroc_difference", "auroc_interval"]


class AUROCDifference(NamedTuple):
    """Two models on the same cases.

    Attributes:
        difference: area of the first less that of the second, float64, a scalar.
        interval: its confidence interval.
        p_value: of the difference, two-sided, against none.
    """

    difference: Tensor
    interval: Interval
    p_value: Tensor


def auroc_interval(statistics: RankStatistics, level: float = 0.95) -> Interval:
    """Confidence intervals of areas under the ROC curve, by DeLong's variance and the normal distribution.

    Args:
        statistics: of T tasks, as `fastmed.functional.rank_statistics` gives them.
        level: probability that the interval is to cover the truth with, in (0, 1).

    Returns:
        Lower and upper limits, float64 (T,), cut at 0 and 1; NaN with less than two positives or two negatives. Where
        no positive scores below a negative the variance, and with it the interval's width, is 0: no such interval is
        to be trusted.

    Raises:
        ValueError: for a level outside (0, 1).

    Example:
        >>> import torch
        >>> from fastmed.functional import rank_statistics
        >>> from fastmed.metrics.functional import auroc_interval
        >>> scores, target = torch.tensor([[1.0], [2], [3], [4], [5]]), torch.tensor([[0], [1], [0], [1], [1]])
        >>> interval = auroc_interval(rank_statistics(scores, target))
        >>> interval.lower.round(decimals=3).tolist(), interval.upper.tolist()
        ([0.371], [1.0])
    """
    check_level(level)
    positives, negatives, u, positive_squares, negative_squares = (part.double() for part in statistics)
    area = ratio(u, positives * negatives)
    variance = _variance_of_mean(positive_squares / negatives**2, area, positives) + _variance_of_mean(
        negative_squares / positives**2, area, negatives
    )
    half = normal_quantile((1.0 + level) / 2.0) * variance.sqrt()
    return Interval((area - half).clamp(min=0.0), (area + half).clamp(max=1.0))


def _variance_of_mean(squares: Tensor, mean: Tensor, number: Tensor) -> Tensor:
    spread = (squares - number * mean**2).clamp(min=0.0)  # below 0 by rounding only
    return ratio(spread, number * (number - 1.0))


def auroc_difference(first: Tensor, second: Tensor, target: Tensor, level: float = 0.95) -> AUROCDifference:
    """Compare the areas under the ROC curves of two models on the same cases: DeLong's paired test.

    Args:
        first: scores (N,) of one model, higher for positives.
        second: scores (N,) of the other, of the same cases.
        target: 0 or 1, (N,), of any dtype.
        level: probability that the interval is to cover the true difference with, in (0, 1).

    Returns:
        The difference, its interval within [-1, 1] and its p-value, float64 scalars; all NaN with less than two
        positives or two negatives, and the p-value NaN where both models rank alike.

    Raises:
        ValueError: for other shapes, NaN scores, a target other than 0 and 1, or a level outside (0, 1).

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import auroc_difference
        >>> target = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        >>> first = torch.tensor([1, 2, 3, 5, 4, 6, 7, 8.0])
        >>> second = torch.tensor([3, 1, 6, 2, 5, 2, 7, 8.0])
        >>> test = auroc_difference(first, second, target)
        >>> round(test.difference.item(), 3), round(test.p_value.item(), 3)
        (0.156, 0.454)
    """
    check_level(level)
    if target.ndim != 1 or ((target != 0) & (target != 1)).any():
        raise ValueError(f"target: got shape {tuple(target.shape)}, allowed are 0 and 1 of shape (N,)")
    for name, scores in (("first", first), ("second", second)):
        if scores.shape != target.shape or scores.isnan().any():
            raise ValueError(
                f"{name}: got shape {tuple(scores.shape)}, allowed are scores without NaN of shape "
                f"{tuple(target.shape)}"
            )
    positive = target.bool()
    apart = [a - b for a, b in zip(_placements(first, positive), _placements(second, positive), strict=True)]
    number = torch.tensor([len(side) for side in apart], dtype=torch.float64, device=target.device)
    mean = ratio(torch.stack([side.sum() for side in apart]), number)
    squares = torch.stack([(side**2).sum() for side in apart])
    difference, error = mean.mean(), _variance_of_mean(squares, mean, number).sum().sqrt()
    half = normal_quantile((1.0 + level) / 2.0) * error
    interval = Interval((difference - half).clamp(min=-1.0), (difference + half).clamp(max=1.0))
    return AUROCDifference(difference, interval, 2.0 * torch.special.ndtr(-ratio(difference.abs(), error)))


def _placements(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Placements of the positives, and of the negatives."""
    positives, negatives = scores[positive].sort().values, scores[~positive].sort().values
    return _share_below(negatives, scores[positive]), 1.0 - _share_below(positives, scores[~positive])


def _share_below(ordered: Tensor, scores: Tensor) -> Tensor:
    """Share of the ordered scores that each score exceeds, ties counting half."""
    twice = torch.searchsorted(ordered, scores) + torch.searchsorted(ordered, scores, right=True)
    return twice.double() / (2.0 * len(ordered))
