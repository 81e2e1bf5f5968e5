"""The picture: figures of each finding with their intervals, and Dice of every pair of readers by the nodule's size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agreement_data import Pairs

from fastmed.metrics import functional as metrics

_BACKGROUND, _PANEL, _TEXT, _MUTED = "#0d1117", "#161b22", "#e6edf3", "#8b949e"
_COLOURS = ("#4cc9f0", "#ffd166", "#06d6a0")
_PAIRS, _MEDIAN = "#4cc9f0", "#f72585"
# Where the bands' medians are drawn, in mm.
_MIDDLES = {"below 5 mm": 3.9, "5 to 10 mm": 7.0, "10 to 20 mm": 14.0, "20 mm and above": 24.0}


def _style(axes: Any, title: str) -> None:
    axes.set_facecolor(_PANEL)
    axes.set_title(title, color=_TEXT, fontsize=12, loc="left", pad=10)
    axes.tick_params(which="both", colors=_MUTED, labelsize=9.5, length=0)
    axes.spines[:].set_visible(False)
    axes.grid(color=_MUTED, alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)


def _errors(figure: dict[str, Any]) -> list[list[float]]:
    """Distances to both limits, as errorbar takes them."""
    low, high = figure["interval"]
    return [[figure["value"] - low], [high - figure["value"]]]


def _draw_labels(axes: Any, findings: list[dict[str, Any]]) -> None:
    names = [name for name in findings[0]["figures"] if name != "prevalence"]
    for index, finding in enumerate(findings):
        for row, name in enumerate(names):
            figure = finding["figures"][name]
            axes.errorbar(
                figure["value"],
                row + 0.22 * (index - 1),
                xerr=_errors(figure),
                color=_COLOURS[index],
                marker="o",
                markersize=4.5,
                linewidth=2.0,
                label=finding["finding"] if row == 0 else None,
            )
    _style(axes, "Labels from reports, against radiologists' consensus")
    axes.set_yticks(range(len(names)), names, color=_TEXT)
    axes.set(xlim=(0.0, 1.02), ylim=(len(names) - 0.5, -0.5))
    axes.set_xlabel("value, with 95 % interval", color=_MUTED, fontsize=9.5)
    axes.legend(loc="upper left", frameon=False, labelcolor=_TEXT, fontsize=10)


def _draw_outlines(axes: Any, groups: list[dict[str, Any]], pairs: Pairs) -> None:
    dice = metrics.dice(metrics.one_versus_rest(pairs.counts))[:, 1]
    axes.scatter(pairs.diameters, dice, s=5, color=_PAIRS, alpha=0.25, linewidths=0, label="a pair of readers")
    for index, group in enumerate(group for group in groups if group["nodules"] in _MIDDLES):
        axes.errorbar(
            _MIDDLES[group["nodules"]],
            group["median"]["value"],
            yerr=_errors(group["median"]),
            color=_MEDIAN,
            marker="o",
            markersize=5,
            linewidth=2.4,
            capsize=4,
            label=None if index else "median of a band",
        )
    axes.axhline(groups[0]["median"]["value"], color=_MEDIAN, linewidth=1.2, linestyle=(0, (4, 4)), label="median")
    _style(axes, "Dice of two readers, by the size of the nodule")
    axes.set_xscale("log")
    ticks = (2, 3, 5, 10, 20, 30)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("diameter where it is largest, mm", color=_MUTED, fontsize=9.5)
    axes.legend(loc="lower right", frameon=False, labelcolor=_TEXT, fontsize=10, markerscale=1.6)


def draw(path: Path, content: dict[str, Any], pairs: Pairs) -> None:
    """Write the picture as PNG.

    Args:
        path: file to write.
        content: what the example found.
        pairs: the pairs of readers.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 5.6), facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    figure.text(0.1, 0.925, "How far readers agree", color=_TEXT, fontsize=18, fontweight="bold")
    labels, outlines = content["labels"], content["outlines"]["groups"][0]
    subtitle = (
        f"{labels['images']:,} chest X-rays of {labels['patients']:,} patients; {outlines['number']:,} nodules of "
        f"{outlines['patients']:,} patients, {outlines['pairs']:,} pairs of readers; bootstrap over patients"
    )
    figure.text(0.1, 0.875, subtitle, color=_MUTED, fontsize=10.5)
    grid = figure.add_gridspec(1, 2, left=0.1, right=0.97, bottom=0.11, top=0.79, wspace=0.14)
    _draw_labels(figure.add_subplot(grid[0]), labels["findings"])
    _draw_outlines(figure.add_subplot(grid[1]), content["outlines"]["groups"], pairs)
    figure.savefig(path, format="png", dpi=120, facecolor=_BACKGROUND)
