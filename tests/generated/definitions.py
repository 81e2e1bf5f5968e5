"""What every statistic is, written from its definition in float64, or at a precision whose error is of interest."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from cases import Case, CountCase, HistogramCase, RegionCase
from numpy.typing import NDArray
from tensors import Tensors
from torch import Tensor
from torch.nn import functional as F

from fastmed.contract import STATISTICS


class Voxels(NamedTuple):
    """Input (N, C, V), target (N, V) or (N, C, V) and mask (N, C, V) of a case."""

    input: Tensor
    target: Tensor
    mask: Tensor


def voxels(case: Case, tensors: Tensors) -> Voxels:
    """The tensors with their spatial dimensions as one, and a mask in any case."""
    n, c, v = case.samples, case.classes, math.prod(case.spatial)
    input, target, mask = tensors
    input = input.reshape((n, v) if input.ndim == 1 + len(case.spatial) else (n, c, v))
    full = target.shape == (n, c, *case.spatial)
    target = target.reshape((n, c, v) if full else (n, v))
    if mask is None:
        mask = torch.ones((), dtype=torch.bool).expand(n, c, v)
    elif case.mask in ("classes", "table"):
        mask = mask.reshape(n, c, v if case.mask == "classes" else 1).expand(n, c, v)
    else:
        mask = mask.reshape(n, 1, v).expand(n, c, v)
    return Voxels(input, target, mask)


# What a label of -1 stands for in each class, in turn.
UNCERTAIN = (0.75, math.nan, 0.0, 1.0)


def _soft_target(case: RegionCase, of: Voxels, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Target (N, C, V), weight and the number of labels out of range of each sample."""
    target = of.target.to(weight.dtype)
    if case.target.startswith("labels"):
        classes = torch.arange(case.classes).view(1, -1, 1)
        ignored = target == (math.nan if case.ignore_index is None else case.ignore_index)
        unknown = ~ignored & ((target < 0) | (target >= case.classes))
        return (target.unsqueeze(1) == classes).to(weight.dtype), weight * ~ignored.unsqueeze(1), unknown.sum(1)
    if case.ignore_index is not None:
        of_class = case.ignored_class
        ignored = target == case.ignore_index if of_class is None else target[:, [of_class]] == 1
        weight = weight * ~ignored
    unknown = torch.zeros_like(weight, dtype=torch.bool)
    if case.target == "uncertain":
        policy = torch.tensor(UNCERTAIN, dtype=target.dtype).repeat(case.classes)[: case.classes].view(1, -1, 1)
        target = torch.where(target == -1, policy, target)
        unknown = (weight != 0) & ~((target >= 0) & (target <= 1)) & ~target.isnan()
        weight = weight * ~target.isnan()
    return target, weight, unknown.sum((1, 2))


def _log_others(logits: Tensor) -> Tensor:
    """log(1 - p) of a softmax, from the other classes."""
    classes, logits = logits.shape[1], logits - logits.detach().amax(1, keepdim=True)
    others = torch.where(
        torch.eye(classes, dtype=torch.bool).view(1, classes, classes, 1), -math.inf, logits.unsqueeze(1)
    )
    return torch.logsumexp(others, 2) - torch.logsumexp(logits, 1, keepdim=True)


