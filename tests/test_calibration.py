"""Calibration of score histograms against scikit-learn and torchmetrics, within the bounds that it states."""

from __future__ import annotations

import pytest
import torch
from scored import labelled, scores_and_labels
from torch import Tensor

from fastmed.functional import score_histogram
from fastmed.metrics import functional as metrics

FIGURES = [metrics.brier_score, metrics.expected_calibration_error, metrics.maximum_calibration_error]


def centred(rows: int, fine: int) -> tuple[Tensor, Tensor]:
    """Scores on the centres of bins, so that binning loses nothing."""
    scores, target = scores_and_labels((rows, 3))
    return ((scores.double() * fine).floor() + 0.5) / fine, target


@pytest.mark.parametrize("bins", [1, 4, 10, 15])
def test_exact_on_bin_centres(bins: int) -> None:
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss
    from torchmetrics.functional.classification import binary_calibration_error

    scores, target = centred(2000, 60)
    histogram = score_histogram(scores, target, 60)
    diagram, brier = metrics.reliability_diagram(histogram, bins), metrics.brier_score(histogram)
    for task in range(3):
        of_task, labels = labelled(scores, target, task)
        assert brier.value[task].item() == pytest.approx(brier_score_loss(labels, of_task), abs=1e-12)
        if 60 % bins:
            continue
        observed, predicted = calibration_curve(labels, of_task, n_bins=bins)
        filled = diagram.counts[task] > 0
        assert diagram.observed[task][filled].tolist() == pytest.approx(observed.tolist())
        assert diagram.predicted[task][filled].tolist() == pytest.approx(predicted.tolist())
        assert diagram.counts[task].sum() == len(labels)
        for norm, figure in (("l1", FIGURES[1]), ("max", FIGURES[2])):
            expected = binary_calibration_error(of_task, labels, n_bins=bins, norm=norm)
            assert figure(histogram, bins).value[task].item() == pytest.approx(expected.item(), abs=2e-6)


@pytest.mark.parametrize("fine", [32, 1024])
@pytest.mark.parametrize("bins", [4, 16])
def test_within_the_bounds(fine: int, bins: int) -> None:
    from sklearn.metrics import brier_score_loss
    from torchmetrics.functional.classification import binary_calibration_error

    scores, target = scores_and_labels((3000, 3))
    histogram = score_histogram(scores, target, fine)
    brier, expected, maximum = (
        metrics.brier_score(histogram),
        metrics.expected_calibration_error(histogram, bins),
        metrics.maximum_calibration_error(histogram, bins),
    )
    for task in range(3):
        of_task, labels = labelled(scores, target, task)
        peers = (
            brier_score_loss(labels, of_task),
            binary_calibration_error(of_task, labels, n_bins=bins, norm="l1").item(),
            binary_calibration_error(of_task, labels, n_bins=bins, norm="max").item(),
        )
        for ours, peer in zip((brier, expected, maximum), peers, strict=True):
            assert abs(ours.value[task].item() - peer) <= ours.bound[task].item() + 1e-6
            assert 0 < ours.bound[task] <= 1.5 / fine


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_logit_spacing(activation: str | None) -> None:
    from sklearn.metrics import brier_score_loss

    scores, target = scores_and_labels((3000, 2))
    given = scores if activation is None else scores.logit()
    # Beyond the limits too, where bins reach to 0 and 1.
    histogram = score_histogram(given, target, 256, activation=activation, spacing="logit", limits=(-4, 4))
    assert histogram.below.sum() > 0
    assert histogram.above.sum() > 0
    brier, diagram = metrics.brier_score(histogram), metrics.reliability_diagram(histogram, 1)
    for task in range(2):
        of_task, labels = labelled(scores, target, task)
        assert abs(brier.value[task].item() - brier_score_loss(labels, of_task)) <= brier.bound[task].item()
        error = metrics.expected_calibration_error(histogram, 1)
        distance = abs(of_task.double().mean() - labels.double().mean())
        assert abs(error.value[task] - distance) <= error.bound[task]
        assert diagram.observed[task, 0].item() == pytest.approx(labels.double().mean().item())


def test_a_bound_is_attained() -> None:
    histogram = score_histogram(torch.tensor([[0.0], [0.0], [1.0], [1.0]]), torch.tensor([[0], [0], [1], [1]]), 2)
    for figure, exact in ((metrics.brier_score, 0.0), (metrics.expected_calibration_error, 0.0)):
        error = figure(histogram)
        assert error.value.item() - error.bound.item() <= exact
    assert metrics.expected_calibration_error(histogram).value.item() == 0.25
    assert metrics.expected_calibration_error(histogram).bound.item() == 0.25


def test_nan_scores_are_left_out() -> None:
    scores, target = scores_and_labels((200, 2), missing=0.0)
    without = score_histogram(scores[5:], target[5:])
    scores[:5] = torch.nan
    histogram = score_histogram(scores, target)
    for figure in FIGURES:
        torch.testing.assert_close(figure(histogram), figure(without), rtol=0, atol=0)


def test_undefined_figures_are_nan() -> None:
    scores, target = scores_and_labels((50, 2))
    target[:, 1] = torch.nan
    histogram = score_histogram(scores, target)
    for figure in FIGURES:
        for values in figure(histogram):
            assert values.isnan().tolist() == [False, True]
    diagram = metrics.reliability_diagram(histogram)
    assert diagram.observed[1].isnan().all()
    assert diagram.predicted[1].isnan().all()
    assert diagram.counts[1].sum() == 0


@pytest.mark.parametrize(("empty", "value"), [("nan", torch.nan), ("skip", torch.nan), ("zero", 0.0), ("one", 1.0)])
def test_undefined_figures_by_policy(empty: str, value: float) -> None:
    scores, target = scores_and_labels((50, 2))
    target[:, 1] = torch.nan
    histogram = score_histogram(scores, target)
    for figure in FIGURES:
        defined, error = figure(histogram), figure(histogram, empty=empty)
        assert error.value[1].item() == pytest.approx(value, nan_ok=True)
        assert error.bound[1].item() == pytest.approx(0.0 * value, nan_ok=True)
        assert (error.value[0], error.bound[0]) == (defined.value[0], defined.bound[0])
        with pytest.raises(ValueError, match="empty: got 'two'"):
            figure(histogram, empty="two")


@pytest.mark.parametrize("spacing", ["uniform", "logit"])
def test_logits_are_no_probabilities(spacing: str) -> None:
    histogram = score_histogram(5.0 * torch.randn(500, 1), torch.ones(500, 1), spacing=spacing)
    for figure in FIGURES:
        with pytest.warns(UserWarning, match=r"scores: \d+ of 500 lie outside the limits .* activation='sigmoid'"):
            figure(histogram)


@pytest.mark.parametrize("figure", [*FIGURES, metrics.reliability_diagram])
def test_refusals(figure) -> None:  # type: ignore[no-untyped-def]
    scores, target = torch.rand(5, 1), torch.ones(5, 1)
    with pytest.raises(TypeError, match="histogram: got Tensor, allowed is a ScoreHistogram"):
        figure(scores)
    with pytest.raises(ValueError, match="histogram: got edges from -1 to 1, allowed are those of probabilities"):
        figure(score_histogram(scores, target, limits=(-1, 1)))
    if figure is not metrics.brier_score:
        with pytest.raises(ValueError, match="bins: got 0, allowed is 1 or more"):
            figure(score_histogram(scores, target), 0)
