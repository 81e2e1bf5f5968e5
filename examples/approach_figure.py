"""The picture: Dice of every held-out case by both approaches, and one case in two planes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fastmed.demo.cases import Case

_BACKGROUND, _PANEL, _TEXT, _MUTED = "#0d1117", "#161b22", "#e6edf3", "#8b949e"
_SLICES, _VOLUMES = "#ffd166", "#4cc9f0"
_LABELS = ("#f72585", "#06d6a0", "#4cc9f0", "#ffd166", "#b388ff", "#ff8c42")
_OPACITY = 0.6


def _draw_dice(axes: Any, content: dict[str, Any]) -> None:
    """Each case as a line from one approach to the other, and the mean with its interval."""
    (slices, of_slices), (volumes, of_volumes) = content["approaches"].items()
    for index, figures in enumerate(content["classes"].values()):
        left, right = index - 0.17, index + 0.17
        for case, dice in of_slices["dice"].items():
            pair = (dice[index], of_volumes["dice"][case][index])
            if None not in pair:
                axes.plot((left, right), pair, color=_MUTED, linewidth=0.7, alpha=0.6, marker="o", markersize=2)
        for name, x, colour in ((slices, left - 0.1, _SLICES), (volumes, right + 0.1, _VOLUMES)):
            value, (low, high) = figures[name]["value"], figures[name]["interval"]
            axes.errorbar(
                x,
                value,
                yerr=[[value - low], [high - value]],
                color=colour,
                marker="o",
                markersize=6,
                linewidth=2.4,
                capsize=4,
                label=None if index else name,
            )
    axes.set_facecolor(_PANEL)
    axes.set_title(
        "Dice of each case, and the mean with its 95 % interval", color=_TEXT, fontsize=12, loc="left", pad=10
    )
    axes.tick_params(which="both", colors=_MUTED, labelsize=9.5, length=0)
    axes.spines[:].set_visible(False)
    axes.grid(axis="y", color=_MUTED, alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xticks(range(len(content["classes"])), content["classes"], color=_TEXT)
    axes.set_xlim(-0.6, len(content["classes"]) - 0.4)
    axes.legend(loc="lower left", frameon=False, labelcolor=_TEXT, fontsize=10)


def _overlay(labels: Tensor) -> Any:
    """Colours (X, Y, 4) of labels (X, Y), the background clear."""
    colours = np.zeros((256, 4))
    for value in range(1, 256):
        text = _LABELS[(value - 1) % len(_LABELS)]
        colours[value] = [int(text[start : start + 2], 16) / 255 for start in (1, 3, 5)] + [_OPACITY]
    return colours[labels.T.numpy()]


def _draw_planes(panels: Any, case: Case, maps: Mapping[str, Tensor]) -> None:
    """A row for each plane where the truth is largest: across the slices of the 2D network, and along them."""
    foreground = case.label > 0
    for row, (plane, axis) in zip(panels, (("axial", 2), ("sagittal", 0)), strict=True):
        others = [other for other in range(3) if other != axis]
        position = int(foreground.sum(others).argmax())
        aspect = case.spacing[others[1]] / case.spacing[others[0]]
        image = case.image[0].select(axis, position).T.numpy()
        for axes, (name, labels) in zip(row, maps.items(), strict=True):
            axes.imshow(image, cmap="gray", origin="lower", aspect=aspect, vmin=0.0, vmax=1.0)
            axes.imshow(_overlay(labels.select(axis, position)), origin="lower", aspect=aspect, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if axis == 2:
                axes.set_title(name, color=_TEXT, fontsize=11)
        row[0].set_ylabel(plane, color=_MUTED, fontsize=10)


def draw(path: Path, content: dict[str, Any], case: Case, predictions: Mapping[str, Tensor]) -> None:
    """Write the picture as PNG.

    Args:
        path: file to write.
        content: what the example found.
        case: a held-out case.
        predictions: its labels by each approach.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 6.0), facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    figure.text(0.06, 0.92, "Slices or volumes", color=_TEXT, fontsize=18, fontweight="bold")
    networks = "; ".join(
        f"{name}: {each['parameters']:,} parameters, {each['steps']} steps, {each['seconds']:.0f} s"
        for name, each in content["approaches"].items()
    )
    for height, line in ((0.875, f"{content['data']}, {content['split']}"), (0.84, networks)):
        figure.text(0.06, height, line, color=_MUTED, fontsize=9.5)
    grid = figure.add_gridspec(1, 2, left=0.06, right=0.98, bottom=0.08, top=0.76, wspace=0.1)
    _draw_dice(figure.add_subplot(grid[0]), content)
    planes = grid[1].subgridspec(2, 3, wspace=0.05, hspace=0.08)
    panels = [[figure.add_subplot(planes[row, column]) for column in range(3)] for row in range(2)]
    _draw_planes(panels, case, {f"truth, {case.name}": case.label, **predictions})
    figure.savefig(path, format="png", dpi=120, facecolor=_BACKGROUND)
