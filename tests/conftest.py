"""Loads what the tests share, but for the process that only hands them out to others and starts sooner without it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    hands_out = bool(config.getoption("numprocesses", None)) and not hasattr(config, "workerinput")
    # Missing backends end the run before it starts, which only the first process can do.
    if not hands_out or os.environ.get("FASTMED_REQUIRED_BACKENDS"):
        config.pluginmanager.import_plugin("under_test")


@pytest.fixture
def no_batch_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small batch keeps its gradient for backward, in place of its labels: here none is small."""
    if importlib.util.find_spec("numba") is not None:
        from fastmed.backends.cpu_numba import threads

        monkeypatch.setattr(threads, "SERIAL_BELOW", 0)


@pytest.fixture(scope="module")
def two() -> Iterator[Any]:
    """`Ranks`, two of them."""
    from ranks import ranks_of

    with ranks_of(2) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def four() -> Iterator[Any]:
    """`Ranks`, four of them."""
    from ranks import ranks_of

    with ranks_of(4) as ranks:
        yield ranks
