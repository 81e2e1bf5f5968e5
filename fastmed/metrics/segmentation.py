"""Scores of segmentations, each case on its own or all voxels together."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..validation import choice
from .counting import CountedMetric, Threshold
from .figures import AVERAGES, Average, Figures, averaged, evaluate, named
from .functional import Empty, ratio

__all__ = ["SegmentationScores"]

POOLS = ("sample", "all")


class SegmentationScores(CountedMetric):
    """Dice, IoU and other figures of each class: the mean over cases, or that of all voxels together.

    Each sample of a batch is a case, so a volume that is predicted in patches has to be put together first, or pooled.
    Nothing of a case is kept but what it adds to the sums.

    Args:
        num_classes: number of classes C, at least 2; with a threshold that of regions, at least 1.
        figures: names of figures of `fastmed.metrics.functional`, or one name.
        pool: "sample" for the mean of the figures of the cases, "all" for the figure of the counts of all cases.
        average: "none" for a value of each class, "macro" for the mean of these.
        include_background: whether class 0 is among the results.
        empty: value where a figure is not defined, as the Dice of a class neither in the target nor in the
            prediction: "skip" leaves such cases, and then such classes, out of the means.
        threshold: makes the task multi-label, for regions that overlap: one number, or one for each region, in the
            units of the input; positive is what lies above.
        ignore_index: target label whose voxels are not counted.
        validate: whether labels out of range raise; None = where that needs no device synchronisation.
        backend: "auto" or a name: see `fastmed info`.
        kwargs: of `torchmetrics.Metric`, such as `process_group`.

    Shape:
        Input, target and mask are those of `fastmed.functional.confusion_counts`.
        Returns the values of each figure by its name, float64 (C,), (C - 1,) without background, or a scalar if
        averaged; or the values alone if `figures` is one name.

    Raises:
        ValueError: for an option or a label out of its range.

    Example:
        >>> import torch
        >>> from fastmed.metrics import SegmentationScores
        >>> metric = SegmentationScores(num_classes=3, figures=("dice", "iou"), include_background=False)
        >>> metric.update(torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 0, 1, 2]]))
        >>> metric.update(torch.tensor([[0, 1, 0, 0]]), torch.tensor([[0, 1, 0, 0]]))  # class 2 does not occur
        >>> {name: [round(value, 3) for value in values.tolist()] for name, values in metric.compute().items()}
        {'dice': [0.833, 1.0], 'iou': [0.75, 1.0]}
    """

    def __init__(
        self,
        num_classes: int,
        *,
        figures: Figures = ("dice", "iou", "sensitivity", "ppv"),
        pool: Literal["sample", "all"] = "sample",
        average: Average = "none",
        include_background: bool = True,
        empty: Empty = "skip",
        threshold: Threshold = None,
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
        choice("pool", pool, POOLS)
        choice("average", average, AVERAGES)
        if not include_background and num_classes == 1:
            raise ValueError("include_background: got False with one class, which leaves none; allowed is True")
        self.figures = named(figures)
        self.pool = pool
        self.average = average
        self.include_background = include_background
        self.empty = empty
        if pool == "sample":
            ...

    def update(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Count a batch, a case for each sample."""
        if self.pool == "all":
            super().update(input, target, mask)
            return
        counts = self._count(input, target, mask, "sample")
        values = evaluate(self.figures, self._fourfold(counts), "skip")
        defined = ~values.isnan()
        self._add(
            counts=counts.sum(0),
            sums=values.nansum(1),
            defined=defined.sum(1),
            cases=torch.tensor(len(counts)),
        )

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The figures of everything since the last reset."""
        if self.pool == "all":
            values = evaluate(self.figures, self._fourfold(self.counts), self.empty)
        else:
            values = self._mean_of_cases()
        if not self.include_background:
            values = values[:, 1:]
        return named

    def _mean_of_cases(self) -> Tensor:
        sums, defined, cases = (self._sum(name) for name in ("sums", "defined", "cases"))
        if self.empty == "skip":
            return sums / defined
        undefined = cases - defined
        value = ratio(torch.zeros_like(sums), torch.zeros_like(sums), self.empty)
        return (sums + torch.where(undefined > 0, undefined * value, 0.0)) / cases
