"""Whether fastmed became slower than in an earlier file of results, beyond what the measurements spread."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple


class Change(NamedTuple):
    """fastmed's time in one case over that of before, the machine's own change divided out, and what is noise."""

    case: str
    ratio: float
    spread: float

    @property
    def is_regression(self) -> bool:
        """Slower by more than the interquartile ranges of both measurements."""
        return self.ratio > 1 + self.spread


def _measured(results: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["case"], row["provider"]): row for row in results["results"] if "failed" not in row}


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    """Every case that both files hold.

    Machines differ and drift: how much slower this one is shows in the peers, whose code is the same in both.
    """
    old, new = _measured(before), _measured(now)
    both = [key for key in new if key in old]
    peers = [new[key]["median_s"] / old[key]["median_s"] for key in both if not key[1].startswith("fastmed")]
    machine = statistics.median(peers) if peers else 1.0
    found = []
    for key in both:
        if key[1] == "fastmed":
            ratio = new[key]["median_s"] / old[key]["median_s"] / machine
            spread = sum(row[key]["iqr_s"] / row[key]["median_s"] for row in (old, new))
            found.append(Change(key[0], ratio, spread))
    return found
