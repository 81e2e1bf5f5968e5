"""Stateful metrics: their values, and what torchmetrics and Lightning do with a metric."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import rich
import torch
from sklearn import metrics as sklearn
from torchmetrics import MetricCollection
from torchmetrics.segmentation import DiceScore

from fastmed import metrics
from fastmed.functional import confusion_counts
from fastmed.metrics.functional import fourfold, one_versus_rest, proportion_interval

CLASSES = 4


def label_maps(samples=3):
    """A batch of labels, predicted and true; class 3 is rare."""
    return torch.randint(CLASSES, (2, samples, 5, 6)) * (torch.rand(2, samples, 5, 6) < 0.5)


def findings(samples=30, tasks=3):
    """Probabilities and labels of findings, some of them missing."""
    labels = torch.randint(2, (samples, tasks)).float()
    return torch.rand(samples, tasks), labels.where(torch.rand(samples, tasks) < 0.9, torch.nan)


METRICS = {
    "confusion": (lambda: metrics.ConfusionMatrix(CLASSES), label_maps),
    "confusion_normalized": (lambda: metrics.ConfusionMatrix(CLASSES, normalize="true"), label_maps),
    "confusion_of_labels": (lambda: metrics.ConfusionMatrix(3, threshold=0.5), findings),
    "segmentation": (lambda: metrics.SegmentationScores(CLASSES), label_maps),
    "segmentation_pooled": (lambda: metrics.SegmentationScores(CLASSES, pool="all"), label_maps),
    "diagnostic": (lambda: metrics.DiagnosticScores(3, threshold=[0.3, 0.5, 0.7]), findings),
}


@pytest.fixture(params=METRICS)
def made(request):
    """A function that makes a metric, and one that makes its batches."""
    return METRICS[request.param]


def assert_equal(actual, expected):
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert_equal(actual[name], value)
    elif isinstance(expected, tuple):
        for one, other in zip(actual, expected, strict=True):
            assert_equal(one, other)
    else:
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0.0, equal_nan=True)


def state_bytes(metric):
    return sum(state.numel() * state.element_size() for state in metric.metric_state.values())


def of(make, batches):
    metric = make()
    for batch in batches:
        metric.update(*batch)
    return metric


# --- Life of a metric ---


def test_batches_add(made):
    make, batch = made
    batches = [batch(samples) for samples in (1, 3, 2)]
    whole = make()
    whole.update(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    assert_equal(of(make, batches).compute(), whole.compute())


def test_forward_gives_the_value_of_the_batch(made):
    make, batch = made
    metric, batches = make(), [batch() for _ in range(3)]
    for each in batches:
        assert_equal(metric(*each), of(make, [each]).compute())
    assert_equal(metric.compute(), of(make, batches).compute())


def test_reset(made):
    make, batch = made
    metric, last = of(make, [batch(), batch()]), batch()
    metric.reset()
    assert all(not state.any() for state in metric.metric_state.values())
    metric.update(*last)
    assert_equal(metric.compute(), of(make, [last]).compute())


def test_merge_state(made):
    make, batch = made
    batches = [batch() for _ in range(3)]
    one, other = of(make, batches[:1]), of(make, batches[1:])
    one.merge_state(other)
    assert_equal(one.compute(), of(make, batches).compute())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric))])
def test_copies_go_on(made, copied):
    make, batch = made
    batches = [batch() for _ in range(2)]
    original = of(make, batches[:1])
    other = copied(original)
    other.update(*batches[1])
    assert_equal(other.compute(), of(make, batches).compute())
    assert_equal(original.compute(), of(make, batches[:1]).compute())


def test_state_dict(made):
    make, batch = made
    batches = [batch() for _ in range(2)]
    original, restored = of(make, batches[:1]), make()
    assert not original.state_dict()
    original.persistent(True)
    file = io.BytesIO()
    torch.save({"model": torch.nn.ModuleList([original]).state_dict()}, file)
    file.seek(0)
    restored.persistent(True)
    torch.nn.ModuleList([restored]).load_state_dict(torch.load(file)["model"])
    restored.update(*batches[1])
    assert_equal(restored.compute(), of(make, batches).compute())


def test_memory_does_not_grow(made):
    make, batch = made
    metric = of(make, [batch(1)])
    before = state_bytes(metric)
    for samples in (1, 50, 500):
        metric.update(*batch(samples))
    assert state_bytes(metric) == before
    assert all(isinstance(state, torch.Tensor) for state in metric.metric_state.values())


def test_counts_are_integers(made):
    metric = made[0]()
    names = {name.partition("[")[0] for name, state in metric.metric_state.items() if state.dtype != torch.int64}
    assert names <= {"sums"}


def test_moves_with_its_module(made):
    metric = torch.nn.ModuleList([made[0]()]).to("meta")[0]
    assert all(state.is_meta for state in metric.metric_state.values())
    assert metric.device.type == "meta"


def test_half_precision_of_a_module_leaves_counts_alone(made):
    make, batch = made
    metric, each = make(), batch()
    before = {name: state.dtype for name, state in metric.metric_state.items()}
    torch.nn.ModuleList([metric]).half()
    assert {name: state.dtype for name, state in metric.metric_state.items()} == before
    metric.update(*each)
    assert_equal(metric.compute(), of(make, [each]).compute())


def test_refused_batch_changes_nothing(made):
    make, batch = made
    each = batch()
    metric = of(make, [each])
    with pytest.raises(ValueError, match="target: "):
        metric.update(each[0], each[1] + 7)
    metric._computed = None
    assert_equal(metric.compute(), of(make, [each]).compute())


def test_warns_before_the_first_batch(made):
    with pytest.warns(UserWarning, match="before the ``update``"):
        made[0]().compute()


def test_attributes(made):
    metric = made[0]()
    assert (metric.full_state_update, metric.is_differentiable) == (False, False)


class Loop:
    """What Lightning's loops do with a metric that a module logs."""

    def __init__(self, metric):
        self.metric = metric

    def epoch(self, batches):
        for batch in batches:
            self.metric(*batch)
        value = self.metric.compute()
        self.metric.reset()
        return value


