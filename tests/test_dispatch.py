"""Choosing a backend: the table's order, honest refusals, nothing replaced in silence."""

from __future__ import annotations

import pytest
import torch

from fastmed import BackendError, dispatch
from fastmed.contract import Request


def request(**changes: object) -> Request:
    plain = Request("region_sums", "cpu", torch.float32, torch.uint8, 4)
    return plain._replace(**changes)


def test_each_backend_appears_once() -> None:
    assert len(set(dispatch.NAMES)) == len(dispatch.TABLE)


def test_auto_takes_the_first_that_can() -> None:
    pytest.importorskip("numba")
    assert dispatch.select(request()).__name__.endswith("cpu_numba")
    assert dispatch.select(request(dtype=torch.float64)).__name__.endswith("reference")
    assert dispatch.select(request(device="mps")).__name__.endswith("reference")


def test_a_named_backend_is_never_replaced() -> None:
    pytest.importorskip("numba")
    with pytest.raises(BackendError, match="numba: takes logits in float32") as refusal:
        dispatch.select(request(dtype=torch.float64), "numba")
    assert "reference" not in str(refusal.value)
    with pytest.raises(BackendError, match="native: does not implement region_sums"):
        dispatch.select(request(), "native")
    with pytest.raises(BackendError, match="numba: runs on cpu, not on cuda"):
        dispatch.select(request(device="cuda"), "numba")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"backend: got 'tpu', allowed are 'auto', 'native', 'numba', 'triton', 'ref"):
        dispatch.select(request(), "tpu")


def test_a_backend_that_cannot_be_imported_says_why() -> None:
    row = dispatch.Row("missing", "fastmed.backends.no_such_module", None, frozenset({"region_sums"}))
    assert "no_such_module" in (dispatch.unavailable_reason(row) or "")
    assert "no_such_module" in dispatch.unsupported_reasons(row, request())[0]
