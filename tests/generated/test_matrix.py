"""Every operator on every backend, on thousands of generated calls, against its definition in float64.

A failure names the plainest case that fails: `checks.problem(RegionCase(...))` runs it again.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cases import NUMBER, cases
from checks import problem, report
from under_test import backends

# Cases of one test, which run in about a second.
_TOGETHER = 250


def _batches() -> list[object]:
    """An operator, a backend and a range of its cases; skipped with its reason where the backend does not run."""
    batches = []
    for op, numbers in NUMBER.items():
        of_table = "region_sums" if op.startswith("region") else op
        for parameter in backends(of_table):
            (backend,) = parameter.values
            for start in range(0, numbers[backend], _TOGETHER):
                name = f"{op}-{backend}-{start}"
                batches.append(pytest.param(op, backend, start, marks=parameter.marks, id=name))
    return batches


@pytest.mark.parametrize(("op", "backend", "start"), _batches())
def test_cases(op: str, backend: str, start: int, record_property: Callable[[str, object], None]) -> None:
    chosen = cases(op, backend)[start : start + _TOGETHER]
    wrong = [case for case in chosen if problem(case) is not None]
    assert not wrong, f"{len(wrong)} of {len(chosen)} cases are wrong; the first: {report(wrong[0])}"
    record_property("cases", [op, backend, len(chosen)])