def test_epochs(made):
    make, batch = made
    loop = Loop(make())
    for _ in range(2):
        batches = [batch() for _ in range(2)]
        assert_equal(loop.epoch(batches), of(make, batches).compute())


def test_one_figure_of_all_classes_is_a_number_to_log():
    value = of(lambda: metrics.SegmentationScores(CLASSES, figures="dice", average="macro"), [label_maps()]).compute()
    assert value.shape == ()
    single = of(lambda: metrics.DiagnosticScores(1, threshold=0.5), [findings(tasks=1)]).compute()
    assert {each.shape for each in single.values()} == {()}


# --- Collections ---


def collection(**members):
    return MetricCollection(members, compute_groups=True)


def test_equal_counts_are_shared():
    both = collection(
        matrix=metrics.ConfusionMatrix(CLASSES),
        rates=metrics.ConfusionMatrix(CLASSES, normalize="all"),
        scores=metrics.SegmentationScores(CLASSES, figures="dice", pool="all"),
    )
    batches = [label_maps() for _ in range(2)]
    for batch in batches:
        both.update(*batch)
    assert both.compute_groups == {0: ["matrix", "rates", "scores"]}
    matrix = of(METRICS["confusion"][0], batches).compute()
    assert_equal(both.compute()["matrix"], matrix)
    assert_equal(both.compute()["rates"], matrix.double() / matrix.sum())


def test_what_is_counted_otherwise_is_never_shared():
    """Without an ignored label in the first batch, both metrics hold the same counts."""
    both = collection(all=metrics.ConfusionMatrix(2), known=metrics.ConfusionMatrix(2, ignore_index=0))
    ones = torch.ones(1, 3, 4, dtype=torch.int64)
    first, second = (ones, ones), (ones, 1 - ones)
    both.update(*first)
    assert len(both.compute_groups) == 2
    both.update(*second)
    assert_equal(both.compute(), {"all": torch.tensor([[0, 12], [0, 12]]), "known": torch.tensor([[0, 0], [0, 12]])})


def test_states_of_other_options_do_not_merge():
    one, other = (of(lambda each=each: metrics.ConfusionMatrix(3, threshold=each), [findings()]) for each in (0.5, 0.6))
    with pytest.raises(ValueError, match=r"threshold=0\.5"):
        one.merge_state(other)


# --- Values ---


