"""How time grows: with the volume, with the number of classes, and with the batch of a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from .cases import Case, dice_bce, dice_ce, multitask_bce
from .measure import measure_all
from .timing import alternate, wall_clock

# Points of a line, measured more briefly than a case of the table.
_SECONDS = 2.0
_ROUNDS = (3, 200)


class Sweep(NamedTuple):
    """A line of cases.

    Attributes:
        work: what is computed.
        axis: what grows.
        points: its values, and the case of each.
    """

    work: str
    axis: str
    points: tuple[tuple[int, Case], ...]


def _eager(case: Case) -> Case:
    """Without compiled peers: each point would take longer to compile than to measure."""
    kept = {name: make for name, make in case.providers.items() if "compiled" not in name and "loop" not in name}
    return replace(case, providers=kept)


def cpu_sweeps() -> Iterator[Sweep]:
    """What `make bench` draws as lines."""
    sizes, classes, rows = (32, 64, 96, 128, 192, 256, 320), (2, 4, 8, 16, 32, 64, 128), (1, 8, 64, 512, 4096, 32768)
    volumes = tuple((size, _eager(dice_bce((1, 1, size, size, size), torch.float32))) for size in sizes)
    yield Sweep("sigmoid Dice + BCE, one channel", "voxels along each side", volumes)
    many = tuple((number, _eager(dice_ce((1, number, 64, 64, 64), torch.float32))) for number in classes)
    yield Sweep("softmax Dice + CE, 64 x 64 x 64", "classes", many)
    tables = tuple((number, _eager(multitask_bce((number, 18)))) for number in rows)
    yield Sweep("multi-task BCE, 18 tasks", "studies in the batch", tables)


def measure(bandwidth: float) -> list[dict[str, Any]]:
    """Every line: for each provider the median seconds at each point; None where it failed."""
    briefly = partial(alternate, rounds=_ROUNDS, seconds=_SECONDS)
    lines = []
    for sweep in cpu_sweeps():
        cases = [case for _, case in sweep.points]
        rows = measure_all(cases, torch.device("cpu"), wall_clock, bandwidth, briefly)
        providers = {row["provider"]: [] for row in rows}  # type: dict[str, list[float | None]]
        for row in rows:
            providers[row["provider"]].append(row.get("median_s"))
        values = [value for value, _ in sweep.points]
        lines.append({"work": sweep.work, "axis": sweep.axis, "values": values, "median_s": providers})
    return lines
