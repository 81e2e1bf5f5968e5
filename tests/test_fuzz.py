"""Random calls of the C++ extension under sanitizers for a few seconds; `make fuzz` goes on for longer."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_random_calls_are_clean(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--first", "0", "--seconds", "20", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"\d+ (\w+)", done.stdout)) >= {"confusion", "histogram", "arguments"}
