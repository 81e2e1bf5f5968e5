"""The tables of `make bench` and `make gpu`, and their picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import figure
from .markdown import table

_HEADER = [
    "case",
    "provider",
    "ms, median ± IQR",
    "times fastmed's",
    "of copy bandwidth",
    "peak of extra memory, MB",
    "kept for backward, MB",
]
_OUTLINE = ["case", "fastmed, ms", "times as long", "extra memory, MB", "theirs"]


def _megabytes(number: int | None) -> str:
    return "-" if number is None else f"{number / 1e6:.1f}"


def _about(name: str, content: dict[str, Any]) -> str:
    about = content["environment"]
    versions = about["versions"]
    return (
        f"{about['device']}, {about['cores']} cores, torch {versions['torch']}, MONAI {versions.get('monai', '-')}, "
        f"{about['date']}; copy {content['copy_bandwidth_bytes_s'] / 1e9:.1f} GB/s (`{name}`).\n\n"
    )


def every_row(name: str, content: dict[str, Any]) -> str:
    """Every case and provider of a file."""
    rows = []
    for row in content["results"]:
        if "failed" in row:
            rows.append([row["case"], row["provider"], f"failed: {row['failed']}", *[""] * 4])
            continue
        time = f"{row['median_s'] * 1e3:.3g} ± {row['iqr_s'] * 1e3:.2g}"
        ratio, share = f"{row['times_fastmed']:.2f}", f"{row['share_of_copy']:.0%}"
        memory = [_megabytes(row.get(name)) for name in ("peak_extra_bytes", "kept_bytes")]
        rows.append([row["case"], row["provider"], time, ratio, share, *memory])
    return _about(name, content) + table(_HEADER, rows)


def outline(name: str, content: dict[str, Any]) -> str:
    """A line for each case: fastmed's time, and how many times as long each peer takes."""
    by_case: dict[str, list[dict[str, Any]]] = {}
    for row in content["results"]:
        if "failed" not in row and not row["provider"].startswith("fastmed, "):
            by_case.setdefault(row["case"], []).append(row)
    rows = []
    for case, (ours, *peers) in by_case.items():
        ratios = ", ".join(f"{peer['provider']} {peer['times_fastmed']:.3g}" for peer in peers)
        memory = [ours["peak_extra_bytes"], max((peer["peak_extra_bytes"] for peer in peers), default=None)]
        rows.append([case, f"{ours['median_s'] * 1e3:.3g}", ratios, *map(_megabytes, memory)])
    return _about(name, content) + table(_OUTLINE, rows)


def first_step(name: str, content: dict[str, Any]) -> str:
    """What the first training step of a process takes."""
    seconds = content.get("first_step")
    if seconds is None:
        return ""
    return (
        f"The first step of a process takes {seconds['nothing_compiled_s']:.1f} s where nothing was compiled yet, and "
        f"{seconds['cached_s']:.2f} s with Numba's cache (`{name}`).\n"
    )


def instructions(content: dict[str, Any]) -> str:
    """Instructions of each loop over tiles."""
    counts = [(row["loop"], row["instructions_per_element"]) for row in content["loops"]]
    rows = [[loop, "scalar" if count is None else f"{count:.2f}"] for loop, count in counts]
    return f"{content['processor']}, Numba {content['numba']}.\n\n{table(['loop', 'instructions an element'], rows)}"


def draw(path: Path, content: dict[str, Any]) -> None:
    """The picture, of a file that has one."""
    if "sweeps" in content:
        figure.draw(path, content)
