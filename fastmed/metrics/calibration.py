"""How far the probabilities of an evaluation run are from what is observed."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from ..validation import choice, whole
from .figures import Average
from .functional import Bounded, Empty, expected_calibration_error, maximum_calibration_error
from .histogram import Activation, BoundedMetric, Spacing

__all__ = ["CalibrationError"]

_NORMS = {"mean": expected_calibration_error, "max": maximum_calibration_error}


class CalibrationError(BoundedMetric):
    """Expected or maximum calibration error of every task, from the counts of binned probabilities.

    Each probability stands at the centre of its fine bin, which moves the error by half of its width at most.

    Args:
        num_tasks: number of binary tasks T, at least 1.
        groups: number of bins of equal width whose observed and predicted probabilities are compared.
        norm: "mean" of the distances, weighted by their scores, or "max".
        bins: number of the fine bins that probabilities are counted in, best a multiple of `groups`.
        activation: "sigmoid" for logits, None for probabilities.
        spacing: of the fine bins: "uniform", or "logit" to resolve probabilities next to 0 and 1.
        average: "none" for the error of each task, "macro" for the mean over the tasks.
        empty: error of a task without scores; "skip" leaves it out of the mean.
        with_bound: whether `compute` returns, too, how far binning may have moved the error.
        validate: whether a label that is neither 0 nor 1 nor missing raises; None = where that needs no device
            synchronisation.
        backend: "auto" or a name: see `fastmed info`.
        kwargs: of `torchmetrics.Metric`, such as `process_group`.

    Shape:
        Input (N, T) or (N, T, *spatial); target of the same shape, 0, 1, and NaN or -1 = missing; mask as of
        `fastmed.functional.score_histogram`.
        Returns float64 (T,) in [0, 1], or a scalar if averaged or of one task; if asked for, with a bound of the same
        shape, as `fastmed.metrics.functional.Bounded`.

    Raises:
        ValueError: for an option, a shape or a label out of its range.

    Warns:
        UserWarning: in `compute`, where bins of probabilities hold something else, as logits; and of a bound above
            0.01 that is not returned.

    Example:
        >>> import torch
        >>> from fastmed.metrics import CalibrationError
        >>> metric = CalibrationError(num_tasks=1, groups=2)
        >>> metric.update(torch.tensor([[0.2], [0.4], [0.6], [0.6]]), torch.tensor([[0], [1], [1], [0]]))
        >>> round(metric.compute().item(), 2)
        0.15
    """

    higher_is_better = False

    def __init__(
        self,
        num_tasks: int,
        *,
        groups: int = 10,
        norm: Literal["mean", "max"] = "mean",
        bins: int = 1000,
        activation: Activation = None,
        spacing: Spacing = "uniform",
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
            limits=None,
            average=average,
            empty=empty,
            with_bound=with_bound,
            validate=validate,
            backend=backend,
            **kwargs,
        )
        choice("norm", norm, tuple(_NORMS))
        whole("groups", groups)
        if groups < 1:
            raise ValueError(f"groups: got {groups}, allowed is 1 or more")
        self.groups = groups
        self.norm = norm

    def compute(self) -> Tensor | Bounded:
        """The error of everything since the last reset."""
        return self._result(_NORMS[self.norm](self._seen(), self.groups, empty=self.empty))
