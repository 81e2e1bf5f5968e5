"""Random calls of the C++ extension under AddressSanitizer and UndefinedBehaviorSanitizer.

`python -m tests.fuzz --seconds 600` starts from a random number; `--first 1234 --calls 1` makes one call again.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
from pathlib import Path

from .build import ROOT, build, environment

SHOWN = 60


def main() -> int:
    """Exit code 0 if every call did what it should; 1 says which did not, and why."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="(%(default)s)")
    parser.add_argument("--first", type=int, default=None, help="number of the first call (random)")
    parser.add_argument("--calls", type=int, default=2**62, help="at most (no limit)")
    parser.add_argument("--folder", type=Path, default=Path("out/fuzz"), help="of the extension (%(default)s)")
    parser.add_argument("--output", type=Path, default=None, help="JSON file for the number of calls")
    options = parser.parse_args()
    first = secrets.randbelow(2**32) if options.first is None else options.first
    numbers = [str(value) for value in (first, options.calls, options.seconds)]
    command = [sys.executable, "-m", "tests.fuzz.calls", str(build(options.folder)), *numbers]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        calls = json.loads(done.stdout)
        numbers = ", ".join(f"{number} {subject}" for subject, number in calls.items())
        print(f"calls from {first} on, all as they should be: {numbers}")
        if options.output is not None:
            options.output.write_text(json.dumps({"first": first, "calls": calls}, indent=1) + "\n")
        return 0
    lines = done.stderr.splitlines()
    last = next((line for line in reversed(lines) if line.isdecimal()), str(first))
    print("\n".join(lines[-SHOWN:]), file=sys.stderr)
    print(f"again: python -m tests.fuzz --first {last} --calls 1", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
