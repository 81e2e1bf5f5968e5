"""Pictures of counts, with matplotlib: each draws on the axes it is given, or on a figure of its own, and returns them.

Save one with `axes.figure.savefig("roc.png")`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..contract import ScoreHistogram
from .functional import (
    Fourfold,
    Interval,
    at_thresholds,
    figure_interval,
    ppv,
    prevalence,
    proportion_interval,
    reliability_diagram,
    sensitivity,
    specificity,
)
from .functional.curves import by_score
from .optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["confusion_matrix", "precision_recall", "reliability", "roc"]

# Okabe and Ito's colours, told apart with any colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GUIDE: dict[str, Any] = {"color": "#888888", "linewidth": 1.0, "linestyle": (0, (4, 4)), "zorder": 0}


def confusion_matrix(matrix: Tensor, names: Sequence[str] | None = None, *, axes: Axes | None = None) -> Axes:
    """Each cell its count, and, as number and shade, its share of the row, so that the diagonal is the sensitivity.

    Args:
        matrix: counts (C, C), rows = target.
        names: of the classes; None numbers them.
        axes: to draw on.

    Returns:
        The axes.

    Raises:
        ValueError: for another shape, or another number of names.
        ModuleNotFoundError: without matplotlib.

    Example:
        >>> import torch
        >>> from fastmed.metrics import plots
        >>> axes = plots.confusion_matrix(torch.tensor([[90, 2], [1, 7]]), ["healthy", "nodule"])
        >>> axes.get_xlabel()
        'prediction'
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix: got shape {tuple(matrix.shape)}, allowed is (C, C), rows = target")
    labels = _names(names, len(matrix), "class")
    axes = axes or _axes()
    counts = matrix.double().cpu()
    share = counts / counts.sum(1, keepdim=True)
    image = axes.imshow(share.nan_to_num(0.0).numpy(), cmap="Blues", vmin=0.0, vmax=1.0)
    axes.figure.colorbar(image, ax=axes, label="share of the target's class")
    for row, column in torch.cartesian_prod(*[torch.arange(len(matrix))] * 2).tolist():
        part = share[row, column].item()
        text = f"{counts[row, column].item():,.0f}" + ("" if part != part else f"\n{part:.1%}")
        colour = "white" if part > 0.6 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    ticks = range(len(labels))
    axes.set(xticks=ticks, yticks=ticks, xlabel="prediction", ylabel="target")
    axes.set_xticklabels(labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticklabels(labels)
    return axes


def roc(
    histogram: ScoreHistogram, names: Sequence[str] | None = None, *, level: float = 0.95, axes: Axes | None = None
) -> Axes:
    """Sensitivity over 1 - specificity, with the interval of the sensitivity at each threshold.

    The band is Wilson's interval for one threshold fixed beforehand, not for the whole curve at once.

    Args:
        histogram: scores of T tasks, as `fastmed.functional.score_histogram` counts them.
        names: of the tasks, for the legend; None numbers them.
        level: probability that an interval is to cover the truth with, in (0, 1).
        axes: to draw on.

    Returns:
        The axes.

    Raises:
        TypeError: for anything but a histogram.
        ValueError: for another number of names, or a level outside (0, 1).
        ModuleNotFoundError: without matplotlib.

    Example:
        >>> import torch
        >>> from fastmed.functional import score_histogram
        >>> from fastmed.metrics import plots
        >>> histogram = score_histogram(torch.rand(50, 1), torch.randint(2, (50, 1)))
        >>> plots.roc(histogram, ["nodule"]).get_ylabel()
        'sensitivity, with 95 % intervals'
    """
    axes = axes or _axes()
    for index, (label, of_task) in enumerate(_tasks(histogram, names)):
        _draw_band(
            axes,
            1.0 - specificity(of_task),
            sensitivity(of_task),
            figure_interval(sensitivity, of_task, level),
            index,
            label,
        )
    axes.plot((0, 1), (0, 1), **_GUIDE)
    return _unit_square(axes, "1 - specificity", f"sensitivity, with {100 * level:g} % intervals", "lower right")


def precision_recall(
    histogram: ScoreHistogram, names: Sequence[str] | None = None, *, level: float = 0.95, axes: Axes | None = None
) -> Axes:
    """PPV (precision) over sensitivity (recall), with the interval of the PPV at each threshold.

    The dashed line of a task is its prevalence, the PPV by chance. The band is Wilson's interval for one threshold
    fixed beforehand, not for the whole curve at once.

    Args:
        histogram: scores of T tasks, as `fastmed.functional.score_histogram` counts them.
        names: of the tasks, for the legend; None numbers them.
        level: probability that an interval is to cover the truth with, in (0, 1).
        axes: to draw on.

    Returns:
        The axes.

    Raises:
        TypeError: for anything but a histogram.
        ValueError: for another number of names, or a level outside (0, 1).
        ModuleNotFoundError: without matplotlib.

    Example:
        >>> import torch
        >>> from fastmed.functional import score_histogram
        >>> from fastmed.metrics import plots
        >>> histogram = score_histogram(torch.rand(50, 1), torch.randint(2, (50, 1)))
        >>> plots.precision_recall(histogram, ["nodule"]).get_xlabel()
        'sensitivity (recall)'
    """
    axes = axes or _axes()
    for index, (label, of_task) in enumerate(_tasks(histogram, names)):
        _draw_band(axes, sensitivity(of_task), ppv(of_task), figure_interval(ppv, of_task, level), index, label)
        axes.axhline(prevalence(of_task)[0].item(), **{**_GUIDE, "color": _colour(index)})
    return _unit_square(axes, "sensitivity (recall)", f"PPV (precision), with {100 * level:g} % intervals", "best")


def reliability(
    histogram: ScoreHistogram,
    names: Sequence[str] | None = None,
    *,
    bins: int = 10,
    level: float = 0.95,
    axes: Axes | None = None,
) -> Axes:
    """How often what is predicted with some probability is there, with Wilson's intervals (DeGroot and Fienberg, 1983).

    Args:
        histogram: probabilities of T tasks, as `fastmed.functional.score_histogram` counts them.
        names: of the tasks, for the legend; None numbers them.
        bins: number of points a task, equal steps of probability; those without a case are left out.
        level: probability that an interval is to cover the truth with, in (0, 1).
        axes: to draw on.

    Returns:
        The axes.

    Raises:
        TypeError: for anything but a histogram.
        ValueError: for a histogram that reaches beyond 0 or 1, no bin, another number of names, or a level outside
            (0, 1).
        ModuleNotFoundError: without matplotlib.

    Example:
        >>> import torch
        >>> from fastmed.functional import score_histogram
        >>> from fastmed.metrics import plots
        >>> histogram = score_histogram(torch.rand(50, 1), torch.randint(2, (50, 1)))
        >>> plots.reliability(histogram, ["nodule"], bins=4).get_xlabel()
        'mean predicted probability'
    """
    diagram = reliability_diagram(histogram, bins)
    labels = _names(names, len(diagram.counts), "task")
    axes = axes or _axes()
    for index, (label, *points) in enumerate(zip(labels, *diagram, strict=True)):
        filled = points[2] > 0
        predicted, observed, cases = (part[filled].cpu() for part in points)
        lower, upper = proportion_interval((observed * cases).round(), cases, level)
        axes.errorbar(
            predicted.numpy(),
            observed.numpy(),
            yerr=torch.stack([observed - lower, upper - observed]).clamp(min=0.0).numpy(),
            color=_colour(index),
            marker="o",
            markersize=5,
            linewidth=1.4,
            capsize=3,
            label=label,
        )
    axes.plot((0, 1), (0, 1), **_GUIDE)
    title = f"observed share, with {100 * level:g} % intervals"
    return _unit_square(axes, "mean predicted probability", title, "upper left")


def _axes() -> Axes:
    figure = require("matplotlib.figure", "A plot", "reports").Figure(figsize=(5.5, 5.0), layout="constrained")
    axes: Axes = figure.subplots()
    return axes


def _names(names: Sequence[str] | None, number: int, kind: str) -> list[str]:
    if names is None:
        return [f"{kind} {index}" for index in range(number)]
    if len(names) != number:
        raise ValueError(f"names: got {len(names)}, allowed is {number}, one a {kind}")
    return list(names)


def _tasks(histogram: ScoreHistogram, names: Sequence[str] | None) -> list[tuple[str, Fourfold]]:
    """Name of each task, and its tables at all thresholds."""
    counts = by_score(histogram).cpu()
    labels = _names(names, len(counts), "task")
    return [(label, at_thresholds(of_task)) for label, of_task in zip(labels, counts, strict=True)]


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _draw_band(axes: Axes, x: Tensor, y: Tensor, interval: Interval, index: int, label: str) -> None:
    axes.fill_between(x.numpy(), interval.lower.numpy(), interval.upper.numpy(), color=_colour(index), alpha=0.2, lw=0)
    axes.plot(x.numpy(), y.numpy(), color=_colour(index), linewidth=1.8, label=label)


def _unit_square(axes: Axes, x: str, y: str, legend: str) -> Axes:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y, aspect="equal")
    axes.grid(color="#cccccc", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc=legend, frameon=False)
    return axes
