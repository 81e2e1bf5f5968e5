"""Scores as data frame and table, and what the plots draw."""

import io
import pickle
import sys

import pytest
import torch
from rich.console import Console

from fastmed.functional import ScoreHistogram, score_histogram
from fastmed.metrics import Scores, functional, plots

TABLE = functional.fourfold(torch.tensor([[90, 2, 1, 7], [80, 0, 0, 0]]))
COUNTS = torch.tensor([[[30, 20, 10, 5], [1, 2, 5, 12]], [[9, 5, 2, 0], [0, 1, 1, 6]]])
NONE = torch.zeros(2, 2, dtype=torch.int64)
HISTOGRAM = ScoreHistogram(COUNTS, NONE, NONE, NONE, torch.linspace(0, 1, 5, dtype=torch.float64))
# The outermost thresholds lie beyond the limits of the histogram.
AT_THRESHOLDS = functional.at_thresholds(torch.nn.functional.pad(COUNTS, (1, 1)))


def scores():
    return Scores(
        ("nodule", "[mass]"),
        {"sensitivity": functional.sensitivity(TABLE), "Dice": functional.dice(TABLE)},
        {"sensitivity": functional.figure_interval(functional.sensitivity, TABLE, 0.9)},
        0.9,
    )


def test_a_data_frame_has_a_column_for_each_limit():
    frame = scores().to_frame()
    assert list(frame.columns) == ["sensitivity", "sensitivity lower", "sensitivity upper", "Dice"]
    assert frame.loc["nodule", "sensitivity"] == 7 / 8
    assert frame.loc["nodule", "sensitivity lower"] == scores().intervals["sensitivity"].lower[0].item()
    assert frame.loc["[mass]"].isna().all()


def test_the_table_fits_the_terminal():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(scores())
    text = " ".join(console.export_text().split())
    lower, upper = (limit[0].item() for limit in scores().intervals["sensitivity"])
    assert "90 % confidence intervals" in text
    for number in ("0.875", f"{lower:.3f} to", f"{upper:.3f}"):
        assert number in text
    assert "[mass]" in text
    assert "- to -" not in text


def test_scores_can_be_pickled():
    assert pickle.loads(pickle.dumps(scores())).to_frame().equals(scores().to_frame())


def test_figures_are_one_for_each_name():
    with pytest.raises(ValueError, match=r"Dice: got shape \(3,\), allowed is \(2,\)"):
        Scores(("a", "b"), {"Dice": torch.ones(3)})
    with pytest.raises(ValueError, match=r"Dice: got shape \(1,\), allowed is \(2,\)"):
        Scores(("a", "b"), {"Dice": torch.ones(2)}, {"Dice": functional.Interval(torch.ones(1), torch.ones(2))})
    with pytest.raises(ValueError, match="intervals: got 'IoU', allowed is one of"):
        Scores(("a",), {"Dice": torch.ones(1)}, {"IoU": functional.Interval(torch.ones(1), torch.ones(1))})


