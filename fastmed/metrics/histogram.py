"""What the metrics of scores share: a histogram of the scores of positives and of negatives."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..contract import ScoreHistogram
from ..functional import score_histogram
from .counting import SummedMetric

Activation = Literal["sigmoid"] | None
Spacing = Literal["uniform", "logit"]
Limits = tuple[float, float] | None


class HistogramMetric(SummedMetric):
    """A metric of the scores of all that was seen, counted by `fastmed.functional.score_histogram`."""

    def __init__(
        self,
        num_tasks: int,
        *,
        bins: int,
        activation: Activation,
        spacing: Spacing,
        limits: Limits,
        validate: bool | None,
        backend: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num_tasks < 1:
            raise ValueError(f"num_tasks: got {num_tasks}, allowed is 1 or more")
        self.num_tasks = num_tasks
        self._bins = {"bins": bins, "activation": activation, "spacing": spacing, "limits": limits}
        self._run = {"validate": validate, "backend": backend}
        nothing = self._count(torch.zeros(0, num_tasks), torch.zeros(0, num_tasks), None)
        self._edges = nothing.edges
        self._add_sums(self._bins, **{name: getattr(nothing, name) for name in _SUMMED})

    def update(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Count the scores of a batch."""
        if input.ndim < 2 or input.shape[1] != self.num_tasks:
            raise ValueError(
                f"input: got shape {tuple(input.shape)}, allowed is (N, {self.num_tasks}) or "
                f"(N, {self.num_tasks}, *spatial)"
            )
        counted = self._count(input, target, mask)
        self._add(**{name: getattr(counted, name) for name in _SUMMED})

    def _count(self, input: Tensor, target: Tensor, mask: Tensor | None) -> ScoreHistogram:
        return score_histogram(input, target, mask=mask, **self._bins, **self._run)

    @property
    def histogram(self) -> ScoreHistogram:
        """Counts of everything since the last reset."""
        sums = [self._sum(name) for name in _SUMMED]
        return ScoreHistogram(*sums, self._edges.to(sums[0].device))


_SUMMED = ("counts", "below", "above", "nan")
