"""Re-sampling of imbalanced data: an order of the samples in which each class appears as often as the others."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import distributed
from torch.utils.data import Sampler

from . import validation
from .labels import Labels, LabelTable, MissingPolicy

__all__ = ["BalancedSampler"]

MODES = ("oversample", "undersample")

Indices = npt.NDArray[np.int64]


class _Stratum(NamedTuple):
    """Samples and how many an epoch draws of them, in proportion to their shares.

    Shares are whole numbers, so that counts are exact and the same on every machine.
    """

    members: Indices
    shares: Indices
    draws: int

    def draw(self, generator: np.random.Generator) -> Indices:
        """Systematic sampling in random order: each member as often as expected, rounded down or up."""
        order = generator.permutation(len(self.members))
        ends = np.cumsum(self.shares[order])
        step = int(ends[-1]) // self.draws
        points = generator.integers(step) + step * np.arange(self.draws)
        return self.members[order[np.searchsorted(ends, points, side="right")]]


def _alike(members: Indices, draws: int) -> _Stratum:
    """Samples that are drawn equally often."""
    return _Stratum(members, np.full(len(members), draws, np.int64), draws)


def _classes(table: LabelTable, task: int) -> list[Indices]:
    """The samples of each class of one task; a table (N,) may have more than two."""
    labels = table.read(task)
    if table.ndim > 1 or not (labels > 1).any():
        labels = table.values(task)
        negatives, positives = np.flatnonzero(labels < 0.5), np.flatnonzero(labels >= 0.5)
        if not (negatives.size and positives.size):
            raise ValueError(
                f"labels: got {negatives.size} negatives and {positives.size} positives in {table.name(task)}, "
                "allowed is at least one of each"
            )
        return [negatives, positives]
    uncertain = labels == -1
    if uncertain.any() and not np.isnan(table.uncertain[task]):
        raise ValueError("missing: got a policy that replaces -1, allowed is 'ignore' for more than two classes")
    valid = ~(uncertain | np.isnan(labels))
    wrong = valid & ~((labels >= 0) & (labels < np.inf) & (labels == np.floor(labels)))
    if wrong.any():
        raise ValueError(
            f"labels: got {labels[wrong][0]:g}, allowed are whole numbers from 0 for classes, NaN for a missing label "
            "and -1 for an uncertain one"
        )
    present = np.unique(labels[valid])
    if present.size == 1:
        raise ValueError(f"labels: got class {present[0]:g} alone, allowed are two classes or more")
    return [np.flatnonzero(labels == label) for label in present]


def _class_strata(classes: list[Indices], mode: str, num_replicas: int) -> list[_Stratum]:
    """Each class equally often, and as often on each rank."""
    sizes = [members.size for members in classes]
    if mode == "oversample":
        draws = -(-max(sizes) // num_replicas) * num_replicas
    else:
        draws = min(sizes) // num_replicas * num_replicas
        if draws == 0:
            raise ValueError(
                f"num_replicas: got {num_replicas}, allowed are at most {min(sizes)}, the samples of the smallest class"
            )
    return [_alike(members, draws) for members in classes]


def _weights(table: LabelTable) -> tuple[npt.NDArray[np.float64], int]:
    """Sum over the tasks of the inverse frequency of a sample's label (N,), and the size of the smallest class."""
    weights = np.zeros(table.rows)
    sizes: list[int] = []
    single: list[int] = []
    for task in range(table.tasks):
        labels = table.values(task)
        classes = labels < 0.5, labels >= 0.5
        members = [int(np.count_nonzero(is_member)) for is_member in classes]
        if 0 in members:
            single.append(task)
            continue
        sizes += members
        for is_member, size in zip(classes, members, strict=True):
            weights[is_member] += 1 / size
    if not sizes:
        raise ValueError("labels: got no task with both classes, allowed is at least one")
    if single:
        names = ", ".join(map(table.name, single))
        warnings.warn(f"labels: one class only, or no valid label, and so no weight, in {names}", stacklevel=5)
    return weights, min(sizes)


