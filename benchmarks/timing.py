"""Time of several providers of one case, in turn in one process, so that all see the machine in the same state."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Clock = Callable[[Callable[[], Any]], float]


def wall_clock(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def device_clock(function: Callable[[], Any]) -> float:
    """Seconds that one call keeps a GPU busy, from the launch of its first kernel to the end of its last."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def alternate(
    functions: dict[str, Callable[[], Any]],
    clock: Clock = wall_clock,
    *,
    warmup: int = 2,
    rounds: tuple[int, int] = (5, 300),
    seconds: float = 15.0,
) -> dict[str, list[float]]:
    """Times of each function, one call of each in every round, in an order that changes from round to round.

    A call leaves code and memory in the caches for its successor: in a fixed order one function would always follow
    another that does the like, and be the faster for it. Rounds go on until `seconds` have passed, but at least and
    at most as many as `rounds` says.
    """
    for function in functions.values():
        for _ in range(warmup):
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    names, order = list(functions), random.Random(0)
    start = time.perf_counter()
    for done in range(rounds[1]):
        if done >= rounds[0] and time.perf_counter() - start > seconds:
            break
        order.shuffle(names)
        for name in names:
            times[name].append(clock(functions[name]))
    return times


def spread(times: list[float]) -> tuple[float, float]:
    """Median and interquartile range, in seconds."""
    first, median, third = statistics.quantiles(times, n=4)
    return median, third - first


def copy_bandwidth(device: torch.device, clock: Clock = wall_clock) -> float:
    """Bytes read and written a second by a large copy into memory that is already there."""
    source = torch.ones(64 << 20 if device.type == "cpu" else 512 << 20, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    times = alternate({"copy": lambda: target.copy_(source)}, clock, rounds=(7, 15), seconds=2.0)["copy"]
    return 2 * source.nbytes / statistics.median(times)
