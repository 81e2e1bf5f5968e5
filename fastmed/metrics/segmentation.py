"""Scores of segmentations, the mean over cases or that of all voxels together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..validation import choice
from .counting import CountedMetric, Threshold
from .figures import AVERAGES, Average, averaged, evaluate, names, tabulate
from .functional import Empty
from .functional.empty import empty_value
from .scores import Scores

__all__ = ["SegmentationScores"]

POOLS = ("sample", "all")


class SegmentationScores(CountedMetric):
    """Dice, IoU and other figures of each class: the mean over cases, or the figure of all voxels together.

    Each sample of a batch is a case: a volume that is predicted in patches is put together first, or pooled. Nothing
    is kept of a case but what it adds to the sums; for confidence intervals keep the counts of the cases, and see
    `fastmed.metrics.functional.bootstrap_interval`.

    Args:
        num_classes: number of classes C, at least 2; with a threshold that of regions, at least 1.
        figures: names of figures of `fastmed.metrics.functional`, "f1" among them, or one name.
        pool: "sample" for the mean of the figures of the cases, "all" for the figure of the counts of all cases.
        average: "none" for a value of each class, "macro" for the mean of these.
        include_background: whether class 0 is among the results.
        empty: value of 0 / 0, as of the Dice of a class neither in the target nor in the prediction; "skip" leaves
            such cases, and then such classes, out of the means. Of a class that is in the prediction alone the Dice is
            0; MONAI leaves such cases out too, unless told otherwise, and so does `fastmed.compat.monai.DiceMetric`.
        threshold: makes the task multi-label, for regions that overlap: one number, or one for each region, in the
            units of the input; positive is what lies above.
        ignore_index: target label whose voxels are not counted.
        validate: whether labels out of range raise; None = where that needs no device synchronisation.
        backend: "auto" or a name: see `fastmed info`.
        kwargs: of `torchmetrics.Metric`, such as `process_group`.

    Shape:
        Input, target and mask are those of `fastmed.functional.confusion_counts`.
        Returns the values of each figure by its name, or the values alone if `figures` is one name: float64 (C,),
        (C - 1,) without background, or a scalar if averaged.

    Raises:
        ValueError: for an option or a label out of its range.

    Example:
        >>> import torch
        >>> from fastmed.metrics import SegmentationScores
        >>> metric = SegmentationScores(num_classes=3, figures=("dice", "iou"), include_background=False)
        >>> metric.update(torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 0, 1, 2]]))
        >>> metric.update(torch.tensor([[0, 1, 0, 0]]), torch.tensor([[0, 1, 0, 0]]))  # class 2 does not occur
        >>> print(metric.scores(names=("liver", "tumour")).to_frame().round(3))
                 dice   iou
        liver   0.833  0.75
        tumour  1.000  1.00
    """

    def __init__(
        self,
        num_classes: int,
        *,
        figures: str | Sequence[str] = ("dice", "iou", "sensitivity", "ppv"),
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
        choice("empty", empty, get_args(Empty))
        if not include_background and num_classes == 1:
            raise ValueError("include_background: got False with one class, which leaves none; allowed is True")
        self.figures = figures
        self.pool = pool
        self.average = average
        self.include_background = include_background
        self.empty = empty
        if pool == "sample":
            shape = (len(names(figures)), num_classes)
            self._add_sums(
                self._options() | {"figures": names(figures)},
                sums=torch.zeros(shape, dtype=torch.float64),
                defined=torch.zeros(shape, dtype=torch.int64),
                cases=torch.zeros((), dtype=torch.int64),
            )

    def update(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Count a batch, each sample a case."""
        if self.pool == "all":
            super().update(input, target, mask)
            return
        counts = self._count(input, target, mask, "sample")
        values = evaluate(names(self.figures), self._fourfold(counts), "skip")
        self._add(
            counts=counts.sum(0),
            sums=values.nansum(1),
            defined=(~values.isnan()).sum(1),
            cases=counts.new_tensor(len(counts)),
        )

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The figures of everything since the last reset."""
        if self.pool == "all":
            values = evaluate(names(self.figures), self._fourfold(self.counts), self.empty)
        else:
            values = self._mean_of_cases()
        values = averaged(values if self.include_background else values[:, 1:], self.average, self.empty)
        return values[0] if isinstance(self.figures, str) else dict(zip(self.figures, values, strict=True))

    def _mean_of_cases(self) -> Tensor:
        sums, defined, cases = self._sum("sums"), self._sum("defined"), self._sum("cases")
        if self.empty == "skip":
            return sums / defined
        undefined = cases - defined
        return (sums + torch.where(undefined > 0, undefined * empty_value(self.empty), 0.0)) / cases

    def scores(self, names: Sequence[str] | None = None) -> Scores:
        """The figures of everything since the last reset, as a table to show.

        Args:
            names: of the classes that are among the results; by default their numbers.
        """
        result = self.compute()
        numbers = [str(index) for index in range(0 if self.include_background else 1, self.num_classes)]
        return tabulate(
            result if isinstance(result, dict) else {str(self.figures): result},
            names,
            numbers if self.average == "none" else ["mean"],
            level=0.95,
        )
