"""Loss curves of two trainings that should be one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw(curves: Mapping[str, Sequence[float]], ylabel: str, path: Path) -> None:
    """The second curve over the first.

    Args:
        curves: loss of each step, by the name of the training; two of them.
        ylabel: what the loss is.
        path: of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    styles = ({"linewidth": 5, "alpha": 0.35}, {"marker": "o", "markersize": 3, "linewidth": 1})
    for (name, values), style in zip(curves.items(), styles, strict=True):
        axes.plot(range(1, len(values) + 1), values, label=name, **style)
    axes.set(xlabel="step", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)
