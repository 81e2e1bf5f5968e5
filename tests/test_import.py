"""What an import costs and brings along, in fresh processes."""

from __future__ import annotations

import subprocess
import sys

import pytest


def fresh(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_import_brings_neither_triton_nor_numba() -> None:
    script = "import sys, torch; before = set(sys.modules); import fastmed; print(*sorted(set(sys.modules) - before))"
    modules = {name.split(".")[0] for name in fresh(script).split()}
    assert not modules & {"triton", "numba", "monai", "torchmetrics", "rich", "matplotlib", "nilearn"}
    assert "fastmed._native" not in fresh(script).split()


def test_metrics_bring_no_package_of_their_reports() -> None:
    script = "import sys, fastmed.metrics.plots; print(*sys.modules)"
    modules = {name.split(".")[0] for name in fresh(script).split()}
    assert not modules & {"pandas", "rich", "matplotlib", "scipy", "torchmetrics"}


@pytest.mark.parametrize("missing", ["numba", "triton", "fastmed._native"])
def test_a_missing_backend_is_not_missed(missing: str) -> None:
    """Without the package, the next backend of the table serves, and the table says why."""
    script = f"""
import sys
sys.modules[{missing!r}] = None
import torch, fastmed
from fastmed import dispatch
loss = fastmed.DiceCELoss()(torch.zeros(1, 2, 8), torch.zeros(1, 8, dtype=torch.uint8))
counts = fastmed.functional.confusion_counts(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]), 2)
assert counts.tolist() == [[[1, 1], [0, 0]]]
print(round(loss.item(), 4), [row.name for row in dispatch.TABLE if dispatch.unavailable_reason(row)])
"""
    value, unavailable = fresh(script).split(" ", 1)
    # Dice of p = 1/2 against all background: 1 - 8 / 10 and 1 - 0 / 2, the mean 0.6; cross entropy log 2.
    assert float(value) == pytest.approx(0.6 + 0.6931, abs=1e-4)
    assert missing.removeprefix("fastmed._") in unavailable
