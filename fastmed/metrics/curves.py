"""The ROC curve of an evaluation run, and the area under it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..validation import choice
from .figures import AVERAGES, Average, averaged
from .functional import RocCurve, auroc, roc
from .histogram import Activation, HistogramMetric, Limits, Spacing

__all__ = ["AUROC", "ROC"]


class ROC(HistogramMetric):
    """ROC curve of every task, from the counts of binned scores.

    Args:
        num_tasks: number of binary tasks T, at least 1.
        bins: number of bins; the curve has a point for each of their edges.
        activation: "sigmoid" for logits, None for scores that are counted as they are.
        spacing: "uniform", or "logit" for bins that resolve probabilities next to 0 and 1.
        limits: lowest and highest edge: see `fastmed.functional.score_histogram`.
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

    Example:
        >>> import torch
        >>> from fastmed.metrics import ROC
        >>> metric = ROC(num_tasks=1, bins=4)
        >>> metric.update(torch.tensor([[0.1], [0.6], [0.7], [0.9]]), torch.tensor([[0], [0], [1], [1]]))
        >>> metric.compute().tpr.tolist()
        [[0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0]]
    """

    def compute(self) -> RocCurve:
        """The curve of everything since the last reset."""
        return roc(self.histogram)


class AUROC(HistogramMetric):
    """Area under the ROC curve of every task, from the counts of binned scores.

    Scores of one bin count as tied. How far that may move an area is bounded: `fastmed.metrics.functional.auroc` of
    `histogram` tells by how much at most.

    Args:
        num_tasks: number of binary tasks T, at least 1.
        bins: number of bins.
        activation: "sigmoid" for logits, None for scores that are counted as they are.
        spacing: "uniform", or "logit" for bins that resolve probabilities next to 0 and 1.
        limits: lowest and highest edge: see `fastmed.functional.score_histogram`.
        average: "none" for the area of each task, "macro" for the mean over the tasks that have one.
        validate: whether a label that is neither 0 nor 1 nor missing raises; None = where that needs no device
            synchronisation.
        backend: "auto" or a name: see `fastmed info`.
        kwargs: of `torchmetrics.Metric`, such as `process_group`.

    Shape:
        Input (N, T) or (N, T, *spatial); target of the same shape, 0, 1, and NaN or -1 = missing; mask as of
        `fastmed.functional.score_histogram`.
        Returns float64 (T,), or a scalar if averaged or of one task; NaN without positives or without negatives.

    Raises:
        ValueError: for an option, a shape or a label out of its range.

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
        choice("average", average, AVERAGES)
        self.average = average

    def compute(self) -> Tensor:
        """The area of everything since the last reset."""
        return averaged(auroc(self.histogram).value, self.average, "skip")
