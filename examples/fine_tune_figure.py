"""The picture: both losses on the few patients, and the Dice of every held-out case from both starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from figure_style import MUTED, PALETTE, TEXT, legend, new_figure, save, style

from fastmed.demo.training import smoothed


def _draw_losses(axes: Any, losses: dict[str, list[float]]) -> None:
    style(axes, "Training loss on the few, Dice + CE")
    for colour, (name, values) in zip(PALETTE, losses.items(), strict=False):
        steps = range(1, len(values) + 1)
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(steps, smoothed(values, max(1, len(values) // 10)), color=colour, linewidth=2, label=name)
    axes.set_xlabel("step", color=MUTED, fontsize=9.5)
    axes.set_ylim(0.0, None)
    legend(axes, "upper right")


def _draw_dice(axes: Any, content: dict[str, Any]) -> None:
    """Each case as a line from one start to the other, and the mean with its interval."""
    style(axes, "Dice of each held-out case, and the mean with its 95 % interval")
    first, second = content["dice"]
    for index, figures in enumerate(content["classes"].values()):
        places = {first: index - 0.17, second: index + 0.17}
        for case, dice in content["dice"][first].items():
            pair = (dice[index], content["dice"][second][case][index])
            if None not in pair:
                axes.plot(list(places.values()), pair, color=MUTED, linewidth=0.7, alpha=0.6, marker="o", markersize=2)
        for colour, (name, x), side in zip(PALETTE, places.items(), (-0.1, 0.1), strict=False):
            value, (low, high) = figures[name]["value"], figures[name]["interval"]
            error = [[value - low], [high - value]]
            axes.errorbar(x + side, value, yerr=error, color=colour, marker="o", linewidth=2.4, capsize=4)
    axes.set_xticks(range(len(content["classes"])), content["classes"], color=TEXT)
    axes.set_xlim(-0.6, len(content["classes"]) - 0.4)


def draw(path: Path, content: dict[str, Any]) -> None:
    """Write the picture as PNG.

    Args:
        path: file to write.
        content: what the example found.
    """
    patients, steps = content["patients"], content["steps"]
    lines = [
        f"{content['data']}: {patients['pre-training']} patients with one class, {steps['pre-training']} steps; then "
        f"{patients['few']} others with all classes, {steps['few']} steps; {patients['held out']} held out"
    ]
    figure = new_figure((12.0, 5.2), "Fine-tuning on a few patients", lines)
    grid = figure.add_gridspec(1, 2, left=0.05, right=0.98, bottom=0.11, top=0.77, wspace=0.12)
    _draw_losses(figure.add_subplot(grid[0]), content["losses"])
    _draw_dice(figure.add_subplot(grid[1]), content)
    save(figure, path)
