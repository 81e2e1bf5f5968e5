"""Stateful metrics: their values, and what torchmetrics and Lightning do with a metric."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import warnings

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
    "roc": (lambda: metrics.ROC(3, bins=20), findings),
    "auroc": (lambda: metrics.AUROC(3), findings),
    "auroc_of_logits": (lambda: metrics.AUROC(3, activation="sigmoid", limits=(0.5, 0.75), average="macro"), findings),
    "calibration": (lambda: metrics.CalibrationError(3), findings),
    "calibration_worst": (lambda: metrics.CalibrationError(3, norm="max", groups=5, average="macro"), findings),
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
    one, other, empty = of(make, batches[:1]), of(make, batches[1:]), make()
    one.compute()  # a value that must not be returned again
    for merged in (one, empty):
        merged.merge_state(other)
    assert_equal(one.compute(), of(make, batches).compute())
    assert_equal(empty.compute(), other.compute())


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


def test_areas_of_torchmetrics_and_of_scikit_learn():
    from torchmetrics.classification import MultilabelAUROC

    scores, labels = torch.rand(300, 3), torch.randint(2, (300, 3))
    metric, peer = metrics.AUROC(3, bins=50, with_bound=True), MultilabelAUROC(3, average=None, thresholds=51)
    for batch in (slice(100), slice(100, 300)):
        metric.update(scores[batch], labels[batch])
        peer.update(scores[batch], labels[batch])
    area = metric.compute()
    torch.testing.assert_close(area.value, peer.compute().double(), rtol=1e-5, atol=0.0)
    exact = [sklearn.roc_auc_score(labels[:, task], scores[:, task]) for task in range(3)]
    assert (np.abs(area.value.numpy() - exact) <= area.bound.numpy()).all()
    assert torch.equal(area.bound, metrics.functional.auroc(metric.histogram).bound)


def logits_and_labels(samples=4000, prevalence=0.3):
    labels = (torch.rand(samples, 1) < prevalence).long()
    return 2.0 * torch.randn(samples, 1) + 3.0 * labels + torch.logit(torch.tensor(prevalence)), labels


@pytest.mark.parametrize("spacing", ["uniform", "logit"])
@pytest.mark.parametrize("kind", [metrics.AUROC, metrics.CalibrationError, metrics.ROC])
def test_logits_without_their_activation(kind, spacing):
    logits, labels = logits_and_labels()
    metric = kind(1, spacing=spacing)
    metric.update(logits, labels)
    outside = int(((logits < 0) | (logits > 1)).sum())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metric.compute()
    message = str(caught[0].message)
    assert message.startswith(f"scores: {outside} of 4000 lie outside the limits of the bins, ")
    assert "activation='sigmoid'" in message


def test_logits_with_their_activation():
    logits, labels = logits_and_labels()
    area = metrics.AUROC(1, activation="sigmoid")
    area.update(logits, labels)
    assert area.compute().item() == pytest.approx(sklearn.roc_auc_score(labels, logits), abs=2e-3)


def test_a_rare_finding():
    logits, labels = logits_and_labels(100_000, 0.0026)
    logits -= 2.0
    exact = sklearn.roc_auc_score(labels, logits)
    values = {}
    for spacing in ("uniform", "logit"):
        metric = metrics.AUROC(1, activation="sigmoid", spacing=spacing, with_bound=True)
        metric.update(logits, labels)
        values[spacing] = metric.compute()
        assert abs(values[spacing].value.item() - exact) <= values[spacing].bound.item()
    assert values["uniform"].bound.item() > 0.01
    assert values["logit"].bound.item() < 0.002
    metric = metrics.AUROC(1, activation="sigmoid")
    metric.update(logits, labels)
    with pytest.warns(UserWarning, match="moved the value of a task by more than 0.01; spacing='logit' or more bins"):
        metric.compute()


def test_bounds_of_a_calibration_error():
    scores, labels = torch.rand(300, 3), torch.randint(2, (300, 3))
    metric = metrics.CalibrationError(3, bins=100, average="macro", with_bound=True)
    error = metric(scores, labels)
    assert error.bound.item() == pytest.approx(0.005)
    assert error.value.ndim == error.bound.ndim == 0


@pytest.mark.parametrize(("empty", "value"), [("nan", torch.nan), ("skip", torch.nan), ("zero", 0.0), ("one", 1.0)])
@pytest.mark.parametrize("kind", [metrics.AUROC, metrics.CalibrationError])
def test_a_task_without_labels(kind, empty, value):
    scores, labels = torch.rand(200, 2), torch.randint(2, (200, 2)).float()
    labels[:, 1] = torch.nan
    metric, mean = kind(2, empty=empty, with_bound=True), kind(2, empty=empty, average="macro")
    (values, bounds), of_both = metric(scores, labels), mean(scores, labels)
    assert values[1].item() == pytest.approx(value, nan_ok=True)
    assert bounds[1].item() == pytest.approx(0.0 * value, nan_ok=True)
    expected = values[0] if empty == "skip" else values.mean()
    assert of_both.item() == pytest.approx(expected.item(), nan_ok=True)


def test_conventions_of_monai_for_empty_classes():
    """A class in neither map, and one in the prediction alone."""
    from monai.metrics import DiceMetric
    from monai.networks.utils import one_hot

    from fastmed.compat import monai

    predicted, true = torch.tensor([[[0, 0, 1, 1]], [[0, 2, 1, 1]]]), torch.tensor([[[0, 0, 1, 1]], [[0, 0, 1, 1]]])
    maps = [one_hot(labels, 3) for labels in (predicted, true)]
    theirs = {ignore_empty: DiceMetric(ignore_empty=ignore_empty) for ignore_empty in (False, True)}
    values = {ignore_empty: metric(*maps).mean(0) for ignore_empty, metric in theirs.items()}
    counted = metrics.SegmentationScores(3, figures="dice", empty="one")
    torch.testing.assert_close(counted(predicted[:, 0], true[:, 0]).float(), values[False])
    skipped = metrics.SegmentationScores(3, figures="dice")(predicted[:, 0], true[:, 0])
    assert (skipped[2].item(), values[True][2].isnan().item()) == (0.0, True)
    dice = monai.DiceMetric()(*maps)
    torch.testing.assert_close(dice.mean(0), values[True], equal_nan=True)


def test_a_curve_without_positives():
    metric = metrics.ROC(1, bins=4, empty="zero")
    assert metric(torch.rand(9, 1), torch.zeros(9, 1)).tpr.tolist() == [[0.0] * 7]


def test_a_curve_of_torchmetrics():
    from torchmetrics.functional.classification import binary_roc

    scores, labels = torch.rand(200), torch.randint(2, (200,))
    metric = metrics.ROC(1, bins=16)
    metric.update(scores[:, None], labels[:, None])
    curve = metric.compute()
    fpr, tpr, thresholds = binary_roc(scores, labels, thresholds=curve.thresholds[1:-1].float().flip(0))
    assert thresholds.shape == (17,)
    torch.testing.assert_close(curve.fpr[0, 1:-1], fpr.double(), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(curve.tpr[0, 1:-1], tpr.double(), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(("norm", "theirs"), [("mean", "l1"), ("max", "max")])
def test_calibration_error_of_torchmetrics(norm, theirs):
    from torchmetrics.classification import BinaryCalibrationError

    # Centres of fine bins, on which binning loses nothing.
    scores, labels = (torch.randint(1000, (500,)) + 0.5) / 1000, torch.randint(2, (500,))
    metric, peer = metrics.CalibrationError(1, norm=norm, groups=10), BinaryCalibrationError(10, norm=theirs)
    metric.update(scores[:, None], labels[:, None])
    peer.update(scores, labels)
    # torchmetrics measures the confidence in the positive class, as this metric does.
    torch.testing.assert_close(metric.compute().squeeze(), peer.compute().double(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: metrics.AUROC(0), "num_tasks: got 0"),
        (lambda: metrics.AUROC(1, bins=0), "bins: got 0"),
        (lambda: metrics.AUROC(1, average="micro"), "average: got 'micro'"),
        (lambda: metrics.AUROC(1, empty="two"), "empty: got 'two'"),
        (lambda: metrics.ROC(1, empty="two"), "empty: got 'two'"),
        (lambda: metrics.ROC(1, limits=(1.0, 0.0)), "limits: got"),
        (lambda: metrics.CalibrationError(1, groups=0), "groups: got 0"),
        (lambda: metrics.CalibrationError(1, norm="l2"), "norm: got 'l2'"),
    ],
)
def test_metrics_of_scores_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()
