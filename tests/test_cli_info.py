"""`fastmed info` and the shell of the command line."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from fastmed import __version__, dispatch
from fastmed.cli import info, main

WITHOUT_EXTRAS = """
import sys
for name in ("rich", "monai", "nilearn", "nibabel", "matplotlib"):
    sys.modules[name] = None
from fastmed.cli import main
sys.exit(main(["info"]))
"""


def test_info_lists_versions_backends_build_and_machine(capsys):
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"Versions", "Backends", "Native extension", "Machine"} <= set(lines)
    rows = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
    assert rows["fastmed"] == __version__
    assert rows["reference"].endswith("available")
    assert rows.keys() >= set(dispatch.NAMES)


def test_info_says_why_a_backend_is_not_available(capsys, monkeypatch):
    row = dispatch.Row("missing", "fastmed.backends.missing", None, frozenset({"region_sums"}))
    monkeypatch.setattr(dispatch, "TABLE", (row,))
    main(["info"])
    assert "region_sums: not available: cannot be imported: No module named" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (None, {"build": "none"}),
        (
            {"compiler": "GCC 12.2", "cuda": None, "architectures": []},
            {"build": "CPU only", "compiler": "GCC 12.2"},
        ),
        (
            {"compiler": "GCC 12.2", "cuda": "13.0", "architectures": ["sm_80", "sm_90"]},
            {"build": "CUDA 13.0: sm_80, sm_90", "compiler": "GCC 12.2"},
        ),
    ],
    ids=["missing", "cpu", "cuda"],
)
def test_info_describes_the_build_of_the_extension(build, expected, monkeypatch):
    native = SimpleNamespace(build_info=lambda: build)
    monkeypatch.setitem(sys.modules, "fastmed.backends.native", native)
    assert info._extension() == expected


def test_info_needs_no_extra():
    run = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_help_ends_well(capsys):
    assert main(["--help"]) == 0
    assert "demo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: command"),
        (["train"], "invalid choice: 'train'"),
        (["demo", "--steps", "0"], "--steps: got 0, allowed is 1 or more"),
        (["demo", "--steps", "many"], "--steps: invalid"),
        (["demo", "--seed", "-1"], "--seed: got -1"),
        (["demo", "--approach", "4d"], "--approach: invalid choice: '4d'"),
        (["demo", "--loss", "keras"], "--loss: invalid choice: 'keras'"),
    ],
)
def test_a_bad_option_is_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.skipif(dispatch.unavailable_reason(dispatch.TABLE[1]) is not None, reason="needs numba")
def test_warmup_compiles_every_kernel(capsys):
    from fastmed.backends.cpu_numba import channels_last, label_map, pointwise, softmax

    assert main(["warmup"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("ready after")
    for module in (channels_last, label_map, pointwise, softmax):
        # What a kernel compiled to is kept with it.
        assert all("_code" in vars(kernel) for kernel in (module.sums, module.gradient))


def test_warmup_without_numba_says_so(capsys, monkeypatch):
    monkeypatch.setattr(dispatch, "unavailable_reason", lambda row: "is not installed")
    assert main(["warmup"]) == 0
    assert capsys.readouterr().out == "nothing to compile: numba is not installed\n"
