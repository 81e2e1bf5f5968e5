"""What a figure is worth where it is not defined: one policy for every figure and every mean."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["Empty", "mean", "ratio"]

Empty = Literal["nan", "zero", "one", "skip"]
"""Value of 0 / 0, as the sensitivity to a class that does not occur: NaN, 0 or 1.

"skip" is a NaN that a `mean` leaves out, where "nan" makes the mean NaN too.
"""

_VALUE = {"nan": math.nan, "zero": 0.0, "one": 1.0, "skip": math.nan}


def empty_value(empty: Empty) -> float:
    """What an undefined figure is worth; raises `ValueError` for an unknown policy."""
    if empty not in _VALUE:
        raise ValueError(f"empty: got {empty!r}, allowed is one of {get_args(Empty)}")
    return _VALUE[empty]


def ratio(numerator: Tensor, denominator: Tensor, empty: Empty = "nan") -> Tensor:
    """Quotient, with the policy's value for 0 / 0.

    Anything else that is divided by 0 is infinite, as the positive likelihood ratio of a test without a false alarm.

    Args:
        numerator: of any shape.
        denominator: of a shape that broadcasts with it.
        empty: value of 0 / 0.

    Returns:
        The quotient, of the broadcast shape.

    Raises:
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import ratio
        >>> ratio(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([2.0, 0.0, 0.0]), empty="one").tolist()
        [0.5, 1.0, inf]
    """
    value = empty_value(empty)
    return torch.where((numerator == 0) & (denominator == 0), value, numerator / denominator)


def mean(values: Tensor, dim: int | tuple[int, ...], empty: Empty = "skip") -> Tensor:
    """Mean of a figure over samples or classes, where some values may be undefined (NaN).

    Args:
        values: figures of any shape; NaN is undefined.
        dim: dimension or dimensions that the mean is over.
        empty: "skip" leaves undefined values out, "nan" lets one make the mean NaN, "zero" and "one" count it as
            such a value.

    Returns:
        The mean, of the shape without `dim`; under "skip" NaN where every value is undefined.

    Raises:
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import mean
        >>> values = torch.tensor([0.5, 1.0, float("nan")])
        >>> [mean(values, 0, empty=empty).item() for empty in ("skip", "nan", "zero")]
        [0.75, nan, 0.5]
    """
    value = empty_value(empty)
    if empty == "skip":
        return values.nanmean(dim)
    return torch.where(values.isnan(), value, values).mean(dim)
