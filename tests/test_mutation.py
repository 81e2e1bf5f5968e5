"""The list of faults fits the code that they are planted in; `make test-mutation` plants them."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutation.faults import FAULTS, Fault

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{Path(fault.file).name}-{fault.kind}")
def test_a_fault_can_be_planted(fault: Fault) -> None:
    assert (ROOT / fault.file).read_text().count(fault.before) == 1
    assert fault.after != fault.before
    assert all((ROOT / test).exists() for test in fault.tests if test.startswith("tests"))