def _negative_logarithms(case: RegionCase, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The nll of positives and of negatives in each voxel, without its weight."""
    softmax = case.activation == "softmax"
    share = (1 - case.label_smoothing) * target + case.label_smoothing / (case.classes if softmax else 2)
    if softmax:
        log_p = F.log_softmax(logits, 1)
        factor = torch.exp(case.gamma * _log_others(logits)) if case.gamma else torch.ones_like(log_p)
        return torch.where(share == 0, 0.0, -share * factor * log_p), torch.zeros_like(log_p)
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
    if not case.gamma:
        return -share * log_p, -(1 - share) * log_q
    return -share * torch.exp(case.gamma * log_q) * log_p, -(1 - share) * torch.exp(case.gamma * log_p) * log_q


class Sums(NamedTuple):
    """Stacked sums (STATISTICS, N, C) and labels out of range in each sample."""

    stacked: Tensor
    invalid: Tensor


def region_sums(case: RegionCase, of: Voxels, input: Tensor) -> Sums:
    """The sums of `fastmed.contract.RegionSums` for an input (N, C, V), at its precision; autograd follows them."""
    target, weight, invalid = _soft_target(case, of, of.mask.to(input.dtype))
    counted = weight != 0
    looked_at = counted.any(1, keepdim=True) if case.activation == "softmax" else counted
    logits, target = torch.where(looked_at, input, 0.0), torch.where(counted, target, 0.0)
    p = {"softmax": lambda x: x.softmax(1), "sigmoid": torch.sigmoid, None: lambda x: x}[case.activation](logits)
    nll_pos = nll_neg = torch.zeros_like(p)
    if case.activation is not None:
        nll_pos, nll_neg = (
            torch.where(counted, weight * nll, 0.0) for nll in _negative_logarithms(case, logits, target)
        )
    if case.activation == "softmax":
        chosen = (logits.argmax(1, keepdim=True) == torch.arange(case.classes).view(1, -1, 1)) & ~p.isnan()
    else:
        chosen = logits > (0.5 if case.activation is None else 0.0)
    chosen, positive = chosen & counted, (target > 0.5) & counted
    rows = (
        *(weight * p * target, weight * p, weight * p * p, weight * target, weight * target * target),
        *(nll_pos, nll_neg, weight, weight * p * p * target, weight * (p - target).abs()),
        *((chosen & positive), chosen, positive, counted),
    )
    assert len(rows) == STATISTICS
    stacked = torch.stack([row.to(input.dtype).sum(-1) for row in rows])
    return Sums(stacked, invalid)


def _table(case: CountCase, rows: NDArray, columns: NDArray, kept: NDArray, size: int) -> tuple[NDArray, int]:
    """Counts of one sample, and how many of its labels are out of range."""
    known = np.isin(rows, np.arange(size)) & (columns >= 0) & (columns < size)
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (rows[kept & known].astype(np.int64), columns[kept & known].astype(np.int64)), 1)
    return counts, int((kept & ~known).sum())


def _numbers(tensor: Tensor) -> NDArray:
    floating = tensor.is_floating_point()
    return tensor.cpu().to(torch.float64 if floating else torch.int64).numpy()


def _above(case: CountCase, input: Tensor, thresholds: list[float]) -> NDArray:
    rounded = [torch.tensor(t, dtype=input.dtype).item() if input.is_floating_point() else t for t in thresholds]
    return _numbers(input) > np.array(rounded).reshape(1, -1, 1)


def confusion_counts(case: CountCase, of: Voxels, thresholds: list[float]) -> tuple[NDArray, int]:
    """Counts of every sample, or of all, and the number of labels out of range."""
    target, mask = _numbers(of.target), _numbers(of.mask) != 0
    ignored = target == (np.nan if case.ignore_index is None else case.ignore_index)
    tables, invalid = [], 0
    if case.kind == "threshold":
        above = _above(case, of.input, thresholds).astype(np.int64)
        kept = mask & ~ignored & ~np.isnan(target.astype(np.float64)) & (target != -1)
        for n in range(case.samples):
            done = [_table(case, target[n, c], above[n, c], kept[n, c], 2) for c in range(case.classes)]
            tables.append(np.array([counts.reshape(4) for counts, _ in done]))
            invalid += sum(wrong for _, wrong in done)
        size: tuple[int, ...] = (case.classes, 4)
    else:
        prediction = _numbers(of.input)
        if prediction.ndim == 3:
            prediction = prediction.argmax(1)
        for n in range(case.samples):
            counts, wrong = _table(case, target[n], prediction[n], (mask[n, 0] & ~ignored[n]), case.classes)
            tables.append(counts)
            invalid += wrong
        size = (case.classes, case.classes)
    stacked = np.array(tables, dtype=np.int64).reshape(case.samples, *size)
    return (stacked.sum(0) if case.pool == "batch" else stacked), invalid


class Binned(NamedTuple):
    """Scores of one task and label in float64, after the transform."""

    values: NDArray
    nan: int


def scores_of(case: HistogramCase, of: Voxels, task: int, label: int) -> Binned:
    """What is to be counted of a task and a label."""
    scores, target, mask = (_numbers(tensor.transpose(0, 1)[task]) for tensor in of)
    values = torch.from_numpy(scores[(mask != 0) & (target == label)]).float().double()
    number = int(values.isnan().sum())
    values = values[~values.isnan()]
    if case.activation == "sigmoid" and case.spacing == "uniform":
        values = values.sigmoid()
    elif case.activation is None and case.spacing == "logit":
        # Outside [0, 1] a score lies beyond the limit on its side.
        values = values.clamp(0, 1).logit()
    return Binned(values.numpy(), number)


def unknown_labels(of: Voxels) -> int:
    """Labels of a histogram that are neither 0 nor 1 nor missing."""
    target, mask = _numbers(of.target).astype(np.float64), _numbers(of.mask) != 0
    return int((mask & ~np.isin(target, (0, 1, -1)) & ~np.isnan(target)).sum())


def columns(values: NDArray, bins: int, low: float, high: float) -> NDArray:
    """Counts below, in each bin and above, of values that are binned as they are: in float32, each step rounded."""
    value, first, last = (np.asarray(number).astype(np.float32) for number in (values, low, high))
    scale = np.float32(bins / (float(last) - float(first)))
    with np.errstate(over="ignore", invalid="ignore"):
        place = np.clip(np.floor((value - first) * scale), 0, bins - 1) + 1
    place = np.where(value < first, 0, np.where(value > last, bins + 1, place))
    return np.bincount(place.astype(np.int64), minlength=bins + 2)
