"""Metrics over a process group: ranks with unequal numbers of batches against one process with all of them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from ranks import Ranks
from torch import distributed
from torchmetrics import MetricCollection
from torchmetrics import classification as peer

from fastmed import metrics
from fastmed.compat import monai
from fastmed.compat import torchmetrics as drop_ins

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="torch without torch.distributed")

_CLASSES = 3
# Numbers of batches of the ranks.
_SPLITS = [(1, 3), (2, 0), (0, 3, 1, 2)]


def _batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of its own size: logits and labels."""
    generator = torch.Generator().manual_seed(number)
    shape = (number + 1, 6, 5)
    logits = torch.randn(shape[0], _CLASSES, *shape[1:], generator=generator)
    return logits, torch.randint(_CLASSES, shape, generator=generator)


def _findings(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    logits, labels = _batch(number)
    return logits.sigmoid(), torch.nn.functional.one_hot(labels, _CLASSES).movedim(-1, 1)


def _of_labels() -> dict[str, Any]:
    return {
        "matrix": metrics.ConfusionMatrix(_CLASSES),
        "pooled": metrics.SegmentationScores(_CLASSES, pool="all", figures="dice"),
        "cases": metrics.SegmentationScores(_CLASSES, figures="dice"),
    }


def _of_findings() -> dict[str, Any]:
    return {"diagnostic": metrics.DiagnosticScores(_CLASSES, threshold=0.5)}


def _of_scores() -> dict[str, Any]:
    return {
        "roc": metrics.ROC(_CLASSES, bins=20),
        "area": metrics.AUROC(_CLASSES),
        "mean_area": metrics.AUROC(_CLASSES, spacing="logit", average="macro"),
        "calibration": metrics.CalibrationError(_CLASSES),
        "worst": metrics.CalibrationError(_CLASSES, norm="max", groups=5),
    }


def _collections() -> list[tuple[MetricCollection, Any]]:
    """Metrics that share a batch, and what makes their batches."""
    findings = _of_findings() | _of_scores()
    return [(MetricCollection(_of_labels()), _batch), (MetricCollection(findings), _findings)]


def _computed(batches: range, more: range) -> list[dict[str, Any]]:
    """Values of the batches, and then of more: compute leaves each rank its own counts, so that it can go on."""
    values = []
    for metric, batch in _collections():
        for part in (batches, more):
            for number in part:
                metric.update(*batch(number))
            values.append({name: _arrays(value) for name, value in metric.compute().items()})
    return values


def _arrays(value: Any) -> list[Any]:
    """The tensors of a value, those of a curve one after another, as arrays that outlive their process."""
    return (
        [value.numpy().copy()]
        if isinstance(value, torch.Tensor)
        else [array for part in value for array in _arrays(part)]
    )


def _dice(batches: range) -> float:
    metric = monai.DiceMetric(num_classes=_CLASSES)
    for number in batches:
        logits, labels = _batch(number)
        metric(logits.argmax(1, keepdim=True), labels.unsqueeze(1))
    value: float = metric.aggregate().item()
    return value


def _share(rank: int, split: tuple[int, ...]) -> tuple[list[dict[str, Any]], float | None]:
    start, more = sum(split[:rank]), sum(split) + rank
    own = range(start, start + split[rank])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return _computed(own, range(more, more + 1)), _dice(own) if all(split) else None


@pytest.mark.parametrize("split", _SPLITS, ids=str)
def test_unequal_numbers_of_batches(split: tuple[int, ...], request: pytest.FixtureRequest) -> None:
    batches = sum(split)
    expected = _computed(range(batches), range(batches, batches + len(split)))
    ranks: Ranks = request.getfixturevalue({2: "two", 4: "four"}[len(split)])
    results = ranks(_share, split)
    for values, dice in results:
        for value, whole in zip(values, expected, strict=True):
            assert value.keys() == whole.keys()
            for name in whole:
                for one, other in zip(value[name], whole[name], strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-12, err_msg=name)
        if dice is not None:
            assert dice == pytest.approx(_dice(range(batches)), rel=1e-6)


_CURVES = [
    kind + figure for kind in ("Binary", "Multiclass", "Multilabel") for figure in ("AUROC", "AveragePrecision", "ROC")
]


def _curve_batch(kind: str, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    logits, labels = _batch(number)
    if kind == "Binary":
        return logits[:, 0].sigmoid(), (labels == 0).long()
    return (logits.softmax(1), labels) if kind == "Multiclass" else _findings(number)


def _drop_in_and_peer(rank: int, split: tuple[int, ...], thresholds: int | None) -> list[tuple[str, Any, Any]]:
    """The values of each pair on this rank, which synchronises with the others."""
    start = sum(split[:rank])
    found = []
    for name in _CURVES:
        kind = next(kind for kind in ("Binary", "Multiclass", "Multilabel") if name.startswith(kind))
        classes = {"Binary": {}, "Multiclass": {"num_classes": _CLASSES}, "Multilabel": {"num_labels": _CLASSES}}[kind]
        values = []
        for library in (drop_ins, peer):
            metric = getattr(library, name)(**classes, thresholds=thresholds)
            for number in range(start, start + split[rank]):
                metric.update(*_curve_batch(kind, number))
            metric.compute()
            metric._computed = None  # once more, from what the rank has again of its own
            values.append(_arrays(metric.compute()))
        found.append((name, *values))
    return found


@pytest.mark.parametrize("thresholds", [None, 20])
def test_drop_ins_for_curves(thresholds: int | None, two: Ranks) -> None:
    """The scores of all ranks, which a synchronisation leaves as one tensor in place of a list."""
    for found in two(_drop_in_and_peer, (1, 3), thresholds):
        for name, ours, theirs in found:
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-6, err_msg=name)
