"""`make gpu`: everything a GPU can prove in one command: tests, sanitizer, benchmarks; one JSON file."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import torch

from . import environment
from .cases import gpu_cases
from .measure import measure_all
from .timing import copy_bandwidth, device_clock

_TESTS = (
    "tests/test_region_sums.py",
    "tests/test_losses_monai.py",
    "tests/test_multitask.py",
    "tests/test_finaliser.py",
    "tests/test_gpu.py",
)
_SANITIZED = "tests/test_gpu.py"


def run_tests(paths: tuple[str, ...], timeout: int) -> dict[str, Any]:
    """Runs tests on the device in a process of their own; counts and the names of failures."""
    present = [path for path in paths if Path(path).exists()]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", f"--junitxml={report}", *present]
        environ = {**os.environ, "FASTMED_TEST_DEVICE": "cuda"}
        try:
            subprocess.run(command, check=False, env=environ, timeout=timeout)
        except subprocess.TimeoutExpired:
            return {"timed_out_s": timeout}
        suite = ElementTree.parse(report).getroot()[0]
        counts = {key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")}
        broken = [case for case in suite.iter("testcase") if case.find("failure") is not None]
        return {**counts, "failed": [f"{case.get('classname')}::{case.get('name')}" for case in broken]}


def run_sanitizer(timeout: int) -> dict[str, Any]:
    """Memcheck of the device tests, where compute-sanitizer is there."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"skipped": "compute-sanitizer is not on PATH"}
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-m", "pytest", "-q", _SANITIZED]
    try:
        done = subprocess.run(command, check=False, timeout=timeout, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        return {"timed_out_s": timeout}
    return {"exit_status": done.returncode, "last_lines": done.stdout.splitlines()[-5:]}


def main() -> int:
    """Tests, then measurements; exit status 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of the JSON file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    device = torch.device("cuda")
    about = environment.describe(device)
    print(f"{about['device']}, torch {torch.__version__}, commit {about['commit']}", flush=True)
    tests = run_tests(_TESTS, timeout=240)
    sanitizer = run_sanitizer(timeout=90)
    print(f"tests: {tests}\nsanitizer: {sanitizer}", flush=True)
    bandwidth = copy_bandwidth(device, device_clock)
    print(f"copy {bandwidth / 1e9:.0f} GB/s", flush=True)
    rows = measure_all(gpu_cases(), device, device_clock, bandwidth)
    results = {"tests": tests, "sanitizer": sanitizer, "copy_bandwidth_bytes_s": bandwidth, "results": rows}
    path = environment.write(arguments.results, about, results)
    print(f"\nwritten: {path}")
    return int(bool(tests.get("failures", 1) or tests.get("errors", 1)))


if __name__ == "__main__":
    sys.exit(main())
