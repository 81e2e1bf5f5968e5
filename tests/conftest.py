"""Loads what the tests share, but for the process that only hands them out to others and starts sooner without it."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    hands_out = bool(config.getoption("numprocesses", None)) and not hasattr(config, "workerinput")
    # Missing backends end the run before it starts, which only the first process can do.
    if not hands_out or os.environ.get("FASTMED_REQUIRED_BACKENDS"):
        config.pluginmanager.import_plugin("under_test")
