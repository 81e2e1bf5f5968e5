"""The drop-ins for torchmetrics beside torchmetrics."""

from __future__ import annotations

import pickle
import re
import warnings

import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics import classification as peer

from fastmed.compat import torchmetrics as ours

CLASSES, LABELS = 5, 3
RATES = ["StatScores", "Accuracy", "Precision", "Recall", "Specificity", "FBetaScore", "F1Score", "HammingDistance"]
MATRICES = ["ConfusionMatrix", "JaccardIndex", "CohenKappa", "MatthewsCorrCoef"]
CURVES = ["PrecisionRecallCurve", "ROC", "AUROC", "AveragePrecision"]
OPTIONS = {
    "Binary": {},
    "Multiclass": {"num_classes": CLASSES},
    "Multilabel": {"num_labels": LABELS},
}


def required(name):
    return {"beta": 0.5} if "FBeta" in name else {}


def pair(name, **options):
    """The drop-in and its peer; without an argument named task, the class of the name."""
    options = required(name) | options
    return getattr(ours, name)(**options), getattr(peer, name)(**options)


def labels(high, shape, ignored):
    target = torch.randint(high, shape)
    return target if ignored is None else target.masked_fill(torch.rand(shape) < 0.2, ignored)


def batch(kind, scores, shape=(6, 7), ignored=None):
    """Predictions and targets of one kind of task; scores are probabilities, logits or already labels."""
    if kind == "Multiclass":
        target = labels(CLASSES, shape, ignored)
        if scores == "labels":
            return torch.randint(CLASSES, shape), target
        logits = torch.randn(shape[0], CLASSES, *shape[1:])
        return (logits.softmax(1) if scores == "probabilities" else 3.0 * logits), target
    shape = (shape[0], LABELS, *shape[1:]) if kind == "Multilabel" else shape
    target = labels(2, shape, ignored)
    if scores == "labels":
        return torch.randint(2, shape), target
    return (torch.rand(shape) if scores == "probabilities" else 3.0 * torch.randn(shape)), target


def assert_same(actual, expected, rtol=0.0):
    """Equal in dtype and shape, and in every bit unless there is a tolerance."""
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol / 10.0, equal_nan=True)
    else:
        assert type(actual) is type(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other, rtol)


def assert_agree(mine, theirs, batches, rtol=0.0):
    with warnings.catch_warnings():
        # Both warn of classes that do not occur.
        warnings.simplefilter("ignore", UserWarning)
        for preds, target in batches:
            assert_same(mine(preds, target), theirs(preds, target), rtol)
        assert_same(mine.compute(), theirs.compute(), rtol)


@pytest.fixture
def _no_way_back(monkeypatch):
    """What is counted by torchmetrics' way after all fails the test."""
    for kind in OPTIONS:
        for family in ("StatScores", "ConfusionMatrix", "PrecisionRecallCurve"):
            theirs = getattr(peer, kind + family)

            def update(self, preds, target, theirs=theirs.update):
                assert type(self).__module__.startswith("torchmetrics")
                theirs(self, preds, target)

            monkeypatch.setattr(theirs, "update", update)


COUNTED = [kind + name for name in RATES + MATRICES for kind in OPTIONS if kind + name != "MultilabelCohenKappa"]


def kind_of(name):
    return next(kind for kind in OPTIONS if name.startswith(kind))


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("ignored", [None, 1, -1])
@pytest.mark.parametrize("scores", ["labels", "probabilities", "logits"])
@pytest.mark.parametrize("name", COUNTED)
def test_counts(name, scores, ignored):
    kind = kind_of(name)
    mine, theirs = pair(name, **OPTIONS[kind], ignore_index=ignored)
    assert_agree(mine, theirs, [batch(kind, scores, shape, ignored) for shape in [(6, 7), (20,), (2, 3, 4)]])


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("average", ["micro", "macro", "weighted", "none"])
@pytest.mark.parametrize("multidim", ["global", "samplewise"])
@pytest.mark.parametrize("name", [kind + name for name in RATES for kind in ("Multiclass", "Multilabel")])
def test_averages_and_samples(name, multidim, average):
    kind = kind_of(name)
    options = {"average": average, "multidim_average": multidim, "ignore_index": 0}
    mine, theirs = pair(name, **OPTIONS[kind], **options)
    assert_agree(mine, theirs, [batch(kind, "logits", (4, 9), 0), batch(kind, "labels", (3, 2, 5), 0)])