@pytest.mark.parametrize(
    ("module", "call", "message"),
    [
        ("pandas", lambda: scores().to_frame(), r"Scores.to_frame needs pandas: pip install 'fastmed\[reports\]'"),
        ("rich.table", lambda: scores().__rich__(), r"needs rich: pip install 'fastmed\[reports\]'"),
        ("matplotlib.figure", lambda: plots.confusion_matrix(torch.eye(2)), "A plot needs matplotlib: pip install"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, module, call, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=message):
        call()


def test_confusion_matrix_shows_counts_and_shares_of_the_target():
    axes = plots.confusion_matrix(torch.tensor([[9000, 1000], [0, 0]]), ["healthy", "nodule"])
    assert [text.get_text() for text in axes.texts] == ["9,000\n90.0%", "1,000\n10.0%", "0", "0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["healthy", "nodule"]
    axes.figure.canvas.draw()


def band(axes, index):
    """Vertices of a filled band."""
    return axes.collections[index].get_paths()[0].vertices


def test_roc_draws_each_task_and_its_intervals():
    table = AT_THRESHOLDS
    axes = plots.roc(HISTOGRAM, ["nodule", "mass"])
    for index in (0, 1):
        x, y = axes.lines[index].get_data()
        assert y.tolist() == functional.sensitivity(table)[index].tolist()
        assert x.tolist() == (1.0 - functional.specificity(table))[index].tolist()
        limits = functional.figure_interval(functional.sensitivity, table)
        drawn = set(band(axes, index)[:, 1].round(9))
        assert set(torch.cat([part[index] for part in limits]).numpy().round(9)) <= drawn
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["nodule", "mass"]
    axes.figure.canvas.draw()


def test_precision_recall_draws_ppv_and_prevalence():
    table = functional.Fourfold(*(field[0] for field in AT_THRESHOLDS))
    axes = plots.precision_recall(HISTOGRAM, level=0.9)
    x, y = axes.lines[0].get_data()
    assert x.tolist() == functional.sensitivity(table).tolist()
    assert y.tolist() == pytest.approx(functional.ppv(table).tolist(), nan_ok=True)
    assert axes.lines[1].get_ydata()[0] == 20 / 85
    assert "90 %" in axes.get_ylabel()
    axes.figure.canvas.draw()


def test_reliability_merges_bins():
    """Two steps of probability, of two bins each; the centres are 1/8, 3/8, 5/8 and 7/8."""
    axes = plots.reliability(HISTOGRAM, bins=2)
    x, y = axes.lines[0].get_data()
    assert x.tolist() == pytest.approx([(31 * 0.125 + 22 * 0.375) / 53, (15 * 0.625 + 17 * 0.875) / 32])
    assert y.tolist() == pytest.approx([3 / 53, 17 / 32])
    axes.figure.canvas.draw()


def test_reliability_leaves_empty_steps_out():
    axes = plots.reliability(HISTOGRAM, bins=100)
    assert [len(container[0].get_xdata()) for container in axes.containers] == [4, 4]


@pytest.mark.parametrize("plot", [plots.roc, plots.precision_recall, plots.reliability])
def test_curves_are_of_histograms(plot):
    with pytest.raises(TypeError, match="histogram: got Tensor, allowed is a ScoreHistogram"):
        plot(COUNTS)
    scores, target = torch.rand(60, 3), torch.randint(2, (60, 3))
    assert len(plot(score_histogram(scores, target)).get_legend().get_texts()) == 3


def test_plots_share_axes_that_they_are_given():
    from matplotlib.figure import Figure

    given = Figure().subplots()
    assert plots.roc(HISTOGRAM, axes=given) is given


def test_thresholds_count_every_case_once():
    table = functional.at_thresholds(COUNTS)
    assert table.tp.shape == (2, 5)
    assert (table.tp + table.fn == COUNTS[:, 1].sum(-1, keepdim=True)).all()
    assert (table.tn + table.fp == COUNTS[:, 0].sum(-1, keepdim=True)).all()
    assert table.fp[0].tolist() == [65, 35, 15, 5, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.confusion_matrix(torch.ones(2, 3)), "matrix: got shape"),
        (lambda: plots.confusion_matrix(torch.ones(2, 2), ["a"]), "names: got 1, allowed is 2, one a class"),
        (lambda: plots.roc(HISTOGRAM, ["a"]), "names: got 1, allowed is 2, one a task"),
        (lambda: plots.reliability(HISTOGRAM, ["a"]), "names: got 1, allowed is 2, one a task"),
        (lambda: plots.reliability(HISTOGRAM._replace(edges=torch.linspace(-1, 1, 5))), "histogram: got edges from -1"),
        (lambda: plots.reliability(HISTOGRAM, bins=0), "bins: got 0"),
        (lambda: functional.at_thresholds(torch.ones(3, 4)), "counts: got shape"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
