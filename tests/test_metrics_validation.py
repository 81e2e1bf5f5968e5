"""What counting and metrics cannot take gets one clear error: the argument, its value, what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fastmed import metrics
from fastmed.functional import confusion_counts, rank_statistics, score_histogram
from fastmed.metrics import functional as figures

LABELS = torch.tensor([[0, 1, 1]])
SCORES, FOUND = torch.rand(6, 2), torch.randint(2, (6, 2))
TABLE = torch.randint(1, 9, (6, 4))


def _sensitivity(pooled: torch.Tensor) -> torch.Tensor:
    return figures.sensitivity(figures.fourfold(pooled))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: confusion_counts(LABELS, LABELS, 2, ignore_index=[0, 1]),
            r"ignore_index: got \[0, 1\], allowed is a wh",
        ),
        (
            lambda: confusion_counts(LABELS, LABELS, 2, ignore_index=1.0),
            "ignore_index: got 1.0, allowed is a whole number",
        ),
        (lambda: confusion_counts(LABELS, LABELS, 3.0), "num_classes: got 3.0, allowed is a whole number"),
        (lambda: confusion_counts([[0, 1]], LABELS, 2), "input: got list, allowed is a tensor"),
        (lambda: confusion_counts(LABELS, [[0, 1]], 2), "target: got list, allowed is a tensor"),
        (lambda: confusion_counts(LABELS, LABELS, 2, mask=[[0, 1]]), "mask: got list, allowed is a tensor"),
        (lambda: score_histogram([[0.5]], FOUND), "scores: got list, allowed is a tensor"),
        (lambda: score_histogram(SCORES, FOUND.numpy()), "target: got ndarray, allowed is a tensor"),
        (lambda: rank_statistics(SCORES, FOUND, mask=[[1]]), "mask: got list, allowed is a tensor"),
        (lambda: score_histogram(SCORES, FOUND, 10.0), "bins: got 10.0, allowed is a whole number"),
        (lambda: score_histogram(SCORES, FOUND, limits=3), "limits: got 3, allowed are two numbers"),
        (lambda: score_histogram(SCORES, FOUND, limits=("a", 1)), r"limits: got \('a', 1\), allowed are two numbers"),
        (lambda: metrics.AUROC(2, limits=3), "limits: got 3, allowed are two numbers"),
        (lambda: metrics.AUROC(2.0), "num_tasks: got 2.0, allowed is a whole number"),
        (lambda: metrics.ConfusionMatrix(3.0), "num_classes: got 3.0, allowed is a whole number"),
        (lambda: metrics.ConfusionMatrix(3, ignore_index=[0]), r"ignore_index: got \[0\], allowed is a whole number"),
        (lambda: metrics.CalibrationError(3, groups=10.0), "groups: got 10.0, allowed is a whole number"),
        (lambda: figures.fourfold([1, 2, 3, 4]), "table: got list, allowed is a tensor"),
        (lambda: figures.one_versus_rest([[1, 2], [3, 4]]), "matrix: got list, allowed is a tensor"),
        (lambda: figures.bootstrap_interval([1, 2], _sensitivity), "counts: got list, allowed is a tensor"),
        (
            lambda: figures.bootstrap_interval(TABLE, _sensitivity, generator=0),
            "generator: got 0, allowed is a torch.Gen",
        ),
        (
            lambda: figures.bootstrap_interval(TABLE, _sensitivity, resamples=9.0),
            "resamples: got 9.0, allowed is a whole",
        ),
        (
            lambda: figures.bootstrap_interval(TABLE, _sensitivity, clusters=list("abcdef")),
            "clusters: got list, allowed are",
        ),
        (lambda: figures.proportion_interval("a", 8), "successes: got 'a', allowed are counts"),
        (lambda: figures.ppv_at(figures.fourfold(TABLE), "a"), "prevalence: got 'a', allowed are numbers, 0 to 1"),
        (lambda: metrics.AUROC(1).plot(), "AUROC: draws nothing itself; see fastmed.metrics.plots"),
    ],
)
def test_one_clear_error(call: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError, NotImplementedError), match=f"^{message}"):
        call()


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("given", [float, lambda number: [0.5, number], torch.tensor, lambda n: torch.tensor([0.5, n])])
def test_thresholds_are_finite(given: Callable[[float], Any], number: float) -> None:
    threshold, message = given(number), f"threshold: got {number}, allowed is a finite number"
    with pytest.raises(ValueError, match=message):
        confusion_counts(SCORES, FOUND, 2, threshold=threshold)
    for metric in (metrics.ConfusionMatrix, metrics.SegmentationScores, metrics.DiagnosticScores):
        with pytest.raises(ValueError, match=message):
            metric(2, threshold=threshold)


def test_numbers_and_lists_where_they_are_clear() -> None:
    table = figures.fourfold(TABLE[:2])
    prevalence = torch.tensor([0.1, 0.2], dtype=torch.float64)
    for figure in (figures.ppv_at, figures.npv_at):
        assert torch.equal(figure(table, [0.1, 0.2]), figure(table, prevalence))
    expected = figures.proportion_interval(torch.tensor([3, 1]), torch.tensor([8, 8]))
    for found, cases in (([3, 1], 8), (torch.tensor([3, 1]), [8, 8])):
        assert all(map(torch.equal, figures.proportion_interval(found, cases), expected))
    assert figures.proportion_interval(3, 8).upper == expected.upper[0]
    groups = [0, 0, 1, 1, 2, 2]
    limits = [
        figures.bootstrap_interval(
            TABLE, _sensitivity, clusters=given, resamples=99, generator=torch.Generator().manual_seed(0)
        )
        for given in (groups, np.array(groups), torch.tensor(groups))
    ]
    assert limits[0] == limits[1] == limits[2]
