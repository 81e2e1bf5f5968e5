"""Figures by their names, as metrics and their options give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..validation import choice
from . import functional
from .functional import Empty, Fourfold, Interval, mean
from .scores import Scores

Average = Literal["none", "macro"]

AVERAGES = ("none", "macro")

FIGURES: dict[str, Callable[..., Tensor]] = {
    "accuracy": functional.accuracy,
    "balanced_accuracy": functional.balanced_accuracy,
    "cohen_kappa": functional.cohen_kappa,
    "dice": functional.dice,
    "f1": functional.f_beta,
    "iou": functional.iou,
    "mcc": functional.mcc,
    "negative_likelihood_ratio": functional.negative_likelihood_ratio,
    "npv": functional.npv,
    "positive_likelihood_ratio": functional.positive_likelihood_ratio,
    "ppv": functional.ppv,
    "prevalence": functional.prevalence,
    "sensitivity": functional.sensitivity,
    "specificity": functional.specificity,
}


def names(figures: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the figures that an option asks for.

    Raises:
        ValueError: for an unknown figure, or none at all.
    """
    asked = (figures,) if isinstance(figures, str) else tuple(figures)
    if not asked:
        raise ValueError(f"figures: got none, allowed are {', '.join(FIGURES)}")
    for name in asked:
        choice("figures", name, tuple(FIGURES))
    return asked


def evaluate(figures: Sequence[str], table: Fourfold, empty: Empty) -> Tensor:
    """The figures of a table with fields (...), stacked: (figures, ...)."""
    return torch.stack([FIGURES[name](table, empty=empty) for name in figures])


def averaged(values: Tensor, average: Average, empty: Empty) -> Tensor:
    """Values (..., C) of the classes, or their mean."""
    return values if average == "none" else mean(values, -1, empty)


def tabulate(result: Mapping[str, Tensor], names: Sequence[str] | None, default: Sequence[str], level: float) -> Scores:
    """What `compute` gave as a table to show; "x_lower" and "x_upper" are the interval of "x"."""
    values = {name: value.reshape(-1) for name, value in result.items()}
    with_interval = [name for name in values if f"{name}_lower" in values]
    intervals = {name: Interval(values.pop(f"{name}_lower"), values.pop(f"{name}_upper")) for name in with_interval}
    return Scores(tuple(default if names is None else names), values, intervals, level)
