"""The figures of a demonstration: as tables on the terminal and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from ..functional import confusion_counts
from ..metrics import functional as metrics
from .comparison import Measurement

COLUMNS = {
    "Dice": metrics.dice,
    "sensitivity": metrics.sensitivity,
    "specificity": metrics.specificity,
    "PPV": metrics.ppv,
    "NPV": metrics.npv,
    "prevalence": metrics.prevalence,
}


class Scores(NamedTuple):
    """Figures of the held-out cases.

    Attributes:
        classes: name of each label.
        by_class: each metric (C,) of the counts summed over cases.
        foreground_dice: of each case, the mean over the classes but the background that the case has.
    """

    classes: tuple[str, ...]
    by_class: dict[str, list[float]]
    foreground_dice: dict[str, float]

    @property
    def mean_foreground_dice(self) -> float:
        """Mean over the held-out cases."""
        return sum(self.foreground_dice.values()) / len(self.foreground_dice)


def score(classes: tuple[str, ...], names: Sequence[str], counts: Tensor) -> Scores:
    """Every metric, from the confusion counts (N, C, C) of N held-out cases."""
    pooled = metrics.one_versus_rest(counts.sum(0))
    foreground = metrics.mean(metrics.dice(metrics.one_versus_rest(counts))[:, 1:], 1)
    return Scores(
        classes,
        {name: metric(pooled).tolist() for name, metric in COLUMNS.items()},
        dict(zip(names, foreground.tolist(), strict=True)),
    )


def dice_of_case(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    """Dice of each class without the background, (C - 1,), of one case."""
    counts = confusion_counts(prediction[None], label[None], classes)
    return metrics.dice(metrics.one_versus_rest(counts))[0, 1:]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _table(title: str) -> Table:
    """A table that fits 80 columns."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)


def print_scores(console: Console, scores: Scores) -> None:
    """One row a class, and the mean foreground Dice."""
    table = _table("Held out, from confusion_counts")
    table.add_column("class")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for index, label in enumerate(scores.classes):
        table.add_row(escape(label), *[_number(values[index]) for values in scores.by_class.values()])
    console.print(table)
    console.print(f"\n{summary(scores)}\n")


def summary(scores: Scores) -> str:
    """The mean foreground Dice and over how many cases it is."""
    cases = len(scores.foreground_dice)
    over = "" if cases == 1 else f" of {cases} held-out patients"
    return f"mean foreground Dice{over} {scores.mean_foreground_dice:.3f}"


def print_comparison(console: Console, rows: Sequence[Measurement], shape: Sequence[int]) -> None:
    """One row a loss; time as a multiple of the last row's, which is the fused loss."""
    table = _table(f"Dice + CE on the last training step, logits {tuple(shape)}")
    table.add_column("loss")
    for name in ("value", "gradient diff.", "fwd + bwd", "ratio", "kept for bwd"):
        table.add_column(name, justify="right")
    fused = rows[-1].seconds
    for row in rows:
        table.add_row(
            row.name,
            f"{row.value:.6f}",
            f"{row.gradient_difference:.0e}" if row.gradient_difference else "reference",
            f"{row.seconds * 1e3:.1f} ms",
            f"{row.seconds / fused:.1f}x",
            _size(row.kept_bytes),
        )
    console.print(table)


def _size(count: int) -> str:
    return f"{count / 2**10:.1f} KiB" if count < 2**20 else f"{count / 2**20:.1f} MiB"


def as_json(scores: Scores, rows: Sequence[Measurement], losses: Sequence[float]) -> dict[str, Any]:
    """All figures; a metric that is not defined is null."""
    return {
        "mean_foreground_dice": _defined(scores.mean_foreground_dice),
        "foreground_dice": {name: _defined(value) for name, value in scores.foreground_dice.items()},
        "by_class": {
            label: {name: _defined(values[index]) for name, values in scores.by_class.items()}
            for index, label in enumerate(scores.classes)
        },
        "loss_comparison": [row._asdict() for row in rows],
        "training_loss": list(losses),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
