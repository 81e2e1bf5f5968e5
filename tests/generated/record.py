"""Plugin of pytest that writes what the generated tests tried and found: `--record FILE`.

Tests report their cases as properties, which pytest-xdist hands to the process that writes.
"""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option."""
    parser.addoption("--record", type=Path, help="JSON file for the cases that were tried")


def pytest_configure(config: pytest.Config) -> None:
    """Records in the process that hears of every test."""
    path = config.getoption("--record")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Record(path))


class _Record:
    """Adds up what tests report."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cases: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._properties: dict[str, dict[str, Any]] = {}
        self._outcomes: dict[str, int] = defaultdict(int)
        self._skipped: dict[str, int] = defaultdict(int)
        self._seconds = 0.0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has done one of its phases."""
        self._seconds += report.duration
        if report.skipped:
            self._skipped[report.longrepr[2].removeprefix("Skipped: ")] += 1
        if report.when != "call":
            return
        self._outcomes[report.outcome] += 1
        for name, value in report.user_properties:
            if name == "cases":
                op, backend, number = value
                self._cases[op][backend] += number
            elif name == "property":
                op, statement, backend, draws = value
                known = self._properties.setdefault(statement, {"op": op, "draws": {}})
                known["draws"][backend] = draws

    def pytest_sessionfinish(self) -> None:
        """Writes the file."""
        versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
        content = {
            "versions": versions,
            "seconds": round(self._seconds),
            "outcomes": dict(sorted(self._outcomes.items())),
            "cases": {op: dict(sorted(numbers.items())) for op, numbers in sorted(self._cases.items())},
            "properties": dict(sorted(self._properties.items())),
            "skipped": dict(sorted(self._skipped.items())),
        }
        self._path.write_text(json.dumps(content, indent=1) + "\n")
