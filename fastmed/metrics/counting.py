"""What the stateful metrics share: a state of counts, which add over batches, epochs' parts and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torchmetrics import Metric

from ..functional import confusion_counts
from ..validation import finite, whole
from .functional import Fourfold, fourfold, one_versus_rest

Threshold = float | Sequence[float] | Tensor | None


class SummedMetric(Metric):
    """A metric whose states are sums of what `update` adds, of a size that no number of samples changes."""

    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._names: dict[str, str] = {}

    def _add_sums(self, options: dict[str, Any], **defaults: Tensor) -> None:
        """Register the sums, under names that tell how they are counted.

        A `torchmetrics.MetricCollection` lets metrics share one update if their states have the same names and, after
        the first batch, the same values: the names keep metrics of different options apart, and states that do not
        belong together from being merged or loaded.
        """
        given = ", ".join(f"{name}={value}" for name, value in options.items())
        for name, default in defaults.items():
            self._names[name] = f"{name}[{given}]"
            self.add_state(self._names[name], default, dist_reduce_fx="sum")

    def _sum(self, name: str) -> Tensor:
        value: Tensor = getattr(self, self._names[name])
        return value

    def _add(self, **counted: Tensor) -> None:
        for name, value in counted.items():
            setattr(self, self._names[name], self._sum(name) + value)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the state of a metric with the same options, as `torchmetrics.Metric.merge_state`.

        Args:
            incoming_state: the metric, or its `metric_state`.

        Raises:
            ValueError: for another kind of metric, or other options.
        """
        super().merge_state(incoming_state)
        # torchmetrics would go on returning the value from before, or warn that there was no update.
        self._computed = None
        self._update_count += incoming_state.update_count if isinstance(incoming_state, Metric) else 1

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        # torchmetrics takes the tensors as they come, wherever they were saved.
        for name in self._names.values():
            setattr(self, name, getattr(self, name).to(self.device))

    def plot(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not here: `fastmed.metrics.plots` draws curves, diagrams and matrices.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"{type(self).__name__}: draws nothing itself; see fastmed.metrics.plots, as roc and reliability of "
            "metric.histogram, or confusion_matrix of metric.compute()"
        )

    @property
    def update_called(self) -> bool:
        """Whether there are counts: on a rank without a batch too, where there are those of the other ranks."""
        is_distributed = self.distributed_available_fn
        return self._update_count > 0 or bool(is_distributed is not None and is_distributed())


def _threshold(value: Threshold, num_classes: int) -> float | tuple[float, ...] | None:
    """The threshold as plain numbers, which need not follow the metric to another device."""
    if value is None:
        return None
    numbers = value.tolist() if isinstance(value, Tensor) else value
    if not isinstance(numbers, Sequence):
        finite("threshold", numbers)
        return float(numbers)
    for number in numbers:
        finite("threshold", number)
    if len(numbers) != num_classes:
        raise ValueError(f"threshold: got {len(numbers)} values, allowed is one or {num_classes}")
    return tuple(map(float, numbers))


class CountedMetric(SummedMetric):
    """A metric of confusion counts summed over all that was seen; its options are those of `ConfusionMatrix`."""

    def __init__(
        self,
        num_classes: int,
        *,
        threshold: Threshold,
        ignore_index: int | None,
        validate: bool | None,
        backend: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        whole("num_classes", num_classes)
        if ignore_index is not None:
            whole("ignore_index", ignore_index)
        least = 2 if threshold is None else 1
        if num_classes < least:
            raise ValueError(f"num_classes: got {num_classes}, allowed is {least} or more")
        self.num_classes = num_classes
        self.threshold = _threshold(threshold, num_classes)
        self.ignore_index = ignore_index
        self.validate = validate
        self.backend = backend
        columns = num_classes if threshold is None else 4
        self._add_sums(self._options(), counts=torch.zeros(num_classes, columns, dtype=torch.int64))

    def _options(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "ignore_index": self.ignore_index}

    @property
    def counts(self) -> Tensor:
        """Counts int64 (C, C), rows = target; with a threshold (C, 4) in the order tn, fp, fn, tp."""
        return self._sum("counts")

    def update(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Count a batch."""
        self._add(counts=self._count(input, target, mask, "batch"))

    def _count(self, input: Tensor, target: Tensor, mask: Tensor | None, pool: str) -> Tensor:
        return confusion_counts(
            input,
            target,
            self.num_classes,
            ignore_index=self.ignore_index,
            mask=mask,
            threshold=self.threshold,
            pool=pool,
            validate=self.validate,
            backend=self.backend,
        )

    def _fourfold(self, counts: Tensor) -> Fourfold:
        return one_versus_rest(counts) if self.threshold is None else fourfold(counts)
