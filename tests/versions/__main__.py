"""Install the project in an environment for each row of the table, and run the tests that need no other library there.

    python -m tests.versions --output benchmarks/results/test-matrix.json
    python -m tests.versions --only oldest

A row whose interpreter or packages cannot be had is recorded as not run, with the reason. Exit code 1 if a row
failed: the project could not be installed, a backend that must run does not, or a test fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.progress import track

from .rows import CHOSEN, ROWS, TESTS, TOOLS, Row

ROOT = Path(__file__).parents[2]
# Seconds for what a row downloads, some gigabytes with CUDA, and for its tests.
LONGEST_INSTALLATION = 480
LONGEST_RUN = 1200


class MissingError(Exception):
    """What a row needs is not to be had here."""


class BrokenError(Exception):
    """The project does not work in this row."""


def interpreter(version: str) -> str:
    """The command of an interpreter of this version, on the path or among those of pyenv."""
    on_path = shutil.which(f"python{version}")
    of_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    for command in filter(None, [on_path, *map(str, of_pyenv)]):
        # A command of pyenv may be there and its interpreter not.
        if subprocess.run([command, "--version"], capture_output=True).returncode == 0:
            return command
    raise MissingError(f"no python{version} here")


def _run(command: list[str], kind: type[Exception], timeout: float, **options: Any) -> None:
    """Runs a command; what goes wrong is an exception of this kind, with the last line that says so."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)
    except subprocess.TimeoutExpired:
        raise kind(f"no end within {timeout} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        raise kind((errors or lines or [f"exit code {done.returncode}"])[-1])


class Environment:
    """A virtual environment in a folder, with the project's tests beside it but not its sources."""

    def __init__(self, row: Row, folder: Path) -> None:
        self._row = row
        self._folder = folder
        self._python = str(folder / "venv" / "bin" / "python")
        # The compiler is one that is not found: there is nothing else on the path.
        path = str(folder / "venv" / "bin") if "compiler" in row.without else os.environ["PATH"]
        of_row = {"PATH": path, "PYTHONPATH": "", "FASTMED_REQUIRED_BACKENDS": ",".join(row.backends)}
        self._variables = {**os.environ, "FASTMED_CUDA": "0", **of_row}

    def install(self) -> None:
        """Installs what the row asks for, then the project."""
        row = self._row
        _run([interpreter(row.python), "-m", "venv", str(self._folder / "venv")], MissingError, LONGEST_INSTALLATION)
        pip = [self._python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *row.requirements, *TOOLS], MissingError, LONGEST_INSTALLATION, env=self._variables)
        extras = "metrics,triton" if "triton" in row.backends else "metrics"
        project = f"fastmed[{extras}] @ {(self._folder / 'project').as_uri()}"
        _run([*pip, project, *row.requirements], BrokenError, LONGEST_INSTALLATION, env=self._variables)
        for package in row.without:
            if package != "compiler":
                uninstall = [self._python, "-m", "pip", "uninstall", "--quiet", "--yes", package]
                _run(uninstall, BrokenError, LONGEST_INSTALLATION, env=self._variables)

    def copy_project(self) -> None:
        """The project as it stands, for pip; and its tests where the sources are not beside them."""
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        for name in filter(None, files):
            beside = name.startswith(("tests/", "benchmarks/")) or name == "pyproject.toml"
            targets = ["project", "run"] if beside else ["project"]
            for target in targets:
                if (ROOT / name).exists():
                    (self._folder / target / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, self._folder / target / name)

    def test(self) -> dict[str, Any]:
        """What ran, as the plugin recorded it."""
        record = self._folder / "record.json"
        plugin = ["-p", "tests.versions.record", "--record", str(record)]
        pytest = [self._python, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", *plugin, "-k", CHOSEN, *TESTS]
        options = {"cwd": self._folder / "run", "env": self._variables}
        try:
            done = subprocess.run(pytest, capture_output=True, text=True, timeout=LONGEST_RUN, **options)  # type: ignore[call-overload]
        except subprocess.TimeoutExpired:
            raise BrokenError(f"tests: no end within {LONGEST_RUN} s") from None
        if done.returncode:
            print(done.stdout + done.stderr, file=sys.stderr)
        if not record.exists() or done.returncode not in (0, 1, 2):
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise BrokenError((lines or [f"exit code {done.returncode}"])[-1].strip(" !"))
        found: dict[str, Any] = json.loads(record.read_text())
        if not found["failed"] and set(found["backends"]) != set(self._row.backends):
            raise BrokenError(f"tests passed on {sorted(found['backends'])}, meant are {sorted(self._row.backends)}")
        return found


def try_row(row: Row) -> dict[str, Any]:
    """The row with its outcome."""
    result: dict[str, Any] = {"name": row.name, "asked": {"python": row.python, "packages": row.requirements}}
    result["without"] = row.without
    with tempfile.TemporaryDirectory() as name:
        environment = Environment(row, Path(name))
        try:
            environment.copy_project()
            environment.install()
            found = environment.test()
        except (MissingError, BrokenError) as error:
            outcome = "not run" if isinstance(error, MissingError) else "failed"
            return result | {"outcome": outcome, "reason": str(error).replace(f"{name}/", "")}
        return result | {"outcome": "failed" if found["failed"] else "passed"} | found


def main() -> int:
    """Exit code 0 if no row failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[row.name for row in ROWS], help="this row alone")
    parser.add_argument(
        "--output", type=Path, default=None, help="JSON file; rows that do not run now stay as they are"
    )
    options = parser.parse_args()
    known: dict[str, Any] = {}
    if options.output is not None and options.output.exists():
        known = {row["name"]: row for row in json.loads(options.output.read_text())["rows"]}
    failed = False
    for row in track([row for row in ROWS if options.only in (None, row.name)], "environments"):
        result = try_row(row)
        failed |= result["outcome"] == "failed"
        said = result.get("reason") or ", ".join(f"{number} {name}" for name, number in result["outcomes"].items())
        print(f"{row.name}: {result['outcome']}: {said}", flush=True)
        known[row.name] = result
        if options.output is not None:
            rows = [known[row.name] for row in ROWS if row.name in known]
            options.output.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
