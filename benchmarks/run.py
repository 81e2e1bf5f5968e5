"""`make bench`: fastmed beside its peers on this CPU."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch

from . import environment
from .cases import cpu_cases
from .measure import measure_all
from .timing import copy_bandwidth, wall_clock


def main() -> None:
    """Measures every case and writes one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of the JSON file")
    arguments = parser.parse_args()
    # MONAI warns of single-channel predictions, torch of compiled code it falls back on: neither is ours to report.
    warnings.simplefilter("ignore")
    device = torch.device("cpu")
    about = environment.describe(device)
    bandwidth = copy_bandwidth(device)
    print(f"{about['device']}, {about['threads']} threads, copy {bandwidth / 1e9:.1f} GB/s, commit {about['commit']}")
    rows = measure_all(cpu_cases(), device, wall_clock, bandwidth)
    path = environment.write(arguments.results, about, {"copy_bandwidth_bytes_s": bandwidth, "results": rows})
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
