"""The confusion matrix of an evaluation run."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor

from ..validation import choice
from .counting import CountedMetric, Threshold
from .functional import Empty, ratio

__all__ = ["ConfusionMatrix"]

Normalize = Literal["true", "pred", "all"] | None

_DIMENSIONS = {"true": (-1,), "pred": (-2,), "all": (-2, -1)}


class ConfusionMatrix(CountedMetric):
    """Confusion matrix of all that was seen, rows = target, as in scikit-learn and torchmetrics.

    Args:
        num_classes: number of classes C, at least 2; with a threshold that of labels, at least 1.
        threshold: makes the task multi-label, a table of 2 x 2 for each label: one number, or one for each label, in
            the units of the input; positive is what lies above.
        normalize: divides by the sums of the rows ("true"), of the columns ("pred") or of all ("all").
        empty: value of 0 / 0 where a sum is 0.
        ignore_index: target label whose voxels are not counted.
        validate: whether labels out of range raise; None = where that needs no device synchronisation.
        backend: "auto" or a name: see `fastmed info`.
        kwargs: of `torchmetrics.Metric`, such as `process_group`.

    Shape:
        Input: labels (N, *spatial) or logits (N, C, *spatial), of which the largest counts; with a threshold
        (N, C, *spatial). Target: labels (N, *spatial); with a threshold 0 or 1 for each label, (N, C, *spatial).
        The mask is that of `fastmed.functional.confusion_counts`.
        Returns (C, C), or (C, 2, 2) with a threshold: int64, float64 if normalised.

    Raises:
        ValueError: for an option or a label out of its range.

    Example:
        >>> import torch
        >>> from fastmed.metrics import ConfusionMatrix
        >>> metric = ConfusionMatrix(num_classes=2)
        >>> metric.update(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1]]))
        >>> metric.compute().tolist()
        [[1, 1], [0, 2]]
    """

    def __init__(
        self,
        num_classes: int,
        *,
        threshold: Threshold = None,
        normalize: Normalize = None,
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
        choice("normalize", normalize, (*_DIMENSIONS, None))
        choice("empty", empty, get_args(Empty))
        self.normalize = normalize
        self.empty = empty

    def compute(self) -> Tensor:
        """The matrix of everything since the last reset."""
        counts = self.counts if self.threshold is None else self.counts.unflatten(-1, (2, 2))
        if self.normalize is None:
            return counts
        counts = counts.double()
        return ratio(counts, counts.sum(_DIMENSIONS[self.normalize], keepdim=True), self.empty)
