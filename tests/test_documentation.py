"""The examples in docstrings and README run as they stand."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastmed
from benchmarks import report
from benchmarks.peers import prepare_smp

_PUBLIC = tuple(f"fastmed.{name}" for name in ("losses", "labels", "sampling", "functional", "metrics", "compat"))
_ROOT = Path(__file__).parent.parent
_README = _ROOT / "README.md"


def _modules() -> list[str]:
    found = [info.name for info in pkgutil.walk_packages(fastmed.__path__, "fastmed.")]
    return [name for name in found if name.startswith(_PUBLIC)]


@pytest.mark.parametrize("module", _modules())
def test_docstring_examples(module: str) -> None:
    if module.startswith("fastmed.compat.smp"):
        prepare_smp()
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_every_public_function_has_an_example() -> None:
    for owner in (fastmed, fastmed.functional, fastmed.sampling):
        for name in owner.__all__:
            item = getattr(owner, name)
            if callable(item) and not (isinstance(item, type) and issubclass(item, tuple | Exception)):
                assert ">>> " in (item.__doc__ or ""), name


def test_readme_examples() -> None:
    """Each Python block of the README, in one namespace from top to bottom."""
    blocks = re.findall(r"```python\n(.*?)```", _README.read_text(), re.DOTALL)
    assert len(blocks) >= 2
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(_README), "exec"), namespace)


@pytest.mark.parametrize("path", report.pages(), ids=lambda path: path.name)
def test_tables_are_those_of_the_results(path: Path) -> None:
    """`make docs` would change nothing."""
    text = path.read_text()
    assert report.generated(text) == text


def test_the_custom_loss_trains() -> None:
    command = [sys.executable, str(_ROOT / "examples" / "custom_loss.py"), "--steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Dice of white matter" in done.stdout
