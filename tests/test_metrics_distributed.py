"""Metrics over a process group: ranks with unequal numbers of batches against one process with all of them."""

from __future__ import annotations

import os
import socket
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing
from torchmetrics import MetricCollection

from fastmed import metrics
from fastmed.compat import monai

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


def _collections() -> list[tuple[MetricCollection, Any]]:
    """Metrics that share a batch, and what makes their batches."""
    return [(MetricCollection(_of_labels()), _batch), (MetricCollection(_of_findings()), _findings)]


def _computed(batches: range, more: range) -> list[dict[str, Any]]:
    """Values of the batches, and then of more: compute leaves each rank its own counts, so that it can go on."""
    values = []
    for metric, batch in _collections():
        for part in (batches, more):
            for number in part:
                metric.update(*batch(number))
            values.append({name: tensor.numpy().copy() for name, tensor in metric.compute().items()})
    return values


def _dice(batches: range) -> float:
    metric = monai.DiceMetric(num_classes=_CLASSES)
    for number in batches:
        logits, labels = _batch(number)
        metric(logits.argmax(1, keepdim=True), labels.unsqueeze(1))
    value: float = metric.aggregate().item()
    return value


def _rank(rank: int, port: int, split: tuple[int, ...], queue: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=len(split))
    start, more = sum(split[:rank]), sum(split) + rank
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            own = range(start, start + split[rank])
            queue.put((rank, _computed(own, range(more, more + 1)), _dice(own) if all(split) else None))
    except BaseException as error:
        queue.put((rank, repr(error), None))
        raise
    distributed.destroy_process_group()


@pytest.mark.parametrize("split", _SPLITS, ids=str)
def test_unequal_numbers_of_batches(split: tuple[int, ...]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, port, split, queue)) for rank in range(len(split))]
    for process in ranks:
        process.start()
    results = [queue.get(timeout=120) for _ in ranks]
    for process in ranks:
        process.join()
    batches = sum(split)
    expected = _computed(range(batches), range(batches, batches + len(split)))
    for rank, values, dice in results:
        assert not isinstance(values, str), (rank, values)
        for value, whole in zip(values, expected, strict=True):
            assert value.keys() == whole.keys()
            for name in whole:
                np.testing.assert_allclose(value[name], whole[name], rtol=1e-12)
        if dice is not None:
            assert dice == pytest.approx(_dice(range(batches)), rel=1e-6)
