"""Python processes that a patched one starts, as Auto3DSeg starts its trainings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from monai.apps.auto3dseg import BundleAlgo

import fastmed
from fastmed.compat import monai as ours

ROOT = str(Path(fastmed.__file__).parent.parent)
TRAINING = """
import os, pathlib, sys
import monai
from monai.losses import DiceCELoss
made = [DiceCELoss(softmax=True), monai.losses.DiceLoss()]
pathlib.Path(sys.argv[1]).write_text(" ".join([*(str(hasattr(loss, "backend")) for loss in made), *sys.argv[2:]]))
"""


@pytest.fixture(autouse=True)
def _unpatched() -> Iterator[None]:
    yield
    ours.unpatch()


@pytest.fixture
def training(tmp_path: Path) -> Path:
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    return script


def test_a_training_of_auto3dseg_has_the_fused_losses(
    training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the `sitecustomize` of the environment has run."""
    (tmp_path / "sitecustomize.py").write_text("import os\nos.environ['CUSTOM'] = 'customised'\n")
    training.write_text(TRAINING.replace("*sys.argv[2:]", "os.environ['CUSTOM']"))
    monkeypatch.setenv("PYTHONPATH", before := os.pathsep.join([str(tmp_path), ROOT]))
    with ours.patch(children=True):
        BundleAlgo()._run_cmd(f"{sys.executable} {training} {tmp_path / 'found'}")
    assert (tmp_path / "found").read_text() == "True True customised"
    assert os.environ["PYTHONPATH"] == before


def test_a_command_that_imports_the_drop_ins_first(training: Path, tmp_path: Path) -> None:
    training.write_text(f"import fastmed.compat.monai\n{TRAINING}")
    command = [sys.executable, "-m", "fastmed.compat.monai", str(training), str(tmp_path / "found"), "--epochs"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": ROOT})
    assert (tmp_path / "found").read_text() == "True True --epochs"


def _python_path() -> list[str]:
    return list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))


def test_the_environment_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    first, second, third = ours.patch(children=True), ours.patch(children=True), ours.patch()
    (folder,) = _python_path()
    assert (Path(folder) / "sitecustomize.py").exists()
    first.close()
    assert _python_path() == [folder]
    second.close()
    assert "PYTHONPATH" not in os.environ
    third.close()
    ours.patch(children=True)
    ours.unpatch()
    assert "PYTHONPATH" not in os.environ
