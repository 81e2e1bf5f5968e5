"""The C++ counting under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
@pytest.mark.parametrize("subject", ["confusion", "histogram"])
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_counting_is_clean(tmp_path: Path, subject: str, sanitizers: str) -> None:
    program = tmp_path / f"test_{subject}"
    flags = [
        "-std=c++17",
        "-O1",
        "-g",
        "-ffp-contract=off",
        "-pthread",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{ROOT / 'csrc'}",
    ]
    sources = [ROOT / f"tests/csrc/test_{subject}.cpp", ROOT / f"csrc/{subject}_cpu.cpp"]
    sanitize = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    subprocess.run(["g++", *flags, *sanitize, *sources, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
