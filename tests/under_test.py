"""Backends and device under test, and memory that shows when it is read before it is written."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    # Before the first import of triton: its kernels then run on CPU tensors.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from fastmed import dispatch

# Comma-separated names of backends that must run: an unavailable one fails the session instead of skipping tests.
REQUIRED: tuple[str, ...] = tuple(filter(None, os.environ.get("FASTMED_REQUIRED_BACKENDS", "").split(",")))
# Device on which tests make their tensors; "cuda" runs the same tests on a GPU.
DEVICE = os.environ.get("FASTMED_TEST_DEVICE", "cpu")
if DEVICE != "cpu":
    torch.set_default_device(DEVICE)


def pytest_sessionstart(session: pytest.Session) -> None:
    rows = {row.name: row for row in dispatch.TABLE}
    for name in REQUIRED:
        if name not in rows:
            pytest.exit(f"FASTMED_REQUIRED_BACKENDS: {name!r} is not one of {', '.join(rows)}", returncode=4)
        if reason := dispatch.unavailable_reason(rows[name]):
            pytest.exit(f"FASTMED_REQUIRED_BACKENDS: {name} does not run here: {reason}", returncode=4)


def backends(operation: str) -> list[object]:
    """A parameter for each backend of the table that implements the operation; skipped with its reason if it must."""
    parameters = []
    for row in dispatch.TABLE:
        if operation in row.operations and (row.devices is None or DEVICE in row.devices):
            reason = dispatch.unavailable_reason(row)
            marks = [pytest.mark.skip(reason=f"{row.name}: {reason}")] if reason else []
            parameters.append(pytest.param(row.name, marks=marks, id=row.name))
    return parameters


def label(value: object) -> str:
    """A value as the name of a test: without addresses, which differ between the processes that share the tests."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The backends that ran, by the name of their module."""
    names: set[str] = set()
    select = dispatch.select

    def watched(*arguments: Any) -> Any:
        backend = select(*arguments)
        names.add(backend.__name__)
        return backend

    monkeypatch.setattr(dispatch, "select", watched)
    return names


@pytest.fixture
def fastest() -> str:
    """The module of the backend that "auto" is to take for a pass over regions."""
    row = {row.name: row for row in dispatch.TABLE}["triton" if DEVICE == "cuda" else "numba"]
    if reason := dispatch.unavailable_reason(row):
        pytest.skip(reason)
    return row.module


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, operation in (
        ("region_backend", "region_sums"),
        ("counting_backend", "confusion_counts"),
        ("histogram_backend", "score_histogram"),
        ("ranking_backend", "rank_statistics"),
    ):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, backends(operation))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """`torch.empty` returns NaN, or the largest integer, in every test."""
    # Some of the peers' CUDA operators have no deterministic form, and only warn.
    torch.use_deterministic_algorithms(True, warn_only=DEVICE != "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    """Inputs of its own for each test, the same in each run of it."""
    torch.manual_seed(zlib.crc32(request.node.name.encode()))
