"""What the metrics of scores share: a histogram of the scores of positives and of negatives."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..contract import ScoreHistogram
from ..functional import score_histogram
from ..validation import choice, whole
from .counting import SummedMetric
from .figures import AVERAGES, Average, averaged
from .functional import Bounded, Empty
from .functional.curves import warn_of_scores_outside

Activation = Literal["sigmoid"] | None
Spacing = Literal["uniform", "logit"]
Limits = tuple[float, float] | None

_SUMMED = ("counts", "below", "above", "nan")
# The bound from which on a value is not to be taken without it.
_NOTABLE = 0.01


class HistogramMetric(SummedMetric):
    """A metric of the scores of all that was seen, counted by `fastmed.functional.score_histogram`."""

    def __init__(
        self,
        num_tasks: int,
        *,
        bins: int = 1024,
        activation: Activation = None,
        spacing: Spacing = "uniform",
        limits: Limits = None,
        validate: bool | None = None,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        whole("num_tasks", num_tasks)
        if num_tasks < 1:
            raise ValueError(f"num_tasks: got {num_tasks}, allowed is 1 or more")
        self.num_tasks = num_tasks
        bounds: Any = tuple(map(float, limits)) if isinstance(limits, Sequence) else limits
        self._counted = functools.partial(
            score_histogram,
            bins=bins,
            activation=activation,
            spacing=spacing,
            limits=bounds,
            validate=validate,
            backend=backend,
        )
        nothing = self._counted(torch.zeros(0, num_tasks), torch.zeros(0, num_tasks))
        self._edges = nothing.edges
        options = {"bins": bins, "activation": activation, "spacing": spacing, "limits": bounds}
        self._add_sums(options, **{name: getattr(nothing, name) for name in _SUMMED})

    def update(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Count the scores of a batch."""
        if input.ndim < 2 or input.shape[1] != self.num_tasks:
            raise ValueError(
                f"input: got shape {tuple(input.shape)}, allowed is (N, {self.num_tasks}) or "
                f"(N, {self.num_tasks}, *spatial)"
            )
        counted = self._counted(input, target, mask=mask)
        self._add(**{name: getattr(counted, name) for name in _SUMMED})

    def _seen(self) -> ScoreHistogram:
        """The counts for a figure, whose functions look at scores outside the limits on the CPU alone."""
        histogram = self.histogram
        if histogram.counts.device.type != "cpu":
            warn_of_scores_outside(histogram)
        return histogram

    @property
    def histogram(self) -> ScoreHistogram:
        """Counts of everything since the last reset."""
        counts, below, above, nan = (self._sum(name) for name in _SUMMED)
        return ScoreHistogram(counts, below, above, nan, self._edges.to(counts.device))


class BoundedMetric(HistogramMetric):
    """A figure of every task that binning moves, by no more than its bound."""

    def __init__(self, num_tasks: int, *, average: Average, empty: Empty, with_bound: bool, **kwargs: Any) -> None:
        super().__init__(num_tasks, **kwargs)
        choice("average", average, AVERAGES)
        choice("empty", empty, get_args(Empty))
        self.average = average
        self.empty = empty
        self.with_bound = with_bound

    def _result(self, figure: Bounded) -> Tensor | Bounded:
        value, bound = (averaged(part, self.average, self.empty) for part in figure)
        if self.with_bound:
            return Bounded(value, bound)
        if (figure.bound > _NOTABLE).any():
            # Of one wording, so that a value a step is not a warning a step.
            warnings.warn(
                f"{type(self).__name__}: binning may have moved the value of a task by more than {_NOTABLE}; "
                "spacing='logit' or more bins lower this bound, and with_bound=True returns it",
                stacklevel=3,
            )
        return value
