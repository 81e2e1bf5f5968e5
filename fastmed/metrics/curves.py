"""The ROC curve of an evaluation run, and the area under it."""

from __future__ import annotations

from typing import Any, get_args

from torch import Tensor

from ..validation import choice
from .figures import Average
from .functional import Bounded, Empty, RocCurve, auroc, roc
from .histogram import Activation, BoundedMetric, HistogramMetric, Limits, Spacing

__all__ = ["AUROC", "ROC"]


class ROC(HistogramMetric):
    """ROC curve of every task, from the counts of binned scores.

    Args:
        num_tasks: number of binary tasks T, at least 1.
        bins: number of bins; the curve has a point for each of their edges.
        activation: "sigmoid" for logits, None for scores that are counted as they are.
        spacing: "uniform", or "logit" for bins that resolve probabilities next to 0 and 1.
        limits: lowest and highest edge: see `fastmed.functional.score_histogram`.
        empty: value of the rate of a label that a task does not have.
        validate: whether a label that is neither 0 nor 1 nor missing raises; None = where that needs no device
            synchronisation.
        backend: "auto" or a name: see `fastmed info`.
        kwargs: of `torchmetrics.Metric`, such as `process_group`.

    Shape:
        Input (N, T) or (N, T, *spatial); target of the same shape, 0, 1, and NaN or -1 = missing; mask as of
        `fastmed.functional.score_histogram`.
        Returns `fastmed.metrics.functional.RocCurve`.

    Raises:
        ValueError: for an option, a shape or a label out of its range.

    Warns:
        UserWarning: in `compute`, where bins of probabilities hold something else, as logits.

    Example:
        >>> import torch
        >>> from fastmed.metrics import ROC
        >>> metric = ROC(num_tasks=1, bins=4)
        >>> metric.update(torch.tensor([[0.1], [0.6], [0.7], [0.9]]), torch.tensor([[0], [0], [1], [1]]))
        >>> metric.compute().tpr.tolist()
        [[0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0]]
    """

    def __init__(
        self,
        num_tasks: int,
        *,
        bins: int = 1024,
        activation: Activation = None,
        spacing: Spacing = "uniform",
        limits: Limits = None,
        empty: Empty = "nan",
        validate: bool | None = None,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_tasks,
            bins=bins,
            activation=activation,
            spacing=spacing,
            limits=limits,
            validate=validate,
            backend=backend,
            **kwargs,
        )
        choice("empty", empty, get_args(Empty))
        self.empty = empty

    def compute(self) -> RocCurve:
        """The curve of everything since the last reset."""
        return roc(self._seen(), empty=self.empty)


class AUROC(BoundedMetric):
    """Area under the ROC curve of every task, from the counts of binned scores.

    Scores of one bin count as tied. How far that may move an area is bounded, by half of the share of pairs of a
    positive and a negative that share a bin. Uniform bins are for scores that spread over 0 to 1. The probabilities of
    a rare finding, below some percent in prevalence, or of a confident model, crowd into the first and the last of
    them: take spacing="logit" there.

    Args:
        num_tasks: number of binary tasks T, at least 1.
        bins: number of bins.
        activation: "sigmoid" for logits, None for scores that are counted as they are.
        spacing: "uniform", or "logit" for bins that resolve probabilities next to 0 and 1.
        limits: lowest and highest edge: see `fastmed.functional.score_histogram`.
        average: "none" for the area of each task, "macro" for the mean over the tasks.
        empty: area of a task without positives or without negatives; "skip" leaves it out of the mean.
        with_bound: whether `compute` returns the bound too.
        validate: whether a label that is neither 0 nor 1 nor missing raises; None = where that needs no device
            synchronisation.
        backend: "auto" or a name: see `fastmed info`.
        kwargs: of `torchmetrics.Metric`, such as `process_group`.

    Shape:
        Input (N, T) or (N, T, *spatial); target of the same shape, 0, 1, and NaN or -1 = missing; mask as of
        `fastmed.functional.score_histogram`.
        Returns float64 (T,), or a scalar if averaged or of one task; if asked for, with a bound of the same shape, as
        `fastmed.metrics.functional.Bounded`.

    Raises:
        ValueError: for an option, a shape or a label out of its range.

    Warns:
        UserWarning: in `compute`, where bins of probabilities hold something else, as logits; and of a bound above
            0.01 that is not returned.

    Example:
        >>> import torch
        >>> from fastmed.metrics import AUROC
        >>> metric = AUROC(num_tasks=1)
        >>> metric.update(torch.tensor([[0.1], [0.4], [0.35], [0.8]]), torch.tensor([[0], [0], [1], [1]]))
        >>> metric.compute().item()
        0.75
    """

    higher_is_better = True

    def __init__(
        self,
        num_tasks: int,
        *,
        bins: int = 1024,
        activation: Activation = None,
        spacing: Spacing = "uniform",
        limits: Limits = None,
        average: Average = "none",
        empty: Empty = "skip",
        with_bound: bool = False,
        validate: bool | None = None,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_tasks,
            bins=bins,
            activation=activation,
            spacing=spacing,
            limits=limits,
            average=average,
            empty=empty,
            with_bound=with_bound,
            validate=validate,
            backend=backend,
            **kwargs,
        )

    def compute(self) -> Tensor | Bounded:
        """The area of everything since the last reset."""
        return self._result(auroc(self._seen(), empty=self.empty))
