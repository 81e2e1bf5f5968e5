"""The parts of the benchmarks that decide: agreement, memory, regressions."""

from __future__ import annotations

import torch

from benchmarks.compare import changes
from benchmarks.memory import peak_extra


def _results(ours: float, peer: float, spread: float = 0.01) -> dict[str, object]:
    rows = [("fastmed", ours), ("MONAI", peer)]
    return {
        "results": [
            {"case": "Dice", "provider": name, "median_s": seconds, "iqr_s": spread * seconds} for name, seconds in rows
        ]
    }


def test_a_slower_machine_is_no_regression() -> None:
    (change,) = changes(_results(1.0, 4.0), _results(2.0, 8.0))
    assert change.ratio == 1.0
    assert not change.is_regression


def test_a_regression_is_one_beyond_both_spreads() -> None:
    (change,) = changes(_results(1.0, 4.0), _results(1.1, 4.0))
    assert change.is_regression
    (noisy,) = changes(_results(1.0, 4.0, spread=0.06), _results(1.1, 4.0, spread=0.06))
    assert not noisy.is_regression


def test_peak_memory_counts_what_the_call_allocates() -> None:
    held = [torch.ones(1000)]

    def function() -> None:
        held.clear()  # frees what was there before, which is not the call's
        first = torch.ones(3000)
        del first
        torch.ones(2000)

    assert 12_000 <= peak_extra(function, torch.device("cpu")) < 13_000
