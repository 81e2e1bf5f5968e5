"""Figures by class with their confidence intervals: for a data frame, and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from .functional.intervals import Interval
from .optional import require

if TYPE_CHECKING:
    import pandas
    from rich.table import Table

__all__ = ["Scores"]


@dataclass(frozen=True)
class Scores:
    """Figures by class, or by finding.

    `rich.print(scores)` shows them as a table.

    Args:
        names: of the K classes.
        values: each figure by its name, float64 (K,).
        intervals: of those figures that have one, limits (K,).
        level: probability that the intervals are to cover the truth with.

    Raises:
        ValueError: for figures that are not one for each name, or the interval of an unknown figure.

    Example:
        >>> import torch
        >>> from fastmed.metrics import Scores
        >>> from fastmed.metrics.functional import dice, figure_interval, fourfold, sensitivity
        >>> table = fourfold(torch.tensor([[90, 2, 1, 7], [80, 5, 5, 10]]))
        >>> scores = Scores(
        ...     names=("nodule", "mass"),
        ...     values={"sensitivity": sensitivity(table), "Dice": dice(table)},
        ...     intervals={"sensitivity": figure_interval(sensitivity, table)},
        ... )
        >>> print(scores.to_frame().round(3).to_string())
                sensitivity  sensitivity lower  sensitivity upper   Dice
        nodule        0.875              0.529              0.978  0.824
        mass          0.667              0.417              0.848  0.667
    """

    names: tuple[str, ...]
    values: Mapping[str, Tensor]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    level: float = 0.95

    def __post_init__(self) -> None:
        for figure, value in self.values.items():
            for part in (value, *self.intervals.get(figure, ())):
                if part.shape != (len(self.names),):
                    raise ValueError(f"{figure}: got shape {tuple(part.shape)}, allowed is ({len(self.names)},)")
        for figure in self.intervals:
            if figure not in self.values:
                raise ValueError(f"intervals: got {figure!r}, allowed is one of {tuple(self.values)}")

    def to_frame(self) -> pandas.DataFrame:
        """One row a class; a column a figure, followed by its lower and upper limits where it has them.

        Returns:
            A data frame indexed by the names of the classes.

        Raises:
            ModuleNotFoundError: without pandas.
        """
        columns: dict[str, list[float]] = {}
        for figure, value in self.values.items():
            columns[figure] = value.tolist()
            if figure in self.intervals:
                columns[f"{figure} lower"] = self.intervals[figure].lower.tolist()
                columns[f"{figure} upper"] = self.intervals[figure].upper.tolist()
        frame: pandas.DataFrame = require("pandas", "Scores.to_frame", "reports").DataFrame(columns, index=self.names)
        return frame

    def __rich__(self) -> Table:
        """One row a class, the interval below the figure; a dash is undefined."""
        box = require("rich.box", "A table of Scores", "reports")
        table: Table = require("rich.table", "A table of Scores", "reports").Table(
            box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True
        )
        escape = require("rich.markup", "A table of Scores", "reports").escape
        if self.intervals:
            table.title, table.title_justify = f"with {self.level * 100:g} % confidence intervals", "left"
        table.add_column("", overflow="fold")
        for figure in self.values:
            table.add_column(escape(figure), justify="right")
        for index, name in enumerate(self.names):
            table.add_row(escape(name), *[self._cell(figure, index) for figure in self.values])
        return table

    def _cell(self, figure: str, index: int) -> str:
        value = self.values[figure][index].item()
        if math.isnan(value):
            return "-"
        if figure not in self.intervals:
            return f"{value:.3f}"
        lower, upper = (limit[index].item() for limit in self.intervals[figure])
        return f"{value:.3f}\n{lower:.3f} to\n{upper:.3f}"