@pytest.mark.parametrize("normalize", [None, "true", "pred", "all"])
def test_confusion_matrix(normalize):
    batches = [label_maps() for _ in range(3)]
    matrix = of(lambda: metrics.ConfusionMatrix(CLASSES, normalize=normalize, empty="zero"), batches).compute()
    prediction, target = (torch.cat([each.flatten() for each in maps]) for maps in zip(*batches, strict=True))
    expected = sklearn.confusion_matrix(target, prediction, labels=range(CLASSES), normalize=normalize)
    np.testing.assert_allclose(matrix, expected, rtol=1e-14)
    assert matrix.dtype == (torch.int64 if normalize is None else torch.float64)


def test_confusion_matrix_of_logits_and_mask():
    logits, labels = torch.randn(3, CLASSES, 5, 6), label_maps()[1]
    mask = torch.rand(3, 5, 6) < 0.5
    matrix = of(lambda: metrics.ConfusionMatrix(CLASSES), [(logits, labels, mask)]).compute()
    expected = sklearn.confusion_matrix(labels[mask], logits.argmax(1)[mask], labels=range(CLASSES))
    np.testing.assert_array_equal(matrix, expected)


def test_confusion_matrix_of_labels():
    scores, labels = torch.rand(40, 3), torch.randint(2, (40, 3))
    thresholds = torch.tensor([0.2, 0.5, 0.8])
    matrix = of(lambda: metrics.ConfusionMatrix(3, threshold=thresholds), [(scores, labels)]).compute()
    np.testing.assert_array_equal(matrix, sklearn.multilabel_confusion_matrix(labels, scores > thresholds))


@pytest.mark.parametrize("empty", ["nan", "zero", "one", "skip"])
@pytest.mark.parametrize("average", ["none", "macro"])
@pytest.mark.parametrize("pool", ["sample", "all"])
def test_segmentation_scores(pool, average, empty):
    batches = [label_maps(samples) for samples in (2, 4)]
    batches[0][0][0] = batches[0][1][0] = 0
    options = {"pool": pool, "average": average, "empty": empty, "include_background": False, "figures": "dice"}
    actual = of(lambda: metrics.SegmentationScores(CLASSES, **options), batches).compute()
    counts = torch.cat([confusion_counts(*batch, CLASSES) for batch in batches])
    _, fp, fn, tp = one_versus_rest(counts.sum(0, keepdim=True) if pool == "all" else counts)
    cases = (2 * tp / (2 * tp + fp + fn)).numpy()[:, 1:]
    value = {"zero": 0.0, "one": 1.0}.get(empty, np.nan)
    mean = np.nanmean if empty == "skip" else np.mean
    expected = mean(np.where(np.isnan(cases), value, cases), axis=0)
    np.testing.assert_allclose(actual, mean(expected) if average == "macro" else expected, rtol=1e-12)


def test_dice_is_that_of_torchmetrics():
    batches = [label_maps() for _ in range(3)]
    theirs = DiceScore(CLASSES, average="none", input_format="index", include_background=False)
    for batch in batches:
        theirs.update(*batch)
    options = {"figures": ("dice",), "include_background": False}
    actual = of(lambda: metrics.SegmentationScores(CLASSES, **options), batches).compute()
    torch.testing.assert_close(actual["dice"].float(), theirs.compute())


def test_scores_of_overlapping_regions():
    logits, target = torch.randn(4, 3, 5, 6), torch.randint(2, (4, 3, 5, 6))
    options = {"threshold": 0.0, "figures": ("sensitivity", "iou"), "pool": "all"}
    actual = of(lambda: metrics.SegmentationScores(3, **options), [(logits, target)]).compute()
    found, there = ((each > 0).transpose(0, 1).flatten(1) for each in (logits, target))
    expected = [sklearn.jaccard_score(*each) for each in zip(there, found, strict=True)]
    np.testing.assert_allclose(actual["iou"], expected)
    np.testing.assert_allclose(
        actual["sensitivity"], [sklearn.recall_score(*each) for each in zip(there, found, strict=True)]
    )


