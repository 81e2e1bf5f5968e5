"""Calibration: whether of the cases with a score of 0.8, eight in ten are positive.

Everything is computed from the histogram of probabilities, each score standing at the centre of its bin; the bounds
say how far that may be from the scores themselves. Scores below and above the limits of the histogram take part as
two more bins, which reach to 0 and to 1; NaN scores are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...contract import ScoreHistogram
from ...validation import whole
from .curves import Bounded, bounded, by_score
from .empty import Empty, ratio

__all__ = [
    "Reliability",
    "brier_score",
    "expected_calibration_error",
    "maximum_calibration_error",
    "reliability_diagram",
]


class Reliability(NamedTuple):
    """Observed against predicted probability, one point a bin of [0, 1].

    Attributes:
        predicted: mean score, float64 (T, bins); NaN in a bin without scores.
        observed: share of positives, float64 (T, bins); NaN in a bin without scores.
        counts: number of scores, int64 (T, bins).
    """

    predicted: Tensor
    observed: Tensor
    counts: Tensor


class _Coarse(NamedTuple):
    """What merged bins hold, float64 (T, bins).

    Attributes:
        counts: number of scores.
        positives: number of positives.
        score: sum of the scores, each at the centre of its fine bin.
        deviation: the most that this sum may differ from that of the scores themselves.
    """

    counts: Tensor
    positives: Tensor
    score: Tensor
    deviation: Tensor


def _centres(histogram: ScoreHistogram) -> tuple[Tensor, Tensor]:
    """Centre and half width of each bin, (bins + 2,), with those outside the limits."""
    edges = F.pad(F.pad(histogram.edges, (1, 0), value=0.0), (0, 1), value=1.0)
    if (edges.diff() < 0).any():
        first, last = histogram.edges[0].item(), histogram.edges[-1].item()
        raise ValueError(
            f"histogram: got edges from {first:g} to {last:g}, allowed are those of probabilities, within 0 and 1"
        )
    return (edges[1:] + edges[:-1]) / 2.0, edges.diff() / 2.0


def _merged(histogram: ScoreHistogram, bins: int) -> _Coarse:
    """Bins of equal width on [0, 1], each the sum of the fine bins whose centre it holds."""
    whole("bins", bins)
    if bins < 1:
        raise ValueError(f"bins: got {bins}, allowed is 1 or more")
    negatives, positives = by_score(histogram).double().unbind(1)
    centre, half_width = _centres(histogram)
    coarse = (centre * bins).long().clamp(max=bins - 1)
    counts = negatives + positives
    fine = torch.stack((counts, positives, counts * centre, counts * half_width))
    return _Coarse(*fine.new_zeros(*fine.shape[:-1], bins).index_add_(-1, coarse, fine))


def reliability_diagram(histogram: ScoreHistogram, bins: int = 10) -> Reliability:
    """Observed frequency of positives against the predicted probability (Murphy and Winkler, "Reliability", 1977).

    Args:
        histogram: probabilities of T tasks, as `fastmed.functional.score_histogram` counts them, with either spacing.
        bins: number of bins of equal width on [0, 1]. Fine bins are merged whole, so that bins are equal to the last
            digit where their number divides that of uniform fine bins.

    Returns:
        The points of the diagram.

    Raises:
        TypeError: for anything but a histogram.
        ValueError: for less than one bin, or a histogram that reaches beyond 0 or 1.

    Example:
        >>> import torch
        >>> from fastmed.functional import score_histogram
        >>> from fastmed.metrics.functional import reliability_diagram
        >>> scores = torch.tensor([[0.125], [0.375], [0.625], [0.625]])
        >>> diagram = reliability_diagram(score_histogram(scores, torch.tensor([[0], [1], [1], [0]]), bins=4), bins=2)
        >>> diagram.predicted.tolist(), diagram.observed.tolist(), diagram.counts.tolist()
        ([[0.25, 0.625]], [[0.5, 0.5]], [[2, 2]])
    """
    coarse = _merged(histogram, bins)
    return Reliability(coarse.score / coarse.counts, coarse.positives / coarse.counts, coarse.counts.long())


def expected_calibration_error(histogram: ScoreHistogram, bins: int = 10, *, empty: Empty = "nan") -> Bounded:
    """Mean distance of observed from predicted probability, over bins weighted by their scores.

    It is that of Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", 2015. The bound is
    the mean of half the width of the fine bin of each score: by so much, at most, do centres differ from scores.

    Args:
        histogram: probabilities of T tasks, as `fastmed.functional.score_histogram` counts them, with either spacing.
        bins: number of bins of equal width on [0, 1], as for `reliability_diagram`.
        empty: value without scores.

    Returns:
        The error in [0, 1], and its bound, for the same bins.

    Raises:
        TypeError: for anything but a histogram.
        ValueError: for less than one bin, a histogram that reaches beyond 0 or 1, or an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.functional import score_histogram
        >>> from fastmed.metrics.functional import expected_calibration_error
        >>> scores = torch.tensor([[0.125], [0.375], [0.625], [0.625]])
        >>> histogram = score_histogram(scores, torch.tensor([[0], [1], [1], [0]]), bins=4)
        >>> expected_calibration_error(histogram, bins=2)
        Bounded(value=tensor([0.1875], dtype=torch.float64), bound=tensor([0.1250], dtype=torch.float64))
    """
    coarse = _merged(histogram, bins)
    total = coarse.counts.sum(-1)
    return bounded((coarse.positives - coarse.score).abs().sum(-1), coarse.deviation.sum(-1), total, empty)


def maximum_calibration_error(histogram: ScoreHistogram, bins: int = 10, *, empty: Empty = "nan") -> Bounded:
    """Largest distance of observed from predicted probability of all bins that hold a score.

    Args:
        histogram: probabilities of T tasks, as `fastmed.functional.score_histogram` counts them, with either spacing.
        bins: number of bins of equal width on [0, 1], as for `reliability_diagram`.
        empty: value without scores.

    Returns:
        The error in [0, 1], and its bound, for the same bins.

    Raises:
        TypeError: for anything but a histogram.
        ValueError: for less than one bin, a histogram that reaches beyond 0 or 1, or an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.functional import score_histogram
        >>> from fastmed.metrics.functional import maximum_calibration_error
        >>> scores = torch.tensor([[0.125], [0.375], [0.625], [0.625]])
        >>> histogram = score_histogram(scores, torch.tensor([[0], [1], [1], [0]]), bins=4)
        >>> maximum_calibration_error(histogram, bins=2).value.item()
        0.25
    """
    coarse = _merged(histogram, bins)
    distance, deviation = (
        ratio(part, coarse.counts, "zero").amax(-1)
        for part in ((coarse.positives - coarse.score).abs(), coarse.deviation)
    )
    has_scores = (coarse.counts.sum(-1) > 0).double()
    return bounded(distance, deviation, has_scores, empty)


def brier_score(histogram: ScoreHistogram, *, empty: Empty = "nan") -> Bounded:
    """Mean squared distance of the score from the label (Brier, "Verification of forecasts", 1950).

    A score that is at most h from the centre c of its bin moves the square of its distance from the label y by at
    most `h (2 |c - y| + h)`; the bound is the mean of this.

    Args:
        histogram: probabilities of T tasks, as `fastmed.functional.score_histogram` counts them, with either spacing.
        empty: value without scores.

    Returns:
        The score in [0, 1], 0 the best, and its bound.

    Raises:
        TypeError: for anything but a histogram.
        ValueError: for a histogram that reaches beyond 0 or 1, or an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.functional import score_histogram
        >>> from fastmed.metrics.functional import brier_score
        >>> scores = torch.tensor([[0.125], [0.875]])
        >>> brier_score(score_histogram(scores, torch.tensor([[0], [1]]), bins=4)).value.item()
        0.015625
    """
    negatives, positives = by_score(histogram).double().unbind(1)
    centre, half_width = _centres(histogram)

    def total(of_negatives: Tensor, of_positives: Tensor) -> Tensor:
        return (negatives * of_negatives + positives * of_positives).sum(-1)

    bounds = (half_width * (2.0 * distance + half_width) for distance in (centre, 1.0 - centre))
    scores = (negatives + positives).sum(-1)
    return bounded(total(centre**2, (1.0 - centre) ** 2), total(*bounds), scores, empty)
