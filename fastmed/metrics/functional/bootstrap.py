"""Bootstrap over cases: a resample of cases is a vector of whole weights, and its counts a product with the table.

The voxels of an image are not independent, and the images of a patient are not either, so what is drawn are cases, or
patients with all their cases (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...validation import tensor, whole
from .empty import ratio
from .intervals import Interval, check_level

__all__ = ["bootstrap_interval", "bootstrap_mean_interval"]

Method = Literal["percentile", "bca"]
Figure = Callable[[Tensor], Tensor]
Groups = Tensor | npt.NDArray[np.integer[Any]] | Sequence[int] | None

_CHUNK = 2**19  # weights or counts at a time, 4 MiB of float64: a cache's worth


class _Units(NamedTuple):
    """What is drawn from: cases, or clusters of them, those of a stratum side by side.

    Attributes:
        table: float64 (U, M), the counts of each unit.
        size: float64 (U,), number of units in the unit's stratum.
        start: float64 (U,), position of the first unit of that stratum.
    """

    table: Tensor
    size: Tensor
    start: Tensor


def bootstrap_interval(
    counts: Tensor,
    figure: Figure,
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    method: Method = "percentile",
    strata: Groups = None,
    clusters: Groups = None,
    generator: torch.Generator | None = None,
) -> Interval:
    """Confidence intervals of any figure of the counts pooled over cases.

    Args:
        counts: table (N, ...) of any dtype whose rows are cases and add, as (N, C, C) or (N, C, 4).
        figure: takes pooled counts (R, ...) on the CPU, one row a resample, and gives the figures (R, ...) of each.
        resamples: number of resamples.
        level: probability that the interval is to cover the truth with, in (0, 1).
        method: "percentile", or "bca", which corrects for bias and skewness (Efron, "Better bootstrap confidence
            intervals", 1987).
        strata: integers (N,); as many cases are drawn from each stratum as it has, such as sick and healthy.
        clusters: integers (N,); cases of one cluster, such as a patient, are drawn together.
        generator: of the CPU, source of the draws; None is torch's own. The draws are the same for a seed.

    Returns:
        Lower and upper limits, float64 of the shape of the figure. Resamples that leave a figure undefined (NaN) do
        not count for it.

    Raises:
        ValueError: for less than two cases or clusters, fewer than one resample, a level outside (0, 1), an unknown
            method, strata or clusters that are not integers (N,), or a cluster in two strata.
        TypeError: for counts that are no tensor, or a generator that is none of the CPU.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import bootstrap_interval, dice, fourfold
        >>> _ = torch.manual_seed(0)
        >>> counts = torch.randint(1, 100, (200, 3, 4))  # 200 cases, 3 classes
        >>> interval = bootstrap_interval(counts, lambda pooled: dice(fourfold(pooled)))
        >>> (interval.upper - interval.lower).tolist()  # doctest: +ELLIPSIS
        [0.0..., 0.0..., 0.0...]
    """
    check_level(level)
    if method not in get_args(Method):
        raise ValueError(f"method: got {method!r}, allowed is one of {get_args(Method)}")
    whole("resamples", resamples)
    is_generator = isinstance(generator, torch.Generator) and generator.device.type == "cpu"
    if generator is not None and not is_generator:
        raise TypeError(
            f"generator: got {generator!r}, allowed is a torch.Generator of the CPU, as "
            "torch.Generator().manual_seed(0), or None"
        )
    if resamples < 1:
        raise ValueError(f"resamples: got {resamples}, allowed is 1 or more")
    units = _units(counts, strata, clusters)
    shape = counts.shape[1:]
    pooled = _resampled(units, resamples, generator)
    figures = torch.cat([figure(part.view(-1, *shape)).double() for part in pooled])
    values = figures.reshape(resamples, -1)
    tails = torch.tensor([(1.0 - level) / 2.0, (1.0 + level) / 2.0], dtype=torch.float64)
    shares: Tensor = tails[:, None].expand(2, values.shape[1])
    if method == "bca":
        total = units.table.sum(0)
        value = figure(total.view(1, *shape)).reshape(-1)
        without = figure((total - units.table).view(-1, *shape)).reshape(len(units.table), -1)
        shares = _corrected(tails, values, value, _acceleration(without, units))
    limits = _quantiles(values, shares).view(2, *figures.shape[1:]).to(counts.device)
    return Interval(limits[0], limits[1])


def bootstrap_mean_interval(
    values: Tensor,
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    method: Method = "percentile",
    strata: Groups = None,
    clusters: Groups = None,
    generator: torch.Generator | None = None,
) -> Interval:
    """Confidence intervals of the mean over cases of a figure that each case has, as its Dice.

    Args:
        values: figures (N, ...) by case; NaN is left out of the mean.
        resamples: number of resamples.
        level: probability that the interval is to cover the truth with, in (0, 1).
        method: that of `bootstrap_interval`.
        strata: integers (N,), as in `bootstrap_interval`.
        clusters: integers (N,), as in `bootstrap_interval`.
        generator: of the CPU, source of the draws; None is torch's own.

    Returns:
        Lower and upper limits, float64 of shape (...); NaN where no case has a value.

    Raises:
        ValueError, TypeError: as `bootstrap_interval`.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import bootstrap_mean_interval
        >>> interval = bootstrap_mean_interval(torch.tensor([0.8, 0.8, float("nan"), 0.8]).double())
        >>> round(interval.lower.item(), 6), round(interval.upper.item(), 6)
        (0.8, 0.8)
    """
    tensor("values", values)
    defined = ~values.isnan()
    return bootstrap_interval(
        torch.stack([values.double().masked_fill(~defined, 0.0), defined.double()], -1),
        lambda pooled: ratio(pooled[..., 0], pooled[..., 1]),
        resamples=resamples,
        level=level,
        method=method,
        strata=strata,
        clusters=clusters,
        generator=generator,
    )


def _groups(name: str, given: Tensor | npt.NDArray[np.integer[Any]] | Sequence[int], cases: int) -> Tensor:
    """Number the groups 0, 1, ..."""
    try:
        labels = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: got {type(given).__name__}, allowed are integers of shape ({cases},)") from error
    if labels.shape != (cases,) or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"{name}: got {labels.dtype} of shape {tuple(labels.shape)}, allowed are integers of shape ({cases},)"
        )
    group: Tensor = torch.unique(labels.cpu(), return_inverse=True)[1]
    return group


def _units(counts: Tensor, strata: Groups, clusters: Groups) -> _Units:
    tensor("counts", counts)
    if counts.ndim < 1:
        raise ValueError("counts: got a scalar, allowed is (N, ...)")
    cases = len(counts)
    stratum = torch.zeros(cases, dtype=torch.int64) if strata is None else _groups("strata", strata, cases)
    table = counts.detach().cpu().double().reshape(cases, counts[:1].numel())
    if clusters is not None:
        cluster = _groups("clusters", clusters, cases)
        number = int(cluster.max()) + 1 if cases else 0
        of_cluster = stratum.new_zeros(number).scatter_(0, cluster, stratum)
        torn = of_cluster[cluster] != stratum
        if torn.any():
            first = torch.as_tensor(clusters)[torn][0].item()
            raise ValueError(f"clusters: got cluster {first} in more than one stratum, allowed is one")
        table, stratum = table.new_zeros(number, table.shape[1]).index_add_(0, cluster, table), of_cluster
    if len(table) < 2:
        raise ValueError(f"counts: got {len(table)} cases or clusters, allowed is 2 or more")
    order = stratum.argsort(stable=True)
    sizes = stratum.bincount()
    starts = sizes.cumsum(0) - sizes
    return _Units(table[order], sizes[stratum[order]].double(), starts[stratum[order]].double())


def _resampled(units: _Units, resamples: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Pooled counts (r, M) of the resamples, some at a time."""
    number, width = units.table.shape
    one = units.table.new_ones(())
    firsts = units.start.unique().long().tolist()
    strata = list(zip(firsts, [*firsts[1:], number], strict=True))
    done = 0
    while done < resamples:
        rows = min(max(_CHUNK // max(number, width), 1), resamples - done)
        of_strata = [torch.randint(*ends, (rows, ends[1] - ends[0]), generator=generator) for ends in strata]
        drawn = torch.cat(of_strata, 1)
        yield units.table.new_zeros(rows, number).scatter_add_(1, drawn, one.expand_as(drawn)) @ units.table
        done += rows


def _acceleration(without: Tensor, units: _Units) -> Tensor:
    """Skewness of the figure's dependence on single units, from the figures (U, K) without each.

    Over strata as in the bootstrap of several samples of `scipy.stats.bootstrap`.
    """
    first = units.start.long()[:, None].expand_as(without)
    defined = ~without.isnan()
    sums = torch.zeros_like(without).scatter_add_(0, first, without.nan_to_num(0.0))
    means = (sums / torch.zeros_like(without).scatter_add_(0, first, defined.double())).gather(0, first)
    size = units.size[:, None]
    influence = ((size - 1.0) * (means - without)).nan_to_num(0.0) / size
    return ratio((influence**3).sum(0), 6.0 * (influence**2).sum(0) ** 1.5, "zero")


def _corrected(tails: Tensor, values: Tensor, value: Tensor, acceleration: Tensor) -> Tensor:
    """Shares (2, K) of the resamples that the BCa limits leave below them."""
    defined = (~values.isnan()).sum(0)
    # Resamples equal to the value itself count half.
    below = ((values < value).sum(0) + (values <= value).sum(0)) / (2.0 * defined)
    bias = torch.special.ndtri(below)
    z = bias + torch.special.ndtri(tails)[:, None]
    corrected: Tensor = torch.special.ndtr(bias + z / (1.0 - acceleration * z))
    return corrected


def _quantiles(values: Tensor, shares: Tensor) -> Tensor:
    """Quantiles (Q, K) of the columns of values (R, K) at shares (Q, K); NaN is left out, infinity is a value."""
    ordered = values.sort(0).values
    position = shares * (~values.isnan()).sum(0).sub(1).clamp(min=0)
    index = position.nan_to_num(0.0)
    low, high = ordered.gather(0, index.floor().long()), ordered.gather(0, index.ceil().long())
    between = torch.where(low == high, low, low + (position - index.floor()) * (high - low))
    return between.masked_fill(position.isnan(), torch.nan)
