"""Curves of score histograms against scikit-learn and torchmetrics: exact on binned scores, bounded on others."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import pytest
import torch
from scored import labelled, scores_and_labels
from torch import Tensor

from fastmed.functional import ScoreHistogram, confusion_counts, rank_statistics, score_histogram
from fastmed.metrics import functional as metrics

BINS = 64
FIGURES = [
    metrics.roc,
    metrics.auroc,
    metrics.precision_recall,
    metrics.average_precision,
    lambda histogram: metrics.sensitivity_at_specificity(histogram, 0.9),
    metrics.youden_threshold,
]


def centred(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Scores on the centres of bins, so that binning loses nothing."""
    scores, target = scores_and_labels(shape)
    return ((scores * BINS).floor() + 0.5) / BINS, target


def points(x: Tensor, y: Tensor) -> set[tuple[float, float]]:
    return {(round(a, 12), round(b, 12)) for a, b in zip(x.tolist(), y.tolist(), strict=True)}


@pytest.mark.parametrize("shape", [(900, 3), (4, 3, 15, 15)])
def test_exact_on_bin_centres(shape: tuple[int, ...]) -> None:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    scores, target = centred(shape)
    histogram = score_histogram(scores, target, BINS)
    curve, areas = metrics.roc(histogram), metrics.auroc(histogram)
    precision_recall, averages = metrics.precision_recall(histogram), metrics.average_precision(histogram)
    for task in range(3):
        of_task, labels = labelled(scores, target, task)
        assert areas.value[task].item() == pytest.approx(roc_auc_score(labels, of_task), abs=1e-12)
        assert averages[task].item() == pytest.approx(average_precision_score(labels, of_task), abs=1e-12)
        fpr, tpr, _ = roc_curve(labels, of_task, drop_intermediate=False)
        assert points(curve.fpr[task], curve.tpr[task]) == points(fpr, tpr)
        precision, recall, _ = precision_recall_curve(labels, of_task)
        ours = points(precision_recall.precision[task], precision_recall.recall[task])
        assert ours - {(1.0, 0.0)} == points(precision, recall) - {(1.0, 0.0)}


def test_thresholds_say_what_they_do() -> None:
    scores, target = scores_and_labels((500, 1))
    histogram = score_histogram(scores, target, 32, limits=(0.25, 0.75))
    curve, precision_recall = metrics.roc(histogram), metrics.precision_recall(histogram)
    of_task, labels = labelled(scores, target, 0)
    assert curve.thresholds.shape == (35,)
    assert torch.equal(precision_recall.thresholds, curve.thresholds.flip(0))
    for index, threshold in enumerate(curve.thresholds.tolist()):
        positive = of_task >= threshold
        assert curve.tpr[0, index].item() == pytest.approx(positive[labels == 1].double().mean().item())
        assert curve.fpr[0, index].item() == pytest.approx(positive[labels == 0].double().mean().item())
        if positive.any():
            ppv = precision_recall.precision[0, -1 - index].item()
            assert ppv == pytest.approx(labels[positive].double().mean().item())


@pytest.mark.parametrize("bins", [2, 16, 1024])
@pytest.mark.parametrize(
    ("activation", "spacing", "limits"),
    [
        (None, "uniform", None),
        (None, "logit", None),
        ("sigmoid", "uniform", None),
        ("sigmoid", "logit", (-3.0, 3.0)),
        (None, "uniform", (0.3, 0.6)),
    ],
)
def test_the_area_lies_within_its_bound(
    bins: int, activation: str | None, spacing: str, limits: tuple[float, float] | None
) -> None:
    from sklearn.metrics import roc_auc_score

    scores, target = scores_and_labels((5000, 3))
    scores = scores if activation is None else scores.logit()
    histogram = score_histogram(scores, target, bins, activation=activation, spacing=spacing, limits=limits)
    areas, exact = metrics.auroc(histogram), metrics.auroc(rank_statistics(scores, target))
    assert ((areas.value - exact.value).abs() <= areas.bound + 1e-12).all()
    for task in range(3):
        of_task, labels = labelled(scores, target, task)
        assert exact.value[task].item() == pytest.approx(roc_auc_score(labels, of_task), abs=1e-12)
    if bins == 1024 and limits is None:
        assert (areas.bound < 3e-3).all()


def test_the_bound_is_attained() -> None:
    scores, target = torch.tensor([[0.1], [0.2], [0.3], [0.4]]), torch.tensor([[0], [0], [1], [1]])
    for labels, exact in ((target, 1.0), (1 - target, 0.0)):
        area = metrics.auroc(score_histogram(scores, labels, 1))
        assert abs(area.value.item() - exact) == area.bound.item() == 0.5