@pytest.mark.parametrize("name", ["BinaryStatScores", "BinaryF1Score"])
def test_binary_samples(name):
    mine, theirs = pair(name, multidim_average="samplewise", threshold=0.3, ignore_index=-1)
    assert_agree(mine, theirs, [batch("Binary", "probabilities", (4, 9), -1), batch("Binary", "logits", (3, 2, 5), -1)])


@pytest.mark.parametrize("normalize", ["true", "pred", "all", "none"])
@pytest.mark.parametrize("name", [name for name in COUNTED if name.endswith("ConfusionMatrix")])
def test_normalized_matrices(name, normalize):
    kind = kind_of(name)
    mine, theirs = pair(name, **OPTIONS[kind], normalize=normalize)
    assert_agree(mine, theirs, [batch(kind, "labels")])


def test_logits_are_told_from_what_is_not_ignored():
    """A score of 7 where the target is ignored leaves the other scores probabilities, for a confusion matrix alone."""
    preds, target = torch.tensor([0.2, 7.0, 0.4, 0.9]), torch.tensor([0, -1, 1, 1])
    for name in ("BinaryConfusionMatrix", "BinaryStatScores"):
        assert_agree(*pair(name, ignore_index=-1), [(preds, target)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["BinaryAccuracy", "MulticlassAccuracy", "MultilabelAccuracy"])
def test_dtypes_of_scores(name, dtype):
    kind = kind_of(name)
    preds, target = batch(kind, "probabilities")
    assert_agree(*pair(name, **OPTIONS[kind]), [(preds.to(dtype), target.to(torch.uint8))])


@pytest.mark.parametrize("top_k", [2, 3])
def test_top_k_is_counted_by_torchmetrics(top_k):
    options = {"num_classes": CLASSES, "top_k": top_k, "average": "none"}
    assert_agree(*pair("MulticlassAccuracy", **options), [batch("Multiclass", "logits", (30,))])


@pytest.mark.parametrize("name", [name for name in COUNTED if name.endswith(("Accuracy", "ConfusionMatrix"))])
def test_labels_of_a_floating_dtype(name):
    kind = kind_of(name)
    preds, target = batch(kind, "labels")
    assert_agree(*pair(name, **OPTIONS[kind]), [(preds, target.float())])


@pytest.mark.usefixtures("_no_way_back")
@pytest.mark.parametrize("ignored", [None, 1, -1])
@pytest.mark.parametrize("thresholds", [51, [0.1, 0.7, 0.4], torch.tensor([0.0, 0.25, 0.5, 1.0])], ids=str)
@pytest.mark.parametrize("scores", ["probabilities", "logits"])
@pytest.mark.parametrize("name", [kind + "PrecisionRecallCurve" for kind in OPTIONS])
def test_curves_at_thresholds(name, scores, thresholds, ignored):
    kind = kind_of(name)
    mine, theirs = pair(name, **OPTIONS[kind], thresholds=thresholds, ignore_index=ignored)
    batches = [batch(kind, scores, shape, ignored) for shape in [(30, 7), (20,), (2, 3, 4)]]
    # Scores that lie on thresholds, where one step of rounding would show.
    batches[0] = ((batches[0][0] * 50.0).round() / 50.0, batches[0][1])
    assert_agree(mine, theirs, batches)


@pytest.mark.parametrize("thresholds", [None, 21])
@pytest.mark.parametrize("name", [kind + name for name in CURVES[1:] for kind in OPTIONS])
def test_curves(name, thresholds):
    kind = kind_of(name)
    mine, theirs = pair(name, **OPTIONS[kind], thresholds=thresholds, ignore_index=-1)
    rtol = 1e-6 if name.endswith("AUROC") and thresholds is None else 0.0
    assert_agree(mine, theirs, [batch(kind, "logits", shape, -1) for shape in [(40,), (10, 7)]], rtol)


@pytest.mark.parametrize("average", ["micro", "macro", "weighted", "none"])
@pytest.mark.parametrize("name", ["MulticlassAUROC", "MultilabelAUROC"])
def test_exact_area(name, average):
    kind = kind_of(name)
    if kind == "Multiclass" and average == "micro":
        average = None
    mine, theirs = pair(name, **OPTIONS[kind], average=average, ignore_index=-1)
    preds, target = batch(kind, "probabilities", (60,), -1)
    assert_agree(mine, theirs, [((preds * 9.0).round() / 9.0, target)], 1e-6)


@pytest.mark.parametrize("max_fpr", [None, 0.3])
def test_area_of_one_class_alone(max_fpr):
    preds = torch.rand(20)
    for target in (torch.zeros(20, dtype=torch.int64), torch.ones(20, dtype=torch.int64), torch.arange(20) % 2):
        assert_agree(*pair("BinaryAUROC", max_fpr=max_fpr), [(preds, target)], 1e-6)


@pytest.mark.parametrize("name", ["BinaryROC", "MulticlassROC", "MultilabelROC"])
def test_scores_of_nan_reach_no_threshold(name):
    kind = kind_of(name)
    preds, target = batch(kind, "probabilities", (50,))
    preds.view(-1)[::7] = torch.nan
    mine, theirs = pair(name, **OPTIONS[kind], thresholds=11)
    theirs.normalization = mine.normalization = None
    assert_agree(mine, theirs, [(preds, target)])


@pytest.mark.parametrize("name", RATES + MATRICES + CURVES)
@pytest.mark.parametrize("kind", OPTIONS)
def test_task(name, kind):
    if kind + name == "MultilabelCohenKappa":
        with pytest.raises(ValueError, match="multilabel"):
            getattr(ours, name)(task="multilabel")
        return
    options = required(name) | OPTIONS[kind]
    metric = getattr(ours, name)(task=kind.lower(), **options)
    assert type(metric) is getattr(ours, kind + name)
    assert_agree(metric, getattr(peer, name)(kind.lower(), **options), [batch(kind, "probabilities")], 1e-6)


@pytest.mark.parametrize(
    ("name", "preds", "target"),
    [
        ("BinaryAccuracy", torch.rand(4), torch.tensor([0, 1, 2, 0])),
        ("BinaryAccuracy", torch.tensor([0, 1, 3, 0]), torch.tensor([0, 1, 1, 0])),
        ("BinaryConfusionMatrix", torch.rand(4), torch.randint(2, (5,))),
        ("BinaryROC", torch.rand(4), torch.rand(4)),
        ("MulticlassAccuracy", torch.rand(4, CLASSES + 1), torch.randint(CLASSES, (4,))),
        ("MulticlassAccuracy", torch.rand(4), torch.randint(CLASSES, (3,))),
        ("MulticlassConfusionMatrix", torch.arange(9), torch.arange(9)),
        ("MulticlassROC", torch.rand(4, CLASSES), torch.arange(4) + 3),
        ("MultilabelAccuracy", torch.rand(4, LABELS + 1), torch.randint(2, (4, LABELS + 1))),
        ("MultilabelF1Score", torch.rand(4, LABELS), torch.full((4, LABELS), -1)),
        ("MultilabelROC", torch.rand(4, LABELS), torch.full((4, LABELS), 2)),
    ],
)
def test_errors_are_those_of_torchmetrics(name, preds, target):
    options = OPTIONS[kind_of(name)] | ({"thresholds": 5} if name.endswith("ROC") else {})
    mine, theirs = pair(name, **options)
    with pytest.raises((RuntimeError, ValueError)) as expected:
        theirs.update(preds, target)
    with pytest.raises(expected.type, match=re.escape(str(expected.value))):
        mine.update(preds, target)


@pytest.mark.parametrize("name", ["MulticlassAccuracy", "MulticlassConfusionMatrix", "MulticlassAUROC"])
def test_pickle_and_collection(name):
    preds, target = batch("Multiclass", "logits")
    mine, theirs = pair(name, **OPTIONS["Multiclass"])
    mine.update(preds, target)
    theirs.update(preds, target)
    restored = pickle.loads(pickle.dumps(mine))
    restored.update(preds, target)
    theirs.update(preds, target)
    assert_same(restored.compute(), theirs.compute(), 1e-6)
    collection = MetricCollection({"a": ours.Recall(task="binary"), "b": ours.Precision(task="binary")})
    preds, target = batch("Binary", "logits")
    collection.update(preds, target)
    assert len(collection.compute_groups) == 1
    assert_same(collection.compute()["b"], peer.BinaryPrecision()(preds, target))
