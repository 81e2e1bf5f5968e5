"""Plant each fault in a copy of the project, run the tests meant to find it, and say which of them did.

    python -m tests.mutation --output benchmarks/results/mutation.json
    python -m tests.mutation --only labels.py

A test that fails with the fault must pass without it, so the tests run on a copy without faults too. Each processor
has a copy of its own to plant faults in. Exit code 1 if a fault was found by no test.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rich.progress import track

from .faults import FAULTS, Fault

ROOT = Path(__file__).parents[2]
# A fault may keep a loop from ending.
LONGEST = 600


def copy_of(folder: Path) -> Path:
    """The project as it stands, with the extension that was built."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    built = [str(path.relative_to(ROOT)) for path in (ROOT / "fastmed").glob("_native*.so")]
    for name in filter(None, [*files, *built]):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), "FASTMED_CUDA": "0"}


def failing_test(folder: Path, tests: Sequence[str]) -> str | None:
    """The first of the tests that fails, or how the run ended; None if all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rN", "--no-header", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=folder, env=_environment(folder), capture_output=True, text=True, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return f"no end within {LONGEST} s"
    if done.returncode == 0:
        return None
    names = re.findall(r"^_+ (?:ERROR at \w+ of |ERROR collecting )?(.+?) _+$", done.stdout, re.MULTILINE)
    return str(names[0]) if names else f"exit code {done.returncode}"


class Faultless:
    """A copy of the project without faults."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[tuple[str, ...], str | None] = {}
        self._lock = threading.Lock()

    def failing_test(self, tests: tuple[str, ...]) -> str | None:
        """As the function of that name; the same tests run once."""
        with self._lock:
            if tests not in self._known:
                self._known[tests] = failing_test(self._folder, tests)
            return self._known[tests]


def _forget(folder: Path, fault: Fault) -> None:
    """Code compiled from before, which Numba would go on using: it looks at the calling file alone."""
    if "cpu_numba" in fault.file:
        for path in (folder / "fastmed").rglob("*.nb[ic]"):
            path.unlink()


def _build(folder: Path, fault: Fault) -> bool:
    if not fault.file.startswith("csrc"):
        return True
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(build, cwd=folder, env=_environment(folder), capture_output=True, text=True)
    return done.returncode == 0


def try_fault(fault: Fault, faulty: Path, faultless: Faultless) -> dict[str, Any]:
    """Which test finds a fault, and in how many seconds."""
    path = faulty / fault.file
    code = path.read_text()
    if code.count(fault.before) != 1:
        raise SystemExit(f"{fault.file}: {fault.before!r} occurs {code.count(fault.before)} times, allowed is once")
    start = time.perf_counter()
    path.write_text(code.replace(fault.before, fault.after))
    try:
        if not _build(faulty, fault):
            raise SystemExit(f"{fault.file}: with {fault.after!r} it does not compile")
        found = failing_test(faulty, fault.tests)
    finally:
        path.write_text(code)
        _forget(faulty, fault)
        _build(faulty, fault)
    seconds = time.perf_counter() - start
    without = None if found is None else faultless.failing_test(fault.tests)
    if without is not None:
        raise SystemExit(f"{fault.file}: {without} fails without the fault too")
    line = code[: code.index(fault.before)].count("\n") + 1
    return {
        "kind": fault.kind,
        "file": fault.file,
        "line": line,
        "before": fault.before.strip(),
        "after": fault.after.strip(),
        "found_by": found,
        "seconds": round(seconds, 1),
    }


def _key(result: dict[str, Any]) -> tuple[str, str, str]:
    return result["file"], result["before"], result["after"]


def _write(path: Path, results: list[dict[str, Any]]) -> None:
    """In the order of the list; faults that are no longer in it are left out."""
    order = [(fault.file, fault.before.strip(), fault.after.strip()) for fault in FAULTS]
    kept = sorted((result for result in results if _key(result) in order), key=lambda each: order.index(_key(each)))
    path.write_text(json.dumps({"faults": kept}, indent=1) + "\n")


def main() -> int:
    """Exit code 0 if a test finds each fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults in files whose path has this in it")
    parser.add_argument(
        "--output", type=Path, default=None, help="JSON file; faults that are not planted now stay as they are"
    )
    options = parser.parse_args()
    chosen = [fault for fault in FAULTS if options.only in fault.file]
    known: dict[tuple[str, str, str], dict[str, Any]] = {}
    if options.output is not None and options.output.exists():
        known = {_key(result): result for result in json.loads(options.output.read_text())["faults"]}
    missed = 0
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range((os.cpu_count() or 1) + 1)]
        faultless, free = Faultless(copy_of(folders[0])), SimpleQueue[Path]()
        for folder in folders[1:]:
            free.put(copy_of(folder))
        workers = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))

        def plant(fault: Fault) -> dict[str, Any]:
            faulty = free.get()
            try:
                return try_fault(fault, faulty, faultless)
            finally:
                free.put(faulty)

        planted = [workers.submit(plant, fault) for fault in chosen]
        # An error ends the run, not only the work of one processor.
        stack.callback(lambda: [waiting.cancel() for waiting in planted])
        for done in track(as_completed(planted), "planting faults", total=len(planted)):
            result = done.result()
            found = result["found_by"]
            missed += found is None
            print(f"{result['file']}: {result['kind']}: {'FOUND BY NO TEST' if found is None else found}", flush=True)
            known[_key(result)] = result
            if options.output is not None:
                _write(options.output, list(known.values()))
    print(f"{len(chosen) - missed} of {len(chosen)} faults found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
