"""Label tables: what a label may be, what stands for an uncertain one, and how far the classes are out of balance."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Values = npt.NDArray[np.float64]

# Labels read at once: 2 MB in float64.
_PART = 1 << 18
_ALL = slice(None)


class _Bounds(NamedTuple):
    low: float
    high: float


class Smooth(_Bounds):
    """Policy for uncertain labels: label smoothing, a target between `low` and `high`.

    Pham et al. ("Interpreting chest X-rays via CNNs that exploit hierarchical disease dependencies and uncertainty
    labels", 2021) draw the target of an uncertain label uniformly from an interval: 0.55 to 0.85 for their U-Ones+LSR,
    0 to 0.3 for U-Zeros+LSR. Here the target is the midpoint. The cross entropy is linear in the target, so its value
    and its gradient are then the expectation over the draws, without their noise, and the same from run to run.

    Args:
        low: lower end of the interval, at least 0.
        high: upper end, `low` to 1.

    Raises:
        ValueError: unless 0 <= low <= high <= 1.

    Example:
        >>> from fastmed import Smooth
        >>> round(Smooth(0.55, 0.85).midpoint, 2)
        0.7
    """

    __slots__ = ()

    def __new__(cls, low: float, high: float) -> Smooth:
        """Checks the interval."""
        if not 0 <= low <= high <= 1:
            raise ValueError(f"Smooth: got low={low!r}, high={high!r}, allowed is 0 <= low <= high <= 1")
        return super().__new__(cls, low, high)

    @property
    def midpoint(self) -> float:
        """The target of an uncertain label."""
        return (self.low + self.high) / 2


class Pandas(Protocol):
    """What is asked of a DataFrame or a Series: its shape, and columns or rows by position."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N,) or (N, T)."""

    @property
    def iloc(self) -> Any:
        """Access by position."""


Labels = Tensor | npt.NDArray[Any] | Pandas
MissingPolicy = str | Smooth | Sequence[str | Smooth]

_TARGETS = {"ignore": math.nan, "ones": 1.0, "zeros": 0.0}


def _target(policy: object) -> float:
    if isinstance(policy, Smooth):
        return policy.midpoint
    if not isinstance(policy, str) or policy not in _TARGETS:
        raise ValueError(f"missing: got {policy!r}, allowed are 'ignore', 'ones', 'zeros' and Smooth(low, high)")
    return _TARGETS[policy]


def uncertain_values(missing: MissingPolicy, tasks: int) -> Tensor:
    """What replaces the uncertain label -1 in each task.

    Args:
        missing: "ignore", "ones", "zeros" or a `Smooth`; or a sequence with one of these for each task.
        tasks: number of tasks.

    Returns:
        float32 (tasks,): 1 for "ones", 0 for "zeros", the midpoint for a `Smooth`, NaN (a missing label) for "ignore".

    Raises:
        ValueError: for an unknown policy, or another number of policies than tasks.

    Example:
        >>> from fastmed.labels import Smooth, uncertain_values
        >>> uncertain_values(["ignore", "ones", Smooth(0.0, 0.5)], 3).tolist()
        [nan, 1.0, 0.25]
    """
    # A Smooth is a tuple, and a string a sequence too, but each is one policy.
    if isinstance(missing, (str, Smooth)) or not isinstance(missing, Sequence):
        return torch.full((tasks,), _target(missing), dtype=torch.float32)
    if len(missing) != tasks:
        raise ValueError(f"missing: got {len(missing)} policies, allowed is one, or one for each of {tasks} tasks")
    return torch.tensor([_target(policy) for policy in missing], dtype=torch.float32)


class LabelTable:
    """Labels (N,), (N, T) or (N, T, *spatial) of any kind, checked and read in float64, a task at a time.

    Args:
        labels: NumPy array, tensor, pandas DataFrame or Series.
        missing: policy for uncertain labels, see `uncertain_values`.

    Raises:
        TypeError: for another kind of object or of dtype.
        ValueError: for a table without tasks, or policies that do not fit.
    """

    def __init__(self, labels: Labels, missing: MissingPolicy = "ignore") -> None:
        source: Any = labels
        if isinstance(labels, Tensor):
            # NumPy has no bfloat16, and float32 holds each of its values.
            source = (labels.float() if labels.dtype == torch.bfloat16 else labels).numpy(force=True)
        if not (hasattr(source, "iloc") or (isinstance(source, np.ndarray) and source.dtype.kind in "biuf")):
            raise TypeError(
                f"labels: got {type(labels).__name__} of {getattr(labels, 'dtype', 'no dtype')}, allowed are NumPy "
                "arrays, tensors, DataFrames and Series of bool, integer or floating dtype"
            )
        shape = tuple(source.shape)
        if not shape or 0 in shape[1:]:
            raise ValueError(f"labels: got shape {shape}, allowed are (N,), (N, T) and (N, T, *spatial)")
        self.ndim = len(shape)
        self.tasks = shape[1] if self.ndim > 1 else 1
        self.rows = shape[0]
        self.columns: list[object] = list(getattr(source, "columns", ()))
        self.uncertain = uncertain_values(missing, self.tasks).tolist()
        self._source = source

    def name(self, task: int) -> str:
        """The task, for a message."""
        return f"task {task} ({self.columns[task]!r})" if self.columns else f"task {task}"

    def parts(self) -> Iterator[slice]:
        """Rows to read at once."""
        height = max(1, _PART // math.prod(self._source.shape[2:]))
        return (slice(row, row + height) for row in range(0, self.rows, height))

    def read(self, task: int, rows: slice = _ALL) -> Values:
        """The labels of one task, as they stand and in one dimension."""
        source = self._source if isinstance(self._source, np.ndarray) else self._source.iloc
        part = source[rows, task] if self.ndim > 1 else source[rows]
        if isinstance(part, np.ndarray):
            return np.array(part, np.float64).ravel()
        try:
            return np.array(part.to_numpy(dtype=float, na_value=np.nan))
        except (TypeError, ValueError) as error:
            raise ValueError(f"labels: in {self.name(task)}, {error}; allowed are numbers") from error

    def values(self, task: int, rows: slice = _ALL) -> Values:
        """The labels of one task, checked: 0 to 1, NaN where there is none, the policy's value for -1."""
        labels = self.read(task, rows)
        uncertain = labels == -1
        allowed = ((labels >= 0) & (labels <= 1)) | uncertain | np.isnan(labels)
        if not allowed.all():
            raise ValueError(
                f"labels: got {labels[~allowed][0]:g} in {self.name(task)}, "
                "allowed are 0 to 1, NaN for a missing label and -1 for an uncertain one"
            )
        labels[uncertain] = self.uncertain[task]
        return labels


def class_balance(labels: Labels, *, missing: MissingPolicy = "ignore") -> tuple[Tensor, Tensor]:
    r"""Weights that give the positives and the negatives of each task the same total weight.

    `w_pos = negatives / total` and `w_neg = positives / total`, where total counts the valid labels of the task
    (Rajpurkar et al., "CheXNet", 2017). A soft label counts by its value: 0.7 is 0.7 of a positive and 0.3 of a
    negative. A task with one class only keeps what the formula says, (1, 0) without a positive and (0, 1) without a
    negative; without a valid label it has (0, 0).

    Args:
        labels: NumPy array, tensor, pandas DataFrame or Series, (N,), (N, T) or (N, T, *spatial); bool, integer or
            floating; 0 to 1, NaN for a missing label, -1 for an uncertain one. Missing labels are left out.
        missing: what an uncertain label counts for: "ignore" (left out), "ones", "zeros" or a `Smooth`; or a sequence
            with one of these for each task.

    Returns:
        `(w_pos, w_neg)`, float32 (T,) each, (1,) for labels (N,), between 0 and 1; on the device of a tensor.

    Raises:
        ValueError: for any other label, with its task and value; for an unknown policy or another number of policies
            than tasks; for a table without tasks.
        TypeError: for labels of another kind or dtype.

    Warns:
        UserWarning: naming the tasks whose valid labels are of one class, or that have none.

    Example:
        >>> import numpy as np, fastmed
        >>> findings = np.array([[1, 0], [0, 0], [0, 1], [0, np.nan]])
        >>> w_pos, w_neg = fastmed.class_balance(findings)
        >>> w_pos.tolist()[0], w_neg.tolist()[0]  # one positive against three negatives
        (0.75, 0.25)
        >>> [round(weight, 4) for weight in w_pos.tolist()]
        [0.75, 0.6667]
    """
    table = LabelTable(labels, missing)
    positives, total = np.zeros(table.tasks), np.zeros(table.tasks)
    for task in range(table.tasks):
        for rows in table.parts():
            values = table.values(task, rows)
            total[task] += np.count_nonzero(~np.isnan(values))
            positives[task] += np.nansum(values)
    single = np.flatnonzero((positives == 0) | (positives == total)).tolist()
    if single:
        warnings.warn(
            f"labels: one class only, or no valid label, in {', '.join(map(table.name, single))}", stacklevel=2
        )
    share = np.divide([total - positives, positives], total, out=np.zeros((2, table.tasks)), where=total > 0)
    device = labels.device if isinstance(labels, Tensor) else None
    w_pos, w_neg = torch.as_tensor(share, dtype=torch.float32, device=device)
    return w_pos, w_neg