def _weighted_strata(table: LabelTable, mode: str, num_replicas: int) -> list[_Stratum]:
    """Each sample in proportion to its weight."""
    weights, smallest = _weights(table)
    unit = 2**62 // table.rows
    if mode == "oversample":
        members = np.flatnonzero(weights)
        shares = (weights[members] / weights.max() * unit).astype(np.int64)
        return [_Stratum(members, shares, -(-members.size // num_replicas) * num_replicas)]
    shares = (np.minimum(weights * smallest, 1) * unit).astype(np.int64)
    # Rounding must not cost a draw; and as shares this close to 1 are certain, no sample is drawn twice for it.
    slack = unit >> 20
    certain = np.flatnonzero(shares >= unit - slack)
    others = np.flatnonzero((shares > 0) & (shares < unit - slack))
    length = certain.size + (int(shares[others].sum()) + slack) // unit
    kept = length // num_replicas * num_replicas
    if kept == 0:
        raise ValueError(f"num_replicas: got {num_replicas}, allowed are at most {length}, the samples of an epoch")
    surely = min(certain.size, kept)
    strata = _alike(certain, surely), _Stratum(others, shares[others], kept - surely)
    return [stratum for stratum in strata if stratum.draws]


def _strata(table: LabelTable, mode: str, task: int | str | None, num_replicas: int) -> list[_Stratum]:
    if table.ndim > 2:
        raise ValueError(f"labels: got {table.ndim} dimensions, allowed are (N,) and (N, T)")
    if task is None and table.tasks > 1:
        return _weighted_strata(table, mode, num_replicas)
    return _class_strata(_classes(table, _task_index(table, task)), mode, num_replicas)


def _task_index(table: LabelTable, task: int | str | None) -> int:
    if task is None:
        return 0
    if task in table.columns:
        return table.columns.index(task)
    if any(isinstance(name, int | np.integer) for name in table.columns):
        # As a position, a number would say another task than it does in labels[task].
        raise ValueError(f"task: got {task!r}, allowed is the name of a column, one of {table.columns}")
    if not isinstance(task, str) and task in range(table.tasks):
        return int(task)
    names = f", or one of {table.columns}" if table.columns else ""
    raise ValueError(f"task: got {task!r}, allowed is 0 to {table.tasks - 1}{names}")


def _whole(argument: str, value: object, low: int, high: int | None = None) -> int:
    """The number, if it is whole and within the bounds."""
    if not isinstance(value, int | np.integer) or value < low or (high is not None and value > high):
        allowed = f"{low} or more" if high is None else f"{low} to {high}"
        raise ValueError(f"{argument}: got {value!r}, allowed is a whole number, {allowed}")
    return int(value)


def _digest(strata: list[_Stratum]) -> str:
    """A name for the samples and how they are drawn."""
    digest = hashlib.blake2b(digest_size=8)
    for stratum in strata:
        digest.update(stratum.members.tobytes())
        digest.update(stratum.shares.tobytes())
    return digest.hexdigest()


@dataclass
class _Cursor:
    """Where an iteration is; the next one has its own, so that one still running does not move it."""

    epoch: int
    position: int = 0
    begun: bool = False


class BalancedSampler(Sampler[int]):
    r"""Order of the samples of a `DataLoader` in which rare labels appear as often as common ones.

    **One task** (labels (N,), or `task` given). Each class appears equally often in an epoch. With "oversample" the
    largest class appears once and each smaller one is repeated to the same number, its samples equally often but for
    the rounding; with "undersample" the smallest class appears once and as many of each larger one are drawn without
    replacement, others in each epoch. Labels (N,) with whole numbers above 1 are classes, as many as appear. Otherwise
    a label of 0.5 or more is positive. A sample without a valid label of the task is left out.

    Summed over an epoch, the gradient of a loss is expected to be that of the loss weighted by `class_balance`, times
    `L / (2 N w_pos w_neg)`, with L the length of the epoch and N the number of valid labels, 0 or 1.

    **Many tasks** (labels (N, T)). No order balances all of them at once, since a sample carries all of its labels
    (Charte et al., "Addressing imbalance in multilabel classification", 2015). Each sample has the weight

    `s_i = sum over tasks t with a valid label of i: 1 / n_t(label of i)`,

    where n_t counts the samples of each class of task t: as if each draw chose a task, one of its classes, and a sample
    of this class, all at random. This is class-aware sampling (Shen et al., "Relay backpropagation", 2016), which for
    positive labels is the instance-level frequency of Wu et al. ("Distribution-balanced loss", 2020). With "oversample"
    there are as many draws as samples, and each sample appears in proportion to s, as often as expected, rounded down
    or up: the most common ones miss some epochs. With "undersample" no sample appears twice, and it appears with
    probability `min(1, m s_i)`, where m is the size of the smallest class of all tasks, so that this class appears as
    a whole; the length of the epoch is the sum of these probabilities, rounded down. Tasks with one class only have no
    weight, and samples with no valid label elsewhere are left out.

    **Ranks.** Rank r of R takes the positions r, r + R, ... of one order. Every rank has the same length and, for one
    task, the same number of each class: these numbers, or the length for many tasks, are rounded to a multiple of R, up
    when oversampling, down when undersampling, and no padding is needed.

    **Epochs.** The order is a function of labels, options, seed and epoch alone; no global random state is read or
    changed. An iteration takes the epoch of `set_epoch` or `load_state_dict`, and otherwise the one after that of the
    last iteration, so that a plain loop sees fresh draws; `set_epoch` for each epoch, as for torch's
    `DistributedSampler`, gives the same orders.

    **Restart.** `state_dict` holds the epoch and the position of the next index. After `load_state_dict` an iteration
    goes on there, and ends with its epoch; `set_epoch` with the same epoch leaves the position, with another epoch
    starts that one from its beginning. `len` is always that of a whole epoch. The position counts the indices handed
    out, which a `DataLoader` with workers asks for ahead of time: either use torchdata's `StatefulDataLoader`, which
    keeps the state that belongs to each batch, or save `sampler.state_dict() | {"epoch": epoch, "position": steps *
    batch_size}`.

    Args:
        labels: NumPy array, tensor, pandas DataFrame or Series, (N,) or (N, T), as for `class_balance`.
        mode: "oversample" or "undersample".
        task: the one task to balance, its index or the name of its column; None for all of them. Where columns are
            named by integers an integer is a name, as in `labels[task]` of pandas.
        seed: at least 0; the same on all ranks.
        num_replicas: number of ranks; None for that of `torch.distributed`, 1 without.
        rank: of this process, 0 to `num_replicas - 1`; None for that of `torch.distributed`, 0 without.
        missing: what an uncertain label -1 counts for: see `class_balance`.

    Raises:
        ValueError: for an argument out of its range, for a task with one class only or no sample, and for fewer samples
            than ranks when undersampling; the message says what is allowed.
        TypeError: for labels of another kind or dtype.

    Warns:
        UserWarning: naming the tasks of a table (N, T) with one class only.

    Example:
        >>> import torch
        >>> from fastmed.sampling import BalancedSampler
        >>> labels = torch.tensor([0, 0, 1, 0, 0, 0])
        >>> sampler = BalancedSampler(labels)
        >>> epoch = list(sampler)
        >>> sorted(epoch)
        [0, 1, 2, 2, 2, 2, 2, 3, 4, 5]
        >>> loader = torch.utils.data.DataLoader(labels, batch_size=5, sampler=sampler)
        >>> sum(int(batch.sum()) for batch in loader), len(sampler)
        (5, 10)
    """

    def __init__(
        self,
        labels: Labels,
        mode: str = "oversample",
        *,
        task: int | str | None = None,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
        missing: MissingPolicy = "ignore",
    ) -> None:
        validation.choice("mode", mode, MODES)
        is_distributed = distributed.is_available() and distributed.is_initialized()
        if num_replicas is None:
            num_replicas = distributed.get_world_size() if is_distributed else 1
        if rank is None:
            rank = distributed.get_rank() if is_distributed else 0
        self.mode = mode
        self.seed = _whole("seed", seed, 0)
        self.num_replicas = _whole("num_replicas", num_replicas, 1)
        self.rank = _whole("rank", rank, 0, self.num_replicas - 1)
        self._strata = _strata(LabelTable(labels, missing), mode, task, self.num_replicas)
        self._length = sum(stratum.draws for stratum in self._strata) // self.num_replicas
        self._labels = _digest(self._strata)
        self._cursor = _Cursor(0)

    def __len__(self) -> int:
        """The length of a whole epoch on this rank."""
        return self._length

    def __iter__(self) -> Iterator[int]:
        """The indices of this rank; an iteration begins with its first index, not with the call of `iter`."""
        if self._cursor.begun:
            self._cursor = _Cursor(self._cursor.epoch + 1)
        cursor = self._cursor
        cursor.begun = True
        share = self._order(cursor.epoch)[:, self.rank]
        for index in share[cursor.position :].tolist():
            cursor.position += 1
            if cursor.position == self._length:
                cursor.epoch, cursor.position, cursor.begun = cursor.epoch + 1, 0, False
            yield index

    def _order(self, epoch: int) -> Indices:
        """The order of an epoch (positions of a rank, ranks)."""
        generator = np.random.default_rng((self.seed, epoch))
        drawn = np.concatenate([stratum.draw(generator) for stratum in self._strata])
        # Dealt out in turn, the samples of a class come to the ranks in equal numbers.
        return generator.permuted(drawn.reshape(-1, self.num_replicas), axis=0)

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iteration, on all ranks the same; a restored position within this epoch stays."""
        epoch = _whole("epoch", epoch, 0)
        if self._cursor.begun or epoch != self._cursor.epoch:
            self._cursor = _Cursor(epoch)

    def _identity(self) -> dict[str, Any]:
        return {"mode": self.mode, "seed": self.seed, "num_replicas": self.num_replicas, "labels": self._labels}

    def state_dict(self) -> dict[str, Any]:
        """The place of the next index, and what the order depends on; ranks in step have the same state."""
        return {"epoch": self._cursor.epoch, "position": self._cursor.position, **self._identity()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The next iteration goes on where the state was taken.

        Raises:
            ValueError: for a state without one of the entries, or of a sampler with another mode, seed, number of ranks
                or other labels (or task, or policy for uncertain labels).
        """
        expected = self._identity()
        for entry in ("epoch", "position", *expected):
            if entry not in state_dict:
                raise ValueError(f"state_dict: got no {entry!r}, allowed is what state_dict() returns")
        for entry, value in expected.items():
            if state_dict[entry] != value:
                raise ValueError(
                    f"state_dict: got {entry}={state_dict[entry]!r}, allowed is that of this sampler, {value!r}"
                )
        epoch = _whole("state_dict['epoch']", state_dict["epoch"], 0)
        position = _whole("state_dict['position']", state_dict["position"], 0, self._length)
        self._cursor = _Cursor(epoch + position // self._length, position % self._length)
