"""One case at a time: results must agree, then providers are timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from .cases import Case, Provider
from .memory import kept_for_backward, peak_extra
from .timing import Clock, alternate, spread

Result = tuple[torch.Tensor, ...]
TakeTurns = Callable[[dict[str, Callable[[], Any]], Clock], dict[str, list[float]]]

# Loss and gradient of a half format are compared at its own resolution; float32 at a few hundred ulp of the largest.
_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def _disagreement(case: Case, expected: Result, got: Result) -> str | None:
    """How a result differs from fastmed's beyond the tolerance, or None."""
    if case.tolerance is not None:
        difference = (expected[0].double() - got[0].double()).abs().max().item()
        return None if difference <= case.tolerance else f"results differ by {difference:.2g}"
    if not expected[0].is_floating_point():
        return None if torch.equal(expected[0], got[0]) else "counts differ"
    for what, a, b in zip(("loss", "gradient"), expected, got, strict=True):
        difference = ((a.double() - b.double()).abs().max() / a.double().abs().max()).item()
        if not difference <= _TOLERANCE[case.dtype]:
            return f"{what} differs by {difference:.2g} of the largest"
    return None


def measure(
    case: Case, device: torch.device, clock: Clock, bandwidth: float, take_turns: TakeTurns = alternate
) -> list[dict[str, Any]]:
    """A row for each provider: median, spread, ratio to fastmed, bandwidth, memory; or why it failed."""
    rows: dict[str, dict[str, Any]] = {}
    ready: dict[str, Provider] = {}
    expected: Result | None = None
    for name, make in case.providers.items():
        rows[name] = {"case": case.name, "provider": name}
        try:
            ready[name] = make(device)
            result = tuple(tensor.cpu().clone() for tensor in ready[name]())
        except Exception as error:
            if name == "fastmed":
                raise
            rows[name]["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            ready.pop(name, None)
            continue
        expected = result if expected is None else expected
        if reason := _disagreement(case, expected, result):
            rows[name]["failed"] = reason
            del ready[name]
    for name, times in take_turns(dict(ready), clock).items():
        median, interquartile = spread(times)
        rows[name] |= {"median_s": median, "iqr_s": interquartile, "rounds": len(times)}
    for name in ready:
        rows[name]["times_fastmed"] = rows[name]["median_s"] / rows["fastmed"]["median_s"]
        rows[name]["share_of_copy"] = case.bytes_read_and_written / rows[name]["median_s"] / bandwidth
        rows[name]["peak_extra_bytes"] = peak_extra(ready[name], device)
        rows[name]["kept_bytes"] = kept_for_backward(ready[name])
    return list(rows.values())


def measure_all(
    cases: Iterable[Case], device: torch.device, clock: Clock, bandwidth: float, take_turns: TakeTurns = alternate
) -> list[dict[str, Any]]:
    """Rows of all cases, printed as they come."""
    rows = []
    for case in cases:
        print(f"\n{case.name}", flush=True)
        for row in measure(case, device, clock, bandwidth, take_turns):
            rows.append(row)
            if "failed" in row:
                print(f"  {row['provider']:<26} failed: {row['failed']}", flush=True)
                continue
            print(
                f"  {row['provider']:<26} {row['median_s'] * 1e3:10.3f} ms  +- {row['iqr_s'] * 1e3:8.3f}"
                f"  {row['times_fastmed']:8.2f} x fastmed  {row['share_of_copy']:6.1%} of copy bandwidth",
                flush=True,
            )
    return rows
