"""Metrics of confusion counts: values worked by hand, identities, and the undefined cases."""

import math

import pytest
import torch

from fastmed.functional import confusion_counts
from fastmed.metrics import functional as metrics

# Rows = target. Class 0 occurs 10 times, class 1 five times, class 2 never but is predicted once.
COUNTS = torch.tensor([[8, 1, 1], [2, 3, 0], [0, 0, 0]])
NAN = math.nan


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (metrics.sensitivity, [8 / 10, 3 / 5, NAN]),
        (metrics.specificity, [3 / 5, 9 / 10, 14 / 15]),
        (metrics.ppv, [8 / 10, 3 / 4, 0.0]),
        (metrics.npv, [3 / 5, 9 / 11, 1.0]),
        (metrics.prevalence, [10 / 15, 5 / 15, 0.0]),
        (metrics.accuracy, [11 / 15, 12 / 15, 14 / 15]),
        (metrics.dice, [16 / 20, 6 / 9, 0.0]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_literal_values(metric, expected):
    result = metric(COUNTS)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64), equal_nan=True)


def test_accuracy_is_sensitivity_and_specificity_weighted_by_prevalence():
    counts = torch.randint(1, 1000, (7, 5, 5), generator=torch.Generator().manual_seed(0))
    prevalence = metrics.prevalence(counts)
    weighted = metrics.sensitivity(counts) * prevalence + metrics.specificity(counts) * (1.0 - prevalence)
    torch.testing.assert_close(metrics.accuracy(counts), weighted)


def test_predictive_values_follow_from_prevalence_by_bayes():
    counts = torch.randint(1, 1000, (7, 5, 5), generator=torch.Generator().manual_seed(1))
    positive = metrics.sensitivity(counts) * metrics.prevalence(counts)
    false_alarms = (1.0 - metrics.specificity(counts)) * (1.0 - metrics.prevalence(counts))
    torch.testing.assert_close(metrics.ppv(counts), positive / (positive + false_alarms))


def test_dice_is_the_harmonic_mean_of_sensitivity_and_ppv():
    counts = torch.randint(1, 1000, (4, 3, 3), generator=torch.Generator().manual_seed(2))
    inverse = (1.0 / metrics.sensitivity(counts) + 1.0 / metrics.ppv(counts)) / 2.0
    torch.testing.assert_close(metrics.dice(counts), 1.0 / inverse)


def test_counts_of_parts_add():
    labels = torch.randint(4, (2, 6, 10), generator=torch.Generator().manual_seed(3))
    whole = confusion_counts(labels[0].view(1, -1), labels[1].view(1, -1), 4).sum(0)
    parts = confusion_counts(labels[0], labels[1], 4).sum(0)
    torch.testing.assert_close(metrics.dice(parts), metrics.dice(whole), rtol=0.0, atol=0.0)


def test_more_voxels_than_float32_can_count():
    counts = torch.tensor([[2**40, 1], [0, 1]])
    assert metrics.specificity(counts)[1].item() == 2**40 / (2**40 + 1)


@pytest.mark.parametrize(
    "metric",
    [
        metrics.sensitivity,
        metrics.specificity,
        metrics.ppv,
        metrics.npv,
        metrics.prevalence,
        metrics.accuracy,
    ],
)
def test_nothing_counted_is_undefined(metric):
    assert metric(torch.zeros(2, 3, 3, dtype=torch.int64)).isnan().all()


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_counts_must_be_square(shape):
    with pytest.raises(ValueError, match="counts: got shape"):
        metrics.dice(torch.zeros(shape))
