"""`make bench`: fastmed beside its peers on this CPU."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

import torch

from . import cold_start, environment, sweeps
from .cases import cpu_cases
from .compare import Change, changes
from .measure import measure_all
from .timing import copy_bandwidth, wall_clock


def main() -> int:
    """Measures every case and writes one JSON file; 1 where fastmed got slower than in the file to compare with."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of the JSON file")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="earlier results; fails where fastmed got slower")
    arguments = parser.parse_args()
    before = json.loads(arguments.compare.read_text()) if arguments.compare else None
    # MONAI warns of single-channel predictions, torch of compiled code it falls back on: neither is ours to report.
    warnings.simplefilter("ignore")
    device = torch.device("cpu")
    about = environment.describe(device)
    bandwidth = copy_bandwidth(device)
    print(f"{about['device']}, {about['threads']} threads, copy {bandwidth / 1e9:.1f} GB/s, commit {about['commit']}")
    rows = measure_all(cpu_cases(), device, wall_clock, bandwidth)
    lines = sweeps.measure(bandwidth)
    start = cold_start.measure()
    print(f"\nfirst step: {start['nothing_compiled_s']:.1f} s, with what it compiles cached {start['cached_s']:.2f} s")
    results = {"copy_bandwidth_bytes_s": bandwidth, "results": rows, "sweeps": lines, "first_step": start}
    path = environment.write(arguments.results, about, results)
    print(f"\nwritten: {path}")
    return 0 if before is None else _report(changes(before, results))


def _report(found: list[Change]) -> int:
    """Prints every case; 1 if one is slower beyond its spread."""
    print("\nfastmed's time over that of before, the machine's own change divided out")
    for change in found:
        verdict = "SLOWER" if change.is_regression else ""
        print(f"  {change.case:<48} {change.ratio:5.2f}  spread {change.spread:.2f}  {verdict}")
    return int(any(change.is_regression for change in found))


if __name__ == "__main__":
    sys.exit(main())
