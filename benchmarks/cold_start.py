"""Seconds of the first training step of a process: with nothing compiled yet, and with Numba's cache filled."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

_STEP = """
import time
import torch, fastmed
logits = torch.randn(2, 4, 64, 64, 64, requires_grad=True)
labels = torch.randint(4, (2, 1, 64, 64, 64), dtype=torch.uint8)
start = time.perf_counter()
fastmed.DiceCELoss()(logits, labels).backward()
print(time.perf_counter() - start)
"""


def measure() -> dict[str, float]:
    """The first loss and its gradient, timed after PyTorch's import, in two processes that share a new cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}

        def first_step() -> float:
            done = subprocess.run(
                [sys.executable, "-c", _STEP], env=environment, capture_output=True, text=True, check=True
            )
            return float(done.stdout)

        return {"nothing_compiled_s": first_step(), "cached_s": first_step()}
