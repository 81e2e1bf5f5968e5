"""Figures of diagnostic tests with their confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from torch import Tensor

from ..validation import choice
from .counting import CountedMetric, Threshold
from .figures import FIGURES, evaluate, names, tabulate
from .functional import Empty, figure_interval
from .functional.figures import PROPORTIONS
from .functional.intervals import Method, check_level
from .scores import Scores

__all__ = ["DiagnosticScores"]


class DiagnosticScores(CountedMetric):
    """Sensitivity, specificity, predictive values and other figures of each finding, with confidence intervals.

    Args:
        num_classes: number of findings T, at least 1; without a threshold that of classes, at least 2.
        threshold: positive is what lies above, in the units of the input (0.5 of probabilities, 0 of logits): one
            number, or one for each finding. None = the findings exclude one another: the largest of the classes
            counts, and each class is set against all others.
        figures: names of figures of `fastmed.metrics.functional`, "f1" among them.
        level: probability that the intervals of proportions are to cover the truth with; None for no intervals.
        method: "wilson" or "clopper-pearson": see `fastmed.metrics.functional.proportion_interval`. Both take cases
            to be independent, which the voxels of an image are not.
        empty: value of 0 / 0, as of the sensitivity to a finding that does not occur.
        ignore_index: target label that is not counted.
        validate: whether labels out of range raise; None = where that needs no device synchronisation.
        backend: "auto" or a name: see `fastmed info`.
        kwargs: of `torchmetrics.Metric`, such as `process_group`.

    Shape:
        Input (N, T) and target (N, T) of 0, 1, NaN or -1 = missing; or what else
        `fastmed.functional.confusion_counts` takes.
        Returns float64 (T,), a scalar for one finding, of each figure by its name; the limits of the interval of
        "ppv" are "ppv_lower" and "ppv_upper".

    Raises:
        ValueError: for an option or a label out of its range.

    Example:
        >>> import torch
        >>> from fastmed.metrics import DiagnosticScores
        >>> metric = DiagnosticScores(num_classes=1, threshold=0.5, figures=("sensitivity", "specificity"))
        >>> metric.update(torch.tensor([[0.9], [0.7], [0.6], [0.2]]), torch.tensor([[1], [1], [0], [0]]))
        >>> print(metric.scores(names=("nodule",)).to_frame().round(2).to_string())
                sensitivity  sensitivity lower  sensitivity upper  specificity  specificity lower  specificity upper
        nodule          1.0               0.34                1.0          0.5               0.09               0.91
    """

    def __init__(
        self,
        num_classes: int,
        *,
        threshold: Threshold,
        figures: Sequence[str] = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "prevalence"),
        level: float | None = 0.95,
        method: Method = "wilson",
        empty: Empty = "nan",
        ignore_index: int | None = None,
        validate: bool | None = None,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes,
            threshold=threshold,
            ignore_index=ignore_index,
            validate=validate,
            backend=backend,
            **kwargs,
        )
        choice("method", method, get_args(Method))
        choice("empty", empty, get_args(Empty))
        if level is not None:
            check_level(level)
        self.figures = names(figures)
        self.level = level
        self.method = method
        self.empty = empty

    def compute(self) -> dict[str, Tensor]:
        """The figures of everything since the last reset."""
        table = self._fourfold(self.counts)
        result = {}
        for name, value in zip(self.figures, evaluate(self.figures, table, self.empty), strict=True):
            result[name] = value
            if self.level is not None and name in PROPORTIONS:
                interval = figure_interval(FIGURES[name], table, self.level, self.method)
                result |= {f"{name}_lower": interval.lower, f"{name}_upper": interval.upper}
        return result

    def scores(self, names: Sequence[str] | None = None) -> Scores:
        """The figures of everything since the last reset, as a table to show.

        Args:
            names: of the findings; by default their numbers.
        """
        numbers = [str(index) for index in range(self.num_classes)]
        return tabulate(self.compute(), names, numbers, 0.95 if self.level is None else self.level)