def test_matches_torchmetrics() -> None:
    from torchmetrics.functional.classification import (
        binary_auroc,
        binary_average_precision,
        binary_roc,
        binary_sensitivity_at_specificity,
    )

    scores, target = scores_and_labels((3000, 2), missing=0.0)
    histogram = score_histogram(scores, target, BINS)
    curve, areas = metrics.roc(histogram), metrics.auroc(histogram)
    point = metrics.sensitivity_at_specificity(histogram, 0.8)
    edges = torch.linspace(0, 1, BINS + 1)
    for task in range(2):
        of_task, labels = scores[:, task], target[:, task].long()
        fpr, tpr, _ = binary_roc(of_task, labels, thresholds=edges)
        assert points(curve.fpr[task].float(), curve.tpr[task].float()) == points(fpr, tpr)
        area = binary_auroc(of_task, labels, thresholds=edges)
        assert areas.value[task].item() == pytest.approx(area.item(), abs=1e-6)
        average = binary_average_precision(of_task, labels, thresholds=edges)
        assert metrics.average_precision(histogram)[task].item() == pytest.approx(average.item(), abs=1e-6)
        sensitivity, _ = binary_sensitivity_at_specificity(of_task, labels, 0.8, thresholds=edges)
        assert point.sensitivity[task].item() == pytest.approx(sensitivity.item(), abs=1e-6)


@pytest.mark.parametrize("least", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_sensitivity_at_specificity_is_the_best_of_all_thresholds(least: float) -> None:
    scores, target = scores_and_labels((50, 4))
    histogram = score_histogram(scores, target, 16)
    point, curve = metrics.sensitivity_at_specificity(histogram, least), metrics.roc(histogram)
    for task in range(4):
        of_task, labels = labelled(scores, target, task)
        negatives, positives = of_task[labels == 0], of_task[labels == 1]
        rates = [
            ((positives >= t).double().mean().item(), (negatives < t).double().mean().item(), t)
            for t in curve.thresholds.tolist()
        ]
        expected = max(rate for rate in rates if rate[1] >= least)
        assert (
            point.sensitivity[task].item(),
            point.specificity[task].item(),
            point.threshold[task].item(),
        ) == expected


def test_a_specificity_is_reached_exactly() -> None:
    scores, target = torch.linspace(0.05, 0.95, 10).repeat_interleave(2).view(-1, 1), torch.tensor([[0], [1]] * 10)
    histogram = score_histogram(scores, target, 10)
    for tenths in range(11):
        assert metrics.sensitivity_at_specificity(histogram, tenths / 10).specificity.item() == tenths / 10


def test_youden_threshold_is_the_best_of_all_thresholds() -> None:
    scores, target = scores_and_labels((200, 4))
    histogram = score_histogram(scores, target, 16)
    point, curve = metrics.youden_threshold(histogram), metrics.roc(histogram)
    torch.testing.assert_close(point.sensitivity + point.specificity - 1, (curve.tpr - curve.fpr).amax(1))
    for task in range(4):
        of_task, labels = labelled(scores, target, task)
        positive = of_task >= point.threshold[task]
        assert positive[labels == 1].double().mean().item() == pytest.approx(point.sensitivity[task].item())
        assert (~positive[labels == 0]).double().mean().item() == pytest.approx(point.specificity[task].item())


def test_scores_beyond_the_limits_keep_their_order() -> None:
    scores = torch.tensor([[-5.0], [0.5], [7.0], [-4.0], [0.6], [9.0]])
    histogram = score_histogram(scores, torch.tensor([[0], [0], [0], [1], [1], [1]]), 4)
    # In pairs of equal groups: a tie in each of three groups, and order across them.
    with pytest.warns(UserWarning, match=r"scores: 4 of 6 lie outside the limits of the bins, 0 to 1, and count"):
        assert metrics.auroc(histogram).value.item() == (3 * 0.5 + 3) / 9
    histogram = score_histogram(scores, torch.tensor([[0], [0], [0], [1], [1], [1]]), 4, limits=(-1.0, 1.0))
    assert metrics.roc(histogram).tpr[0].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 1])


def test_nan_scores_are_left_out() -> None:
    scores, target = scores_and_labels((200, 2), missing=0.0)
    without = score_histogram(scores[5:], target[5:])
    scores[:5] = torch.nan
    histogram = score_histogram(scores, target)
    assert histogram.nan.sum() == 10
    for figure in FIGURES:
        torch.testing.assert_close(figure(histogram), figure(without), rtol=0, atol=0)


def test_constant_scores_say_nothing() -> None:
    histogram = score_histogram(torch.full((10, 1), 0.5), torch.tensor([[0, 1]] * 5).view(10, 1))
    area = metrics.auroc(histogram)
    assert area.value.item() == area.bound.item() == 0.5
    assert metrics.average_precision(histogram).item() == 0.5
    assert metrics.youden_threshold(histogram).sensitivity.item() in (0.0, 1.0)


