"""Small networks for the tables of `chest_tables`, their training, and how good their predictions are."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from torch.utils.data import RandomSampler

BUCKETS = 2**16
WIDTH = 128

Loss = Callable[[Tensor, Tensor], Tensor]
OnStep = Callable[[float], None]
Values = npt.NDArray[np.float64]


def encode(texts: Iterable[str]) -> csr_matrix:
    """Which hashed words and pairs of words each text has, (N, BUCKETS)."""
    words = HashingVectorizer(
        n_features=BUCKETS,
        ngram_range=(1, 2),
        token_pattern=r"\S+",
        binary=True,
        norm=None,
        alternate_sign=False,
        dtype=np.float32,
    )
    return words.transform(texts)


class ReportNetwork(nn.Module):
    """The vectors of a text's words, summed, and two layers on top."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(BUCKETS, WIDTH, mode="sum", sparse=True)
        nn.init.normal_(self.words.weight, std=0.1)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, tasks))

    def forward(self, texts: csr_matrix) -> Tensor:
        """Logits (N, T) of rows of `encode`."""
        return self.head(self.words(torch.from_numpy(texts.indices).long(), torch.from_numpy(texts.indptr[:-1]).long()))

    def optimisers(self, rate: float) -> list[torch.optim.Optimizer]:
        """Adam, for the word vectors ten times as fast: most words are in few reports."""
        return [
            torch.optim.SparseAdam(self.words.parameters(), lr=10.0 * rate),
            torch.optim.Adam(self.head.parameters(), lr=rate),
        ]


class FeatureNetwork(nn.Module):
    """One hidden layer."""

    def __init__(self, features: int, tasks: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, tasks))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, T)."""
        return self.layers(features)

    def optimisers(self, rate: float) -> list[torch.optim.Optimizer]:
        """Adam."""
        return [torch.optim.Adam(self.parameters(), lr=rate)]


Network = ReportNetwork | FeatureNetwork


class Schedule(NamedTuple):
    """How many rows a step sees, for how many epochs, and how fast it learns."""

    batch: int
    epochs: int
    rate: float

    def steps(self, rows: int) -> int:
        """As many as these epochs of so many rows take."""
        return max(1, self.epochs * rows // self.batch)


def shuffled(rows: int, seed: int) -> RandomSampler:
    """Each row once in an epoch."""
    return RandomSampler(range(rows), generator=torch.Generator().manual_seed(seed))


def batches(sampler: Iterable[int], size: int, steps: int) -> Iterator[list[int]]:
    """As many full batches as asked for, over as many epochs of the sampler as that takes."""
    indices = itertools.chain.from_iterable(itertools.repeat(sampler))
    return (list(itertools.islice(indices, size)) for _ in range(steps))


def train(
    network: Network,
    inputs: Any,
    labels: Tensor,
    loss: Loss,
    schedule: Schedule,
    sampler: Iterable[int],
    on_step: OnStep,
) -> float:
    """Train a network in place.

    Args:
        network: what to train.
        inputs: rows of it are what the network takes.
        labels: (N, T).
        loss: of logits and labels.
        schedule: how long and how fast; the number of steps depends on N, not on the sampler.
        sampler: rows in the order to train on them, again and again.
        on_step: is told the loss of each step.

    Returns:
        Seconds that it took.
    """
    optimisers = network.optimisers(schedule.rate)
    start = time.perf_counter()
    for rows in batches(sampler, schedule.batch, schedule.steps(len(labels))):
        value = loss(network(inputs[rows]), labels[rows])
        value.backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        on_step(value.item())
    return time.perf_counter() - start


@torch.inference_mode()
def predict(network: Network, inputs: Any) -> Tensor:
    """Logits (N, T)."""
    rows = range(0, inputs.shape[0], 2**13)
    return torch.cat([network(inputs[start : start + 2**13]) for start in rows])


class Ranking(NamedTuple):
    """Area under the ROC curve and average precision of each task (T,), NaN where it lacks positives or negatives."""

    auroc: Values
    average_precision: Values


def ranking(logits: Tensor, labels: Tensor) -> Ranking:
    """How well logits (N, T) put the positives of each task first."""
    both = ((labels == 1).any(0) & (labels == 0).any(0)).numpy()
    auroc, average_precision = np.full((2, len(both)), np.nan)
    for task in np.flatnonzero(both):
        truth, score = labels[:, task].numpy(), logits[:, task].numpy()
        auroc[task] = roc_auc_score(truth, score)
        average_precision[task] = average_precision_score(truth, score)
    return Ranking(auroc, average_precision)


class Calibration(NamedTuple):
    """The mean prediction of one task, and the expected calibration error."""

    predicted: float
    calibration_error: float


def calibration(probabilities: Tensor, labels: Tensor, bins: int = 10) -> Calibration:
    """Predictions (N,) beside the labels that are 0 or 1; the error over bins of as many predictions each."""
    certain = (labels == 0) | (labels == 1)
    predicted, truth = probabilities[certain], labels[certain]
    gaps = (predicted - truth)[predicted.argsort()].tensor_split(bins)
    error = sum(gap.sum().abs().item() for gap in gaps) / max(1, len(truth))
    return Calibration(predicted.mean().item(), error)
