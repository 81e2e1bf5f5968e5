"""The picture of a demonstration: three planes of a held-out case, and how the loss fell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .cases import Case
from .report import Scores
from .training import smoothed

_BACKGROUND, _PANEL, _TEXT, _MUTED = "#0d1117", "#161b22", "#e6edf3", "#8b949e"
_PALETTE = ("#4cc9f0", "#f72585", "#ffd166", "#06d6a0", "#b388ff", "#ff8c42", "#9ef01a", "#5e7ce2")
_OPACITY = 0.62


def _planes(label: Tensor) -> list[tuple[str, int, int]]:
    """Name, axis and position of three planes: each where the foreground is largest."""
    foreground = label > 0
    names = ("sagittal", "coronal", "axial")
    areas = [foreground.sum([other for other in range(3) if other != axis]) for axis in range(3)]
    return [(name, axis, int(area.argmax())) for axis, (name, area) in enumerate(zip(names, areas, strict=True))]


def _show(axes: Any, plane: Tensor, aspect: float, colours: Any = None, labels: Tensor | None = None) -> None:
    """A plane with its first axis to the right and its second upwards, and labels over it."""
    axes.imshow(plane.T, cmap="gray", origin="lower", aspect=aspect, vmin=0.0, vmax=1.0, interpolation="bilinear")
    if labels is not None:
        overlay = colours[labels.T.numpy()]
        axes.imshow(overlay, origin="lower", aspect=aspect, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _draw_planes(figure: Any, grid: Any, case: Case, prediction: Tensor, colours: Any) -> None:
    """Rows: image, truth, prediction. Columns: planes, as wide as what they show."""
    planes = _planes(case.label)
    extent = [size * mm for size, mm in zip(case.label.shape, case.spacing, strict=True)]
    across = [[other for other in range(3) if other != axis] for _, axis, _ in planes]
    panels = grid.subgridspec(
        3,
        3,
        width_ratios=[extent[first] / extent[second] for first, second in across],
        wspace=0.04,
        hspace=0.06,
    )
    rows = (("image", None), ("truth", case.label), ("prediction", prediction))
    for column, ((name, axis, position), (first, second)) in enumerate(zip(planes, across, strict=True)):
        aspect = case.spacing[second] / case.spacing[first]
        for row, (title, labels) in enumerate(rows):
            axes = figure.add_subplot(panels[row, column])
            axes.set_facecolor("black")
            overlay = None if labels is None else labels.select(axis, position)
            _show(axes, case.image[0].select(axis, position), aspect, colours, overlay)
            if row == 0:
                axes.set_title(name, color=_TEXT, fontsize=12, pad=8)
            if column == 0:
                axes.set_ylabel(title, color=_TEXT, fontsize=12, labelpad=8)


def _style(axes: Any, title: str) -> None:
    axes.set_facecolor(_PANEL)
    axes.set_title(title, color=_TEXT, fontsize=12, loc="left", pad=10)
    axes.tick_params(colors=_MUTED, labelsize=9, length=0)
    axes.spines[:].set_visible(False)


def _draw_loss(axes: Any, losses: Sequence[float]) -> None:
    _style(axes, "Training loss, Dice + CE")
    steps = range(1, len(losses) + 1)
    axes.plot(steps, losses, color=_PALETTE[0], alpha=0.3, linewidth=0.8)
    mean = smoothed(losses, max(1, len(losses) // 20))
    axes.plot(steps, mean, color=_PALETTE[0], linewidth=2.0, solid_capstyle="round")
    axes.set_xlim(1, max(2, len(losses)))
    axes.set_ylim(0.0, None)
    axes.set_xlabel("step", color=_MUTED, fontsize=9)
    axes.grid(axis="y", color=_MUTED, alpha=0.2, linewidth=0.6)
    axes.annotate(
        f"{mean[-1]:.2f}",
        (len(losses), mean[-1]),
        (-6, 8),
        textcoords="offset points",
        ha="right",
        color=_TEXT,
    )


def _draw_dice(axes: Any, scores: Scores, colours: Any) -> None:
    _style(axes, "Dice, held out")
    names, values = scores.classes[1:], np.nan_to_num(scores.by_class["Dice"][1:])
    positions = range(len(names))
    axes.barh(positions, [1.0] * len(names), color=_MUTED, alpha=0.15, height=0.55)
    axes.barh(positions, values, color=colours[1:, :3], height=0.55)
    for position, value in zip(positions, values, strict=True):
        axes.text(1.02, position, f"{value:.3f}", color=_TEXT, va="center", fontsize=10)
    axes.set_yticks(positions, names, color=_TEXT, fontsize=10)
    axes.set_xticks([])
    axes.set_xlim(0.0, 1.16)
    axes.invert_yaxis()


def draw(
    path: Path,
    title: str,
    subtitle: str,
    case: Case,
    prediction: Tensor,
    scores: Scores,
    losses: Sequence[float],
) -> None:
    """Write the picture as PNG.

    Args:
        path: file to write.
        title: of the picture.
        subtitle: a line below it.
        case: held-out case; its first channel is shown.
        prediction: labels (X, Y, Z) of it.
        scores: figures of all held-out cases.
        losses: loss of each training step.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    palette = [_PALETTE[index % len(_PALETTE)] for index in range(len(scores.classes) - 1)]
    colours = np.array([(0.0, 0.0, 0.0, 0.0), *[to_rgba(colour, _OPACITY) for colour in palette]])
    figure = Figure(figsize=(13.0, 8.4), facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    figure.text(0.035, 0.955, title, color=_TEXT, fontsize=18, fontweight="bold")
    figure.text(0.035, 0.92, subtitle, color=_MUTED, fontsize=10.5)
    grid = figure.add_gridspec(
        1, 2, width_ratios=(2.1, 1.0), left=0.055, right=0.965, top=0.86, bottom=0.085, wspace=0.22
    )
    _draw_planes(figure, grid[0], case, prediction, colours)
    charts = grid[1].subgridspec(2, 1, height_ratios=(1.35, 1.0), hspace=0.32)
    _draw_loss(figure.add_subplot(charts[0]), losses)
    _draw_dice(figure.add_subplot(charts[1]), scores, colours)
    figure.legend(
        handles=[Patch(color=colour, label=name) for colour, name in zip(palette, scores.classes[1:], strict=True)],
        loc="lower left",
        bbox_to_anchor=(0.045, 0.015),
        ncols=8,
        frameon=False,
        labelcolor=_TEXT,
        fontsize=10.5,
        handlelength=1.0,
        handleheight=1.0,
    )
    figure.savefig(path, format="png", dpi=110, facecolor=_BACKGROUND)
