"""The picture of a results file: how time grows, and how close to the speed of memory every case comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_BACKGROUND, _PANEL, _TEXT, _MUTED = "#0d1117", "#161b22", "#e6edf3", "#8b949e"
_OURS, _PEERS = "#4cc9f0", ("#ffd166", "#f72585", "#b388ff")


def _style(axes: Any, title: str) -> None:
    axes.set_facecolor(_PANEL)
    axes.set_title(title, color=_TEXT, fontsize=11, loc="left", pad=8)
    axes.tick_params(which="both", colors=_MUTED, labelsize=9, length=0)
    axes.spines[:].set_visible(False)
    axes.grid(color=_MUTED, alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_line(axes: Any, sweep: dict[str, Any]) -> None:
    """Milliseconds of each provider, both axes logarithmic."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    peers = iter(_PEERS)
    for name, seconds in sweep["median_s"].items():
        colour = _OURS if name == "fastmed" else next(peers)
        points = [(x, 1e3 * y) for x, y in zip(sweep["values"], seconds, strict=True) if y is not None]
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, linewidth=1.8, label=name)
    _style(axes, sweep["work"])
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sweep["values"], [f"{value}" for value in sweep["values"]])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(sweep["axis"], color=_MUTED, fontsize=9)
    axes.set_ylabel("ms, forward and backward", color=_MUTED, fontsize=9)
    axes.legend(frameon=False, labelcolor=_TEXT, fontsize=9)


def _draw_shares(axes: Any, content: dict[str, Any]) -> None:
    """Share of the copy bandwidth of each case, ours and the best peer's."""
    shares: dict[str, dict[str, float]] = {}
    for row in content["results"]:
        if "failed" not in row:
            shares.setdefault(row["case"], {})[row["provider"]] = row["share_of_copy"]
    for position, by in enumerate(reversed(shares.values())):
        peer = max((share for name, share in by.items() if not name.startswith("fastmed")), default=0.0)
        axes.barh(position + 0.18, by["fastmed"], 0.34, color=_OURS, label=None if position else "fastmed")
        axes.barh(position - 0.18, peer, 0.34, color=_PEERS[0], label=None if position else "best peer")
        axes.text(by["fastmed"] + 0.005, position + 0.18, f"{by['fastmed']:.0%}", color=_TEXT, fontsize=8, va="center")
    _style(axes, "Bytes that must move, by the time it takes, over a copy's bandwidth")
    axes.grid(axis="y", visible=False)
    axes.set_yticks(range(len(shares)), list(reversed(shares)), color=_TEXT, fontsize=8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(frameon=False, labelcolor=_TEXT, fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)


def draw(path: Path, content: dict[str, Any]) -> None:
    """Write the picture of one results file as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 9.5), facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    about = content["environment"]
    line = f"{about['device']}, {about['cores']} cores, torch {about['versions']['torch']}, {about['date']}"
    figure.text(0.06, 0.955, "fastmed beside its peers", color=_TEXT, fontsize=17, fontweight="bold")
    figure.text(0.06, 0.93, line, color=_MUTED, fontsize=9.5)
    top = figure.add_gridspec(1, len(content["sweeps"]), left=0.06, right=0.98, bottom=0.55, top=0.88, wspace=0.25)
    for place, sweep in zip(top, content["sweeps"], strict=True):
        _draw_line(figure.add_subplot(place), sweep)
    _draw_shares(figure.add_axes((0.34, 0.05, 0.64, 0.4)), content)
    figure.savefig(path, format="png", dpi=110, facecolor=_BACKGROUND)
