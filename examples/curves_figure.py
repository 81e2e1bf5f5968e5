"""Loss curves of trainings that should be one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw(curves: Mapping[str, Sequence[float]], ylabel: str, path: Path) -> None:
    """The other curves over the first.

    Args:
        curves: loss of each step, by the name of the training.
        ylabel: what the loss is.
        path: of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    below, above = {"linewidth": 5, "alpha": 0.35}, {"marker": "o", "markersize": 3, "linewidth": 1}
    for number, (name, values) in enumerate(curves.items()):
        axes.plot(range(1, len(values) + 1), values, label=name, **(above if number else below))
    axes.set(xlabel="step", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)
