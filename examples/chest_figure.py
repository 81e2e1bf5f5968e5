"""The picture: every label by its prevalence, and how well each way of training ranks its positives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_BACKGROUND, _PANEL, _TEXT, _MUTED = "#0d1117", "#161b22", "#e6edf3", "#8b949e"
_COLOURS = {"plain": "#4cc9f0", "weighted": "#f72585", "oversampled": "#ffd166", "undersampled": "#06d6a0"}
_PANELS = {"auroc": "Area under the ROC curve, stretched towards 1", "average_precision": "Average precision"}
_AUROC_TICKS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
# The top of the stretched axis, where an area of 1 is drawn.
_NEARLY_ONE = 1 - 5e-4
# Width of the moving mean, as a factor of prevalence either way.
_SPAN = 1.6


def _moving_mean(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], at: npt.NDArray[np.float64]) -> Any:
    """Gaussian-weighted mean over the logarithm of x."""
    distance = np.log(at[:, None] / x[None]) / np.log(_SPAN)
    weight = np.exp(-0.5 * distance**2)
    return (weight * y).sum(1) / weight.sum(1)


def _draw_panel(axes: Any, tasks: list[dict[str, Any]], metric: str, ways: list[str]) -> None:
    for way in ways:
        defined = [task for task in tasks if not np.isnan(task[metric][way])]
        x = np.array([task["prevalence"] for task in defined])
        y = np.array([task[metric][way] for task in defined])
        shown = np.minimum(y, _NEARLY_ONE) if metric == "auroc" else y
        colour = _COLOURS[way]
        axes.scatter(x, shown, s=16, color=colour, alpha=0.4, linewidths=0)
        at = np.geomspace(x.min(), x.max(), 100)
        axes.plot(at, _moving_mean(x, y, at), color=colour, linewidth=2.4, label=way, solid_capstyle="round")


def _style(axes: Any, title: str) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_facecolor(_PANEL)
    axes.set_title(title, color=_TEXT, fontsize=12, loc="left", pad=10)
    axes.tick_params(which="both", colors=_MUTED, labelsize=9, length=0)
    axes.spines[:].set_visible(False)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.set_xlabel("studies that have the label", color=_MUTED, fontsize=9.5)
    axes.grid(color=_MUTED, alpha=0.2, linewidth=0.6)
    axes.axvline(0.01, color=_MUTED, linewidth=0.8, linestyle=(0, (4, 4)))


def _stretch(axes: Any) -> None:
    """Distances from 1 on a logarithmic scale: 0.98 to 0.99 is as far as 0.99 to 0.995."""
    bottom = axes.get_ylim()[0]
    axes.set_yscale(
        "function", functions=(lambda y: -np.log2(np.maximum(1 - y, (1 - _NEARLY_ONE) / 2)), lambda z: 1 - 2.0**-z)
    )
    axes.set_yticks(_AUROC_TICKS, [f"{tick:g}" for tick in _AUROC_TICKS])
    axes.minorticks_off()
    axes.set_ylim(1 - 1.1 * (1 - bottom), 1 - 0.7 * (1 - _NEARLY_ONE))


def draw(path: Path, content: dict[str, Any]) -> None:
    """Write the picture as PNG.

    Args:
        path: file to write.
        content: what `compare_balancing` found.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 5.6), facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    tasks, ways = content["tasks"], list(content["seconds"])
    figure.text(
        0.06, 0.925, f"{len(tasks)} labels from PadChest's reports", color=_TEXT, fontsize=18, fontweight="bold"
    )
    subtitle = (
        f"{content['held_out_studies']:,} studies of {content['held_out_patients']:,} patients held out; "
        "one point a label, lines are moving means"
    )
    figure.text(0.06, 0.875, subtitle, color=_MUTED, fontsize=10.5)
    grid = figure.add_gridspec(1, 2, left=0.06, right=0.97, bottom=0.11, top=0.79, wspace=0.14)
    for column, (metric, title) in enumerate(_PANELS.items()):
        axes = figure.add_subplot(grid[column])
        _draw_panel(axes, tasks, metric, ways)
        _style(axes, title)
        if metric == "auroc":
            _stretch(axes)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="upper right",
        bbox_to_anchor=(0.98, 0.97),
        ncols=len(ways),
        frameon=False,
        labelcolor=_TEXT,
        fontsize=11,
        handlelength=1.4,
    )
    figure.savefig(path, format="png", dpi=120, facecolor=_BACKGROUND)
