"""The picture: Colin27 after each stage under the outline of MNI152's white matter, its labels, and the Dice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figure_style import MUTED, PALETTE, TEXT, legend, new_figure, save, show_plane, style, widest_plane
from torch import Tensor

_WHITE = 3


def _scaled(image: Tensor) -> Tensor:
    """Grey values with room above them, so that lines show on white matter."""
    return image / (1.25 * image[image > 0][::100].quantile(0.995))


def _draw_dice(axes: Any, dice: dict[str, dict[str, float]]) -> None:
    """A line for each structure from stage to stage."""
    style(axes, "Dice with MNI152's tissues")
    for colour, structure in zip(PALETTE, next(iter(dice.values())), strict=False):
        axes.plot([of[structure] for of in dice.values()], color=colour, marker="o", linewidth=2, label=structure)
    axes.set_xticks(range(len(dice)), [name.replace(", ", ",\n") for name in dice], color=TEXT)
    axes.set_xlim(-0.4, len(dice) - 0.6)
    axes.set_ylim(0.0, 1.0)
    legend(axes, "lower right")


def draw(
    path: Path,
    content: dict[str, Any],
    target: Tensor,
    tissues: Tensor,
    warped: Mapping[str, Tensor],
    labels: Tensor,
) -> None:
    """Write the picture as PNG.

    Args:
        path: file to write.
        content: what the example found.
        target: the template (X, Y, Z), X to the right and Y to the front.
        tissues: its labels.
        warped: the other brain on the same grid, by stage.
        labels: carried over, of the last stage.
    """
    line = f"registered in {content['seconds']:.0f} s; pink: outline of the template's white matter"
    figure = new_figure((13.0, 6.2), "Colin27 registered to MNI152", [line])
    columns = {**warped, "MNI152, AAL carried over": target}
    grid = figure.add_gridspec(1, 2, left=0.05, right=0.98, bottom=0.1, top=0.8, wspace=0.1, width_ratios=(2.2, 1.0))
    planes = grid[0].subgridspec(2, len(columns), wspace=0.05, hspace=0.05)
    for row, (plane, axis) in enumerate((("axial", 2), ("coronal", 1))):
        position = widest_plane(tissues, axis)
        outline = (tissues == _WHITE).select(axis, position)
        for column, (name, volume) in enumerate(columns.items()):
            axes = figure.add_subplot(planes[row, column])
            image = _scaled(volume.float()).select(axis, position)
            if column < len(warped):
                show_plane(axes, image)
                axes.contour(outline.T.numpy(), levels=[0.5], colors=[PALETTE[2]], linewidths=0.8)
            else:
                show_plane(axes, image, labels.select(axis, position))
            if row == 0:
                axes.set_title(name, color=TEXT, fontsize=10.5)
            if column == 0:
                axes.set_ylabel(plane, color=MUTED, fontsize=10)
    _draw_dice(figure.add_subplot(grid[1]), content["dice"])
    save(figure, path)
