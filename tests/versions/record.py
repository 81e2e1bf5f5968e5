"""Plugin of pytest that writes what ran in an environment: `--record FILE`."""

from __future__ import annotations

import json
import platform
import sys
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

_PACKAGES = ("torch", "numpy", "numba", "triton")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option."""
    parser.addoption("--record", type=Path, required=True, help="JSON file for what ran")


def pytest_configure(config: pytest.Config) -> None:
    """Records from here on."""
    config.pluginmanager.register(_Record(config.getoption("--record")))


def versions() -> dict[str, str]:
    """The versions of Python and of those packages that are installed."""
    installed = {each.metadata["Name"].lower(): each.version for each in metadata.distributions()}
    return {"python": platform.python_version()} | {name: installed[name] for name in _PACKAGES if name in installed}


class _Record:
    """Adds up what tests report."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._backend_of: dict[str, str] = {}
        self._backends: dict[str, int] = defaultdict(int)
        self._outcomes: dict[str, int] = {"passed": 0, "failed": 0, "skipped": 0}
        self._skipped: dict[str, int] = defaultdict(int)
        self._failed: list[str] = []
        self._seconds = 0.0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Which backend each test is of."""
        for item in items:
            parameters = item.callspec.params if hasattr(item, "callspec") else {}
            for name, value in parameters.items():
                if name.endswith("_backend"):
                    self._backend_of[item.nodeid] = value

    def _skip(self, longrepr: Any) -> None:
        # A reason may name a file of the environment, which is nobody else's.
        reason = longrepr[2].removeprefix("Skipped: ").replace(f"{sys.prefix}/", "")
        self._skipped[reason] += 1
        self._outcomes["skipped"] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file has been read."""
        if report.skipped:
            self._skip(report.longrepr)
        elif report.failed:
            self._outcomes["failed"] += 1
            self._failed.append(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has done one of its phases."""
        self._seconds += report.duration
        if report.skipped:
            self._skip(report.longrepr)
        elif report.failed:
            self._outcomes["failed"] += 1
            self._failed.append(report.nodeid)
        elif report.when == "call":
            self._outcomes["passed"] += 1
            if report.nodeid in self._backend_of:
                self._backends[self._backend_of[report.nodeid]] += 1

    def pytest_sessionfinish(self) -> None:
        """Writes the file."""
        content = {
            "versions": versions(),
            "outcomes": self._outcomes,
            "backends": dict(sorted(self._backends.items())),
            "skipped": dict(sorted(self._skipped.items())),
            "failed": self._failed,
            "seconds": round(self._seconds),
        }
        self._path.write_text(json.dumps(content, indent=1) + "\n")
