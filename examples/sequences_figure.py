"""The picture: both sequences of a held-out hemisphere, what each input found there, and the Dice of every run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figure_style import MUTED, PALETTE, TEXT, legend, new_figure, save, show_plane, style, widest_plane
from torch import Tensor

from fastmed.demo.cases import Case


def _draw_dice(axes: Any, dice: dict[str, dict[str, list[float]]]) -> None:
    """A point for each training, by the hemisphere held out, and a bar at the mean."""
    style(axes, "Dice of each training")
    for position, of in enumerate(dice.values()):
        every = [value for values in of.values() for value in values]
        axes.hlines(sum(every) / len(every), position - 0.3, position + 0.3, color=TEXT, linewidth=2)
        for index, (hemisphere, values) in enumerate(of.items()):
            label = None if position else f"{hemisphere} held out"
            places = [position - 0.12 + 0.24 * index] * len(values)
            axes.scatter(places, values, color=PALETTE[index], s=36, label=label, zorder=3)
    axes.set_xticks(range(len(dice)), list(dice), color=TEXT)
    axes.set_xlim(-0.5, len(dice) - 0.5)
    axes.set_ylim(0.0, 1.0)
    legend(axes, "upper left")


def draw(path: Path, content: dict[str, Any], case: Case, predictions: Mapping[str, Tensor]) -> None:
    """Write the picture as PNG.

    Args:
        path: file to write.
        content: what the example found.
        case: a held-out hemisphere with both sequences.
        predictions: its labels by the name of the input.
    """
    lines = [
        "CITI168 (one template), the other hemisphere trains: a working pipeline, not a finding",
        f"the same network, {content['steps']} steps; truth and predictions lie over a sequence",
    ]
    figure = new_figure((13.0, 5.4), "Sequences as channels", lines)
    grid = figure.add_gridspec(1, 2, left=0.03, right=0.98, bottom=0.08, top=0.76, wspace=0.1, width_ratios=(2.0, 1.0))
    panels = {
        "T1w": (0, None),
        "T2w": (1, None),
        "truth": (1, case.label),
        **{f"found with {name}": (0 if name == "T1w" else 1, prediction) for name, prediction in predictions.items()},
    }
    planes = grid[0].subgridspec(2, len(panels) // 2, wspace=0.05, hspace=0.2)
    position = widest_plane(case.label, 0)
    for index, (name, (channel, labels)) in enumerate(panels.items()):
        axes = figure.add_subplot(planes[divmod(index, len(panels) // 2)])
        overlay = None if labels is None else labels[position]
        show_plane(axes, case.image[channel, position], overlay, case.spacing[2] / case.spacing[1])
        axes.set_title(name if labels is not None else f"{name}, sagittal", color=TEXT, fontsize=10.5)
    _draw_dice(figure.add_subplot(grid[1]), content["dice"])
    figure.text(0.98, 0.01, f"{case.name} hemisphere", color=MUTED, fontsize=9, ha="right")
    save(figure, path)