@pytest.mark.parametrize("method", ["wilson", "clopper-pearson"])
def test_diagnostic_scores(method):
    scores, labels = findings()
    make = lambda: metrics.DiagnosticScores(3, threshold=0.4, level=0.9, method=method)  # noqa: E731
    actual = of(make, [(scores[:10], labels[:10]), (scores[10:], labels[10:])]).compute()
    table = fourfold(confusion_counts(scores, labels, 3, threshold=0.4, pool="batch"))
    for task in range(3):
        known = ~labels[:, task].isnan()
        truth, found = labels[known, task], scores[known, task] > 0.4
        assert actual["sensitivity"][task].item() == pytest.approx(sklearn.recall_score(truth, found))
        assert actual["ppv"][task].item() == pytest.approx(sklearn.precision_score(truth, found))
        assert actual["accuracy"][task].item() == pytest.approx(sklearn.accuracy_score(truth, found))
    interval = proportion_interval(table.tn, table.tn + table.fp, 0.9, method)
    torch.testing.assert_close(actual["specificity_lower"], interval.lower)
    torch.testing.assert_close(actual["specificity_upper"], interval.upper)


def test_diagnostic_scores_of_exclusive_classes():
    logits, labels = torch.randn(50, CLASSES), torch.randint(CLASSES, (50,))
    actual = of(lambda: metrics.DiagnosticScores(CLASSES, threshold=None, figures=["f1"]), [(logits, labels)]).compute()
    np.testing.assert_allclose(actual["f1"], sklearn.f1_score(labels, logits.argmax(1), average=None))


def test_without_a_level_there_are_no_intervals():
    metric = of(lambda: metrics.DiagnosticScores(3, threshold=0.5, level=None), [findings()])
    assert set(metric.compute()) == set(metric.figures)
    assert not metric.scores().intervals


def test_reports():
    diagnostic = of(METRICS["diagnostic"][0], [findings()])
    frame = diagnostic.scores(("effusion", "nodule", "mass")).to_frame()
    assert list(frame.index) == ["effusion", "nodule", "mass"]
    assert frame["ppv lower"].tolist() == pytest.approx(diagnostic.compute()["ppv_lower"].tolist())
    segmentation = of(lambda: metrics.SegmentationScores(CLASSES, include_background=False), [label_maps()])
    assert list(segmentation.scores().to_frame().index) == ["1", "2", "3"]
    averaged = of(lambda: metrics.SegmentationScores(CLASSES, figures="dice", average="macro"), [label_maps()])
    assert list(averaged.scores().to_frame().index) == ["mean"]
    shown = io.StringIO()
    rich.print(averaged.scores(("foreground",)), file=shown)
    assert "foreground" in shown.getvalue()


# --- Bad options ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: metrics.ConfusionMatrix(1), "num_classes: got 1"),
        (lambda: metrics.ConfusionMatrix(0, threshold=0.5), "num_classes: got 0"),
        (lambda: metrics.ConfusionMatrix(3, normalize="rows"), "normalize: got 'rows'"),
        (lambda: metrics.ConfusionMatrix(3, threshold=[0.1, 0.2]), "threshold: got 2 values"),
        (lambda: metrics.ConfusionMatrix(3, empty=0), "empty: got 0"),
        (lambda: metrics.SegmentationScores(3, figures="dices"), "figures: got 'dices'"),
        (lambda: metrics.SegmentationScores(3, figures=()), "figures: got none"),
        (lambda: metrics.SegmentationScores(3, pool="batch"), "pool: got 'batch'"),
        (lambda: metrics.SegmentationScores(3, average="micro"), "average: got 'micro'"),
        (lambda: metrics.SegmentationScores(1, threshold=0.5, include_background=False), "include_background"),
        (lambda: metrics.DiagnosticScores(3, threshold=0.5, level=95), "level: got 95"),
        (lambda: metrics.DiagnosticScores(3, threshold=0.5, method="wald"), "method: got 'wald'"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- Import ---


def test_import_brings_no_torchmetrics():
    script = "import sys; import fastmed.metrics; print('torchmetrics' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False"


def test_use_without_torchmetrics_names_the_extra():
    script = """
import sys
sys.modules["torchmetrics"] = None
import fastmed.metrics
try:
    fastmed.metrics.AUROC
except ImportError as error:
    print(error)
"""
    message = subprocess.check_output([sys.executable, "-c", script], text=True).strip()
    assert message == "fastmed.metrics.AUROC needs torchmetrics: pip install 'fastmed[metrics]'"


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Accuracy'"):
        metrics.Accuracy  # noqa: B018
    assert set(metrics.__all__) <= set(dir(metrics))
