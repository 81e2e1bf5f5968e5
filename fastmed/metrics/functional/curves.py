"""Curves over all thresholds, and what is read off them: from score histograms, or from exact ranks.

The points of a curve are the edges of the histogram's bins. Scores below and above its limits take part as two more
bins, and NaN scores, which no threshold can place, are left out. On the CPU, where looking needs no device
synchronisation, a figure warns where bins of probabilities hold something else.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...contract import RankStatistics, ScoreHistogram
from .empty import Empty, ratio
from .figures import ppv, sensitivity, specificity
from .fourfold import Fourfold, at_thresholds

__all__ = [
    "Bounded",
    "OperatingPoint",
    "PrecisionRecallCurve",
    "RocCurve",
    "auroc",
    "average_precision",
    "precision_recall",
    "roc",
    "sensitivity_at_specificity",
    "youden_threshold",
]


class Bounded(NamedTuple):
    """A figure, and how far binning may have moved it.

    Attributes:
        value: float64 (T,); what the policy says where the figure is undefined.
        bound: float64 (T,): that of the scores themselves lies within `value - bound` and `value + bound`. NaN where
            the value is, and 0 where a policy sets it.
    """

    value: Tensor
    bound: Tensor


class RocCurve(NamedTuple):
    """Points of the ROC curve, from the strictest threshold, at (0, 0), to the laxest, at (1, 1).

    Attributes:
        fpr: false positive rate, 1 - specificity, float64 (T, bins + 3); undefined without negatives.
        tpr: true positive rate, the sensitivity, float64 (T, bins + 3); undefined without positives.
        thresholds: float64 (bins + 3,), descending from infinity to minus infinity; a score at or above one is
            positive, but above it for the upper limit of the histogram, which its last bin holds.
    """

    fpr: Tensor
    tpr: Tensor
    thresholds: Tensor


class PrecisionRecallCurve(NamedTuple):
    """Points of the precision-recall curve, from the laxest threshold to the strictest.

    Attributes:
        precision: float64 (T, bins + 3); 1 where nothing is positive by the threshold, NaN where the recall is.
        recall: float64 (T, bins + 3), descending from 1 to 0; undefined without positives.
        thresholds: float64 (bins + 3,), those of `RocCurve` in ascending order.
    """

    precision: Tensor
    recall: Tensor
    thresholds: Tensor


class OperatingPoint(NamedTuple):
    """A threshold for each task, and what it achieves.

    Attributes:
        threshold: float64 (T,); a score at or above it is positive, as for `RocCurve`.
        sensitivity: float64 (T,).
        specificity: float64 (T,).
    """

    threshold: Tensor
    sensitivity: Tensor
    specificity: Tensor


def check_histogram(histogram: ScoreHistogram) -> None:
    """Refuse anything else.

    Raises:
        TypeError: for another type.
    """
    if not isinstance(histogram, ScoreHistogram):
        raise TypeError(
            f"histogram: got {type(histogram).__name__}, allowed is a ScoreHistogram, as score_histogram gives it"
        )


def warn_of_scores_outside(histogram: ScoreHistogram) -> None:
    """Warn if bins of probabilities hold something else, as logits.

    No probability lies outside 0 and 1. Outside those of logit-spaced bins it may, where it saturates, but most do not.
    """
    beyond = histogram.below.sum() + histogram.above.sum()
    ends = histogram.edges[0], histogram.edges[-1]
    outside, total, low, high = torch.stack([beyond, beyond + histogram.counts.sum(), *ends]).tolist()
    are_probabilities = 0.0 <= low < 1e-3 and 1.0 - 1e-3 < high <= 1.0
    if are_probabilities and outside > (0.0 if (low, high) == (0.0, 1.0) else total / 2.0):
        warnings.warn(
            f"scores: {outside:.0f} of {total:.0f} lie outside the limits of the bins, {low:g} to {high:g}, and count "
            "as two bins, one below and one above; logits need activation='sigmoid', scores of another range limits=",
            stacklevel=4,
        )


def by_score(histogram: ScoreHistogram) -> Tensor:
    """Negatives and positives by ascending score, int64 (T, 2, bins + 2), with those outside the limits."""
    check_histogram(histogram)
    if histogram.counts.device.type == "cpu" and not torch.compiler.is_compiling():
        warn_of_scores_outside(histogram)
    return torch.cat((histogram.below.unsqueeze(-1), histogram.counts, histogram.above.unsqueeze(-1)), -1)


def _thresholds(histogram: ScoreHistogram) -> tuple[Fourfold, Tensor]:
    """The tables (T, bins + 3) at ascending thresholds (bins + 3,)."""
    table = at_thresholds(by_score(histogram))
    return table, F.pad(F.pad(histogram.edges, (0, 1), value=torch.inf), (1, 0), value=-torch.inf)


def roc(histogram: ScoreHistogram, *, empty: Empty = "nan") -> RocCurve:
    """Receiver operating characteristic: sensitivity against false positive rate, one point a threshold.

    Args:
        histogram: scores of T tasks, as `fastmed.functional.score_histogram` counts them.
        empty: value of the rate of a label that a task does not have.

    Returns:
        The points of the curve, in the order of scikit-learn's `roc_curve`.

    Raises:
        TypeError: for anything but a histogram.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.functional import score_histogram
        >>> from fastmed.metrics.functional import roc
        >>> scores = torch.tensor([[0.1], [0.6], [0.7], [0.9]])
        >>> curve = roc(score_histogram(scores, torch.tensor([[0], [0], [1], [1]]), bins=4))
        >>> curve.fpr.tolist(), curve.tpr.tolist()
        ([[0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.0]], [[0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0]])
    """
    table, thresholds = _thresholds(histogram)
    fpr = ratio(table.fp, table.fp + table.tn, empty)
    return RocCurve(fpr.flip(-1), sensitivity(table, empty=empty).flip(-1), thresholds.flip(-1))


def bounded(value: Tensor, bound: Tensor, of: Tensor, empty: Empty) -> Bounded:
    """Figure and bound, both shares of the same; binning does not move what the policy sets."""
    figure = ratio(value, of, empty)
    return Bounded(figure, ratio(bound, of, "zero").masked_fill(figure.isnan(), torch.nan))


def auroc(scores: ScoreHistogram | RankStatistics, *, empty: Empty = "nan") -> Bounded:
    """Area under the ROC curve: how often a positive scores higher than a negative, with one half for a tie.

    In a histogram the scores of a bin count as tied, which moves the area by at most half of the share of pairs of a
    positive and a negative that are in one bin:

        bound = sum_k positives_k negatives_k / (2 positives negatives)

    as long as float32 tells the scores of a pair apart. Probabilities of a rare finding crowd into the lowest of
    uniform bins, and the bound grows: bins with spacing="logit" resolve them. Ranks give the area itself, and a bound
    of 0 (Hanley and McNeil, "The meaning and use of the area under a receiver operating characteristic (ROC) curve",
    1982).

    Args:
        scores: of T tasks, as `fastmed.functional.score_histogram` or `fastmed.functional.rank_statistics` give them.
        empty: value without positives or without negatives.

    Returns:
        The area of each task in [0, 1], and its bound.

    Raises:
        TypeError: for anything else.
        ValueError: for an unknown policy.

    Warns:
        UserWarning: on the CPU, where bins of probabilities hold something else, as logits.

    Example:
        >>> import torch
        >>> from fastmed.functional import rank_statistics, score_histogram
        >>> from fastmed.metrics.functional import auroc
        >>> scores, target = torch.tensor([[0.1], [0.6], [0.7], [0.9]]), torch.tensor([[0], [0], [1], [1]])
        >>> auroc(score_histogram(scores, target, bins=4))
        Bounded(value=tensor([0.8750], dtype=torch.float64), bound=tensor([0.1250], dtype=torch.float64))
        >>> auroc(rank_statistics(scores, target)).value.item()
        1.0
    """
    if isinstance(scores, RankStatistics):
        return bounded(scores.u, torch.zeros_like(scores.u), scores.positives.double() * scores.negatives, empty)
    negatives, positives = by_score(scores).double().unbind(1)
    pairs = positives.sum(-1) * negatives.sum(-1)
    tied = (positives * negatives).sum(-1) / 2.0
    lower = negatives.cumsum(-1) - negatives
    return bounded((positives * lower).sum(-1) + tied, tied, pairs, empty)


def precision_recall(histogram: ScoreHistogram, *, empty: Empty = "nan") -> PrecisionRecallCurve:
    """Precision (PPV) against recall (sensitivity), one point a threshold.

    Args:
        histogram: scores of T tasks, as `fastmed.functional.score_histogram` counts them.
        empty: value of the recall without positives; scikit-learn's is "one".

    Returns:
        The points of the curve, in the order of scikit-learn's `precision_recall_curve`.

    Raises:
        TypeError: for anything but a histogram.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.functional import score_histogram
        >>> from fastmed.metrics.functional import precision_recall
        >>> scores = torch.tensor([[0.1], [0.6], [0.7], [0.9]])
        >>> curve = precision_recall(score_histogram(scores, torch.tensor([[0], [0], [1], [1]]), bins=2))
        >>> curve.precision.round(decimals=3).tolist(), curve.recall.tolist()
        ([[0.5, 0.5, 0.667, 1.0, 1.0]], [[1.0, 1.0, 1.0, 0.0, 0.0]])
    """
    table, thresholds = _thresholds(histogram)
    recall = sensitivity(table, empty=empty)
    return PrecisionRecallCurve(ppv(table, empty="one").masked_fill(recall.isnan(), torch.nan), recall, thresholds)


def average_precision(histogram: ScoreHistogram, *, empty: Empty = "nan") -> Tensor:
    """Mean of the precision over the positives, each at its own score as the threshold.

    It is scikit-learn's `average_precision_score`, which sums steps and draws no lines between points; the scores of
    a bin count as tied.

    Args:
        histogram: scores of T tasks, as `fastmed.functional.score_histogram` counts them.
        empty: value without positives; scikit-learn's is "zero".

    Returns:
        float64 (T,) in [0, 1].

    Raises:
        TypeError: for anything but a histogram.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.functional import score_histogram
        >>> from fastmed.metrics.functional import average_precision
        >>> scores = torch.tensor([[0.1], [0.8], [0.7], [0.9]])
        >>> round(average_precision(score_histogram(scores, torch.tensor([[0], [0], [1], [1]]))).item(), 4)
        0.8333
    """
    table, _ = _thresholds(histogram)
    found = -(table.tp.diff() * ppv(table, empty="one")[:, :-1]).sum(-1)
    return ratio(found, table.tp[:, 0], empty)


def _operating_points(histogram: ScoreHistogram) -> OperatingPoint:
    """All thresholds, the strictest first, and what they achieve, (T, bins + 3)."""
    table, thresholds = _thresholds(histogram)
    points = OperatingPoint(thresholds.expand_as(table.tp), sensitivity(table), specificity(table))
    undefined = (points.sensitivity + points.specificity).isnan()
    return OperatingPoint(*(values.masked_fill(undefined, torch.nan).flip(-1) for values in points))


def _first_best(points: OperatingPoint, merit: Tensor) -> OperatingPoint:
    best = merit.argmax(-1, keepdim=True)
    return OperatingPoint(*(values.gather(-1, best).squeeze(-1) for values in points))


def sensitivity_at_specificity(histogram: ScoreHistogram, least_specificity: float) -> OperatingPoint:
    """Highest sensitivity of all thresholds with at least this specificity.

    Args:
        histogram: scores of T tasks, as `fastmed.functional.score_histogram` counts them.
        least_specificity: in [0, 1].

    Returns:
        The operating point of each task; of several with this sensitivity the one with the highest specificity, and
        of several alike the one with the highest threshold. NaN without positives or without negatives, where no
        threshold is better than another.

    Raises:
        TypeError: for anything but a histogram.
        ValueError: for a specificity outside [0, 1].

    Example:
        >>> import torch
        >>> from fastmed.functional import score_histogram
        >>> from fastmed.metrics.functional import sensitivity_at_specificity
        >>> scores, target = torch.tensor([[0.1], [0.6], [0.7], [0.9]]), torch.tensor([[0], [1], [0], [1]])
        >>> point = sensitivity_at_specificity(score_histogram(scores, target, bins=10), 0.9)
        >>> point.threshold.item(), point.sensitivity.item(), point.specificity.item()
        (0.9, 0.5, 1.0)
    """
    if not 0.0 <= least_specificity <= 1.0:
        raise ValueError(f"least_specificity: got {least_specificity}, allowed is 0 to 1")
    points = _operating_points(histogram)
    return _first_best(points, torch.where(points.specificity >= least_specificity, points.sensitivity, -1.0))


def youden_threshold(histogram: ScoreHistogram) -> OperatingPoint:
    """Threshold with the highest J = sensitivity + specificity - 1 (Youden, "Index for rating diagnostic tests", 1950).

    Args:
        histogram: scores of T tasks, as `fastmed.functional.score_histogram` counts them.

    Returns:
        The operating point of each task; of several alike the one with the highest threshold. NaN without positives
        or without negatives, where no threshold is better than another.

    Raises:
        TypeError: for anything but a histogram.

    Example:
        >>> import torch
        >>> from fastmed.functional import score_histogram
        >>> from fastmed.metrics.functional import youden_threshold
        >>> scores, target = torch.tensor([[0.1], [0.6], [0.7], [0.9]]), torch.tensor([[0], [0], [1], [1]])
        >>> youden_threshold(score_histogram(scores, target, bins=10)).threshold.round(decimals=6).item()
        0.7
    """
    points = _operating_points(histogram)
    return _first_best(points, points.sensitivity + points.specificity)
