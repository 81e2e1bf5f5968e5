"""What the dark pictures of the examples share: colours, axes, planes of a volume with labels over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

BACKGROUND, PANEL, TEXT, MUTED = "#0d1117", "#161b22", "#e6edf3", "#8b949e"
PALETTE = ("#ffd166", "#4cc9f0", "#f72585", "#06d6a0", "#b388ff", "#ff8c42")
_OPACITY = 0.6


def new_figure(size: tuple[float, float], title: str, lines: Sequence[str]) -> Any:
    """A figure of a size in inches, with a title and smaller lines below it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    figure.text(0.05, 1 - 0.45 / size[1], title, color=TEXT, fontsize=18, fontweight="bold")
    for index, line in enumerate(lines):
        figure.text(0.05, 1 - (0.73 + 0.2 * index) / size[1], line, color=MUTED, fontsize=9.5)
    return figure


def style(axes: Any, title: str) -> None:
    """Axes of a chart."""
    axes.set_facecolor(PANEL)
    axes.set_title(title, color=TEXT, fontsize=12, loc="left", pad=10)
    axes.tick_params(which="both", colors=MUTED, labelsize=9.5, length=0)
    axes.spines[:].set_visible(False)
    axes.grid(axis="y", color=MUTED, alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)


def legend(axes: Any, place: str) -> None:
    """The legend of a chart, without a frame."""
    axes.legend(loc=place, frameon=False, labelcolor=TEXT, fontsize=9.5)


def widest_plane(label: Tensor, axis: int) -> int:
    """Position along an axis where the foreground is largest."""
    return int((label > 0).sum([other for other in range(3) if other != axis]).argmax())


def show_plane(axes: Any, image: Tensor, labels: Tensor | None = None, aspect: float = 1.0) -> None:
    """A plane (X, Y) with its first axis to the right and its second upwards, and labels in colours over it."""
    from matplotlib.colors import to_rgba

    axes.imshow(image.T.numpy(), cmap="gray", origin="lower", aspect=aspect, vmin=0.0, vmax=1.0)
    if labels is not None:
        colours = np.array([to_rgba(PALETTE[index % len(PALETTE)], _OPACITY) for index in range(-1, 255)])
        colours[0] = 0.0
        axes.imshow(colours[labels.T.numpy()], origin="lower", aspect=aspect, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG."""
    figure.savefig(path, format="png", dpi=110, facecolor=BACKGROUND)
