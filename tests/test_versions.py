"""The environments of `make test-matrix` are those that the project promises; it runs the tests in them."""

from __future__ import annotations

import re
from pathlib import Path

from versions.rows import BACKENDS, LACKING, ROWS, TESTS

ROOT = Path(__file__).parents[1]


def test_the_oldest_versions_are_those_that_the_project_asks_for() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    (oldest,) = (row for row in ROWS if row.name == "oldest")
    assert f'requires-python = ">={oldest.python}"' in project
    pinned = dict(requirement.split("==") for requirement in oldest.requirements)
    (dependencies,) = re.findall(r"^dependencies = \[(.*)\]$", project, re.MULTILINE)
    for name, version in re.findall(r'"([\w-]+)>=([\d.]+)', dependencies):
        assert re.fullmatch(rf"{re.escape(version)}(\.0)*", pinned[name]), name


def test_each_row_has_a_name_of_its_own_and_lacks_what_there_is() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert set(row.without) <= set(LACKING)
        assert set(row.backends) <= set(BACKENDS)


def test_the_tests_are_there() -> None:
    assert [test for test in TESTS if not (ROOT / test).exists()] == []