@pytest.mark.parametrize("label", [0.0, 1.0, torch.nan])
def test_undefined_figures_are_nan(label: float) -> None:
    scores, target = scores_and_labels((50, 2))
    target[:, 1] = label
    histogram = score_histogram(scores, target)
    for figure in FIGURES[1::2] + FIGURES[4:5]:
        result = figure(histogram)
        for values in result if isinstance(result, tuple) else (result,):
            defined = figure is metrics.average_precision and label == 1.0
            assert values.isnan().tolist() == [False, not defined]
    curve = metrics.roc(histogram)
    assert curve.tpr[1].isnan().all() == (label != 1.0)
    assert curve.fpr[1].isnan().all() == (label != 0.0)
    assert metrics.precision_recall(histogram).precision[1].isnan().all() == (label != 1.0)


@pytest.mark.parametrize(("empty", "value"), [("nan", torch.nan), ("skip", torch.nan), ("zero", 0.0), ("one", 1.0)])
def test_undefined_figures_by_policy(empty: Literal["nan", "skip", "zero", "one"], value: float) -> None:
    scores, target = scores_and_labels((50, 2))
    target[:, 1] = 0.0
    histogram = score_histogram(scores, target)
    for area in (
        metrics.auroc(histogram, empty=empty),
        metrics.auroc(rank_statistics(scores, target), empty=empty),
    ):
        assert area.value[1].item() == pytest.approx(value, nan_ok=True)
        assert area.bound[1].item() == pytest.approx(0.0 * value, nan_ok=True)
    assert metrics.average_precision(histogram, empty=empty)[1].item() == pytest.approx(value, nan_ok=True)
    curve, precision_recall = metrics.roc(histogram, empty=empty), metrics.precision_recall(histogram, empty=empty)
    expected = torch.full_like(curve.tpr[1], value)
    torch.testing.assert_close(curve.tpr[1], expected, equal_nan=True)
    torch.testing.assert_close(precision_recall.recall[1], expected, equal_nan=True)
    torch.testing.assert_close(curve.fpr[1], metrics.roc(histogram).fpr[1])
    # Without positives every call is wrong, and to make none is never.
    assert precision_recall.precision[1].isnan().all() == (value != value)
    if value == value:
        assert set(precision_recall.precision[1].tolist()) == {0.0, 1.0}


def test_undefined_figures_as_in_scikit_learn() -> None:
    from sklearn.metrics import average_precision_score, precision_recall_curve

    scores, target = torch.tensor([0.1, 0.4, 0.8]), torch.zeros(3)
    histogram = score_histogram(scores[:, None], target[:, None])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        average, (_, recall, _) = average_precision_score(target, scores), precision_recall_curve(target, scores)
    assert metrics.average_precision(histogram, empty="zero").item() == average
    assert set(metrics.precision_recall(histogram, empty="one").recall[0, :-1].tolist()) == set(recall[:-1].tolist())


@pytest.mark.parametrize("figure", [metrics.roc, metrics.auroc, metrics.precision_recall, metrics.average_precision])
def test_unknown_policies(figure: Any) -> None:
    with pytest.raises(ValueError, match="empty: got 'two'"):
        figure(score_histogram(torch.rand(4, 1), torch.ones(4, 1)), empty="two")


def test_more_pairs_than_64_bits_number() -> None:
    counts = torch.zeros(1, 2, 4, dtype=torch.int64)
    counts[0, 0, 0] = counts[0, 1, 2] = 2**40
    counts[0, 0, 2] = 2**40
    none = torch.zeros(1, 2, dtype=torch.int64)
    histogram = ScoreHistogram(counts, none, none, none, torch.linspace(0, 1, 5, dtype=torch.float64))
    assert metrics.auroc(histogram).value.item() == 0.75


@pytest.mark.parametrize("figure", FIGURES)
def test_only_histograms_are_taken(figure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TypeError, match="histogram: got Tensor, allowed is a ScoreHistogram"):
        figure(torch.zeros(1, 2, 4))


@pytest.mark.parametrize("specificity", [-0.1, 1.1, torch.nan])
def test_a_specificity_is_a_share(specificity: float) -> None:
    histogram = score_histogram(torch.rand(4, 1), torch.ones(4, 1))
    with pytest.raises(ValueError, match=r"least_specificity: got \S+, allowed is 0 to 1"):
        metrics.sensitivity_at_specificity(histogram, specificity)


def test_compiled_whole() -> None:
    scores, target = scores_and_labels((50, 2))
    threshold = torch.tensor([0.2, 0.6])

    def figures(scores: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        histogram = score_histogram(scores, target, 16) + score_histogram(scores, target, 16)
        counts = confusion_counts(scores, target, 2, threshold=threshold, pool="batch")
        return metrics.auroc(histogram).value, metrics.average_precision(histogram, empty="zero"), counts

    for dynamic in (False, True):
        compiled = torch.compile(figures, fullgraph=True, backend="eager", dynamic=dynamic)
        for got, expected in zip(compiled(scores, target), figures(scores, target), strict=True):
            torch.testing.assert_close(got, expected)
