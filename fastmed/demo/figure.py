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
_OPACITY = 0.66
# Inches: height of a row of planes, width of the charts, and what is around them.
_ROW, _CHARTS = 2.5, 4.0
_LEFT, _BETWEEN, _RIGHT, _TOP, _BOTTOM = 0.75, 1.35, 0.4, 1.35, 0.7


def _planes(label: Tensor) -> list[tuple[str, int, int]]:
    """Name, axis and position of three planes: each where the foreground is largest."""
    foreground = label > 0
    names = ("sagittal", "coronal", "axial")
    areas = [foreground.sum([other for other in range(3) if other != axis]) for axis in range(3)]
    return [(name, axis, int(area.argmax())) for axis, (name, area) in enumerate(zip(names, areas, strict=True))]


def _show(axes: Any, plane: Tensor, aspect: float, colours: Any = None, labels: Tensor | None = None) -> None:
    """A plane with its first axis to the right and its second upwards, and labels over it."""
    axes.imshow(
        plane.T.numpy(), cmap="gray", origin="lower", aspect=aspect, vmin=0.0, vmax=1.0, interpolation="bilinear"
    )
    if labels is not None:
        overlay = colours[labels.T.numpy()]
        axes.imshow(overlay, origin="lower", aspect=aspect, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _across(axis: int) -> tuple[int, int]:
    """The axes that a plane shows, to the right and upwards."""
    first, second = (other for other in range(3) if other != axis)
    return first, second


def _proportions(case: Case) -> list[float]:
    """Width of each plane over its height, as the body has them."""
    extent = [size * mm for size, mm in zip(case.label.shape, case.spacing, strict=True)]
    return [extent[first] / extent[second] for first, second in map(_across, range(3))]


def _draw_planes(figure: Any, panels: Any, case: Case, prediction: Tensor, colours: Any) -> None:
    """Rows: image, truth, prediction. Columns: sagittal, coronal, axial."""
    rows = (("image", None), ("truth", case.label), ("prediction", prediction))
    for column, (name, axis, position) in enumerate(_planes(case.label)):
        first, second = _across(axis)
        aspect = case.spacing[second] / case.spacing[first]
        for row, (title, labels) in enumerate(rows):
            axes = figure.add_subplot(panels[row, column])
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
    proportions = _proportions(case)
    planes, gap = sum(proportions) * _ROW, 0.1
    width = _LEFT + planes + 2 * gap + _BETWEEN + _CHARTS + _RIGHT
    height = _TOP + 3 * _ROW + 2 * gap + _BOTTOM
    figure = Figure(figsize=(width, height), facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    figure.text(0.3 / width, 1 - 0.5 / height, title, color=_TEXT, fontsize=18, fontweight="bold")
    figure.text(0.3 / width, 1 - 0.8 / height, subtitle, color=_MUTED, fontsize=10.5)
    panels = figure.add_gridspec(
        3,
        3,
        width_ratios=proportions,
        left=_LEFT / width,
        right=(_LEFT + planes + 2 * gap) / width,
        bottom=_BOTTOM / height,
        top=1 - _TOP / height,
        wspace=gap / (planes / 3),
        hspace=gap / _ROW,
    )
    _draw_planes(figure, panels, case, prediction, colours)
    charts = figure.add_gridspec(
        2,
        1,
        height_ratios=(1.5, 1.0),
        left=1 - (_CHARTS + _RIGHT) / width,
        right=1 - _RIGHT / width,
        bottom=_BOTTOM / height,
        top=1 - _TOP / height,
        hspace=0.32,
    )
    _draw_loss(figure.add_subplot(charts[0]), losses)
    _draw_dice(figure.add_subplot(charts[1]), scores, colours)
    figure.legend(
        handles=[Patch(color=colour, label=name) for colour, name in zip(palette, scores.classes[1:], strict=True)],
        loc="lower left",
        bbox_to_anchor=((_LEFT - 0.1) / width, 0.1 / height),
        ncols=8,
        frameon=False,
        labelcolor=_TEXT,
        fontsize=10.5,
        handlelength=1.0,
        handleheight=1.0,
    )
    figure.savefig(path, format="png", dpi=120, facecolor=_BACKGROUND)
