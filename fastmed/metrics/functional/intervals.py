"""Confidence intervals of proportions, and of areas under the ROC curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..optional import require
from . import figures
from .fourfold import Fourfold

__all__ = ["Interval", "figure_interval", "proportion_interval"]

Method = Literal["wilson", "clopper-pearson"]

_PROPORTIONS = {getattr(figures, name): parts for name, parts in figures.PROPORTIONS.items()}


class Interval(NamedTuple):
    """Confidence intervals.

    Attributes:
        lower: float64, of the shape of the figure.
        upper: of the same shape.
    """

    lower: Tensor
    upper: Tensor


def check_level(level: float) -> None:
    """Refuse a confidence that is no share.

    Raises:
        ValueError: for a level outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level: got {level}, allowed is above 0 and below 1")


def normal_quantile(share: float) -> float:
    """Value below which a standard normal variable stays with this probability."""
    return float(torch.special.ndtri(torch.tensor(share, dtype=torch.float64)))


def _counts(name: str, value: Tensor | Sequence[int] | int, device: torch.device | None) -> Tensor:
    try:
        return torch.as_tensor(value, dtype=torch.float64, device=device)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: got {value!r}, allowed are counts: a number, a list or a tensor") from error


def proportion_interval(
    successes: Tensor | Sequence[int] | int,
    trials: Tensor | Sequence[int] | int,
    level: float = 0.95,
    method: Method = "wilson",
) -> Interval:
    """Confidence intervals of proportions of independent cases.

    Wilson's (Wilson, "Probable inference", 1927) covers the truth with the level's probability on average; that of
    Clopper and Pearson ("The use of confidence or fiducial limits", 1934) never with less, and so is wider. Neither
    is for the voxels of an image, which are not independent: see `bootstrap_interval`.

    Args:
        successes: counts of any shape, 0 to `trials`: a number, a list or a tensor.
        trials: counts of a shape that broadcasts with it, likewise.
        level: probability that the interval is to cover the truth with, in (0, 1).
        method: "wilson" or "clopper-pearson".

    Returns:
        Lower and upper limits, float64 in [0, 1] of the broadcast shape; NaN without a trial.

    Raises:
        ValueError: for successes outside 0 to trials, a level outside (0, 1), or an unknown method.
        TypeError: for counts that are no numbers.
        ModuleNotFoundError: for "clopper-pearson" without scipy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import proportion_interval
        >>> interval = proportion_interval(torch.tensor([7, 0]), torch.tensor([8, 10]))
        >>> interval.lower.round(decimals=3).tolist(), interval.upper.round(decimals=3).tolist()
        ([0.529, 0.0], [0.978, 0.278])
    """
    check_level(level)
    if method not in get_args(Method):
        raise ValueError(f"method: got {method!r}, allowed is one of {get_args(Method)}")
    device = next((given.device for given in (successes, trials) if isinstance(given, Tensor)), None)
    found, cases = torch.broadcast_tensors(_counts("successes", successes, device), _counts("trials", trials, device))
    wrong = ~((found >= 0) & (found <= cases))
    if wrong.any():
        raise ValueError(
            f"successes: got {found[wrong][0].item():g} of {cases[wrong][0].item():g} trials, "
            "allowed is 0 to the number of trials"
        )
    limits = _wilson if method == "wilson" else _clopper_pearson
    lower, upper = limits(found, cases, (1.0 - level) / 2.0)
    undefined = cases == 0
    return Interval(lower.masked_fill(undefined, torch.nan), upper.masked_fill(undefined, torch.nan))


def _wilson(found: Tensor, cases: Tensor, tail: float) -> tuple[Tensor, Tensor]:
    z = normal_quantile(1.0 - tail)
    centre = (found + z**2 / 2.0) / (cases + z**2)
    half = z / (cases + z**2) * (found * (cases - found) / cases + z**2 / 4.0).sqrt()
    # At the ends the two terms are equal but for rounding.
    return (centre - half).masked_fill(found == 0, 0.0), (centre + half).masked_fill(found == cases, 1.0)


def _clopper_pearson(found: Tensor, cases: Tensor, tail: float) -> tuple[Tensor, Tensor]:
    special = require("scipy.special", "proportion_interval", "metrics")

    def quantile(successes: Tensor, failures: Tensor, share: float) -> Tensor:
        values = special.betaincinv(successes.cpu().numpy(), failures.cpu().numpy(), share)
        return torch.as_tensor(values, device=found.device)

    lower = quantile(found, cases - found + 1.0, tail).masked_fill(found == 0, 0.0)
    return lower, quantile(found + 1.0, cases - found, 1.0 - tail).masked_fill(found == cases, 1.0)


def figure_interval(
    figure: Callable[..., Tensor], table: Fourfold, level: float = 0.95, method: Method = "wilson"
) -> Interval:
    """Confidence intervals of a figure that is a proportion of independent cases.

    Args:
        figure: `sensitivity`, `specificity`, `ppv`, `npv`, `prevalence` or `accuracy`.
        table: fourfold tables of any shape.
        level: probability that the interval is to cover the truth with, in (0, 1).
        method: that of `proportion_interval`.

    Returns:
        Lower and upper limits, float64 in [0, 1] of the shape of the table's fields; NaN where the figure is
        undefined.

    Raises:
        ValueError: for another figure, a level outside (0, 1), or an unknown method.
        ModuleNotFoundError: for "clopper-pearson" without scipy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import figure_interval, fourfold, sensitivity
        >>> interval = figure_interval(sensitivity, fourfold(torch.tensor([90, 2, 1, 7])))
        >>> round(interval.lower.item(), 3), round(interval.upper.item(), 3)
        (0.529, 0.978)
    """
    if figure not in _PROPORTIONS:
        allowed = ", ".join(proportion.__name__ for proportion in _PROPORTIONS)
        name = getattr(figure, "__name__", figure)
        raise ValueError(f"figure: got {name}, allowed is one of {allowed}; for others see bootstrap_interval")
    return proportion_interval(*_PROPORTIONS[figure](table), level=level, method=method)
