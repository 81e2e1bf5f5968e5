"""On what a result was measured, and where it is kept."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from llvmlite.binding import get_host_cpu_name

_PACKAGES = ("fastmed", "torch", "triton", "numba", "numpy", "monai", "torchmetrics", "scikit-learn")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name, and LLVM's for its generation: clouds call several generations the same."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} ({get_host_cpu_name()})"


def commit() -> str:
    """The commit that is checked out, with a mark if the tree differs from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=8", "--exclude=*"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return result.stdout.strip() or "unknown"


def describe(device: torch.device) -> dict[str, Any]:
    """Machine, versions and commit."""
    environment: dict[str, Any] = {
        "device": processor() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        environment["cuda"] = torch.version.cuda
        environment["compute_capability"] = f"{properties.major}.{properties.minor}"
        environment["memory_bytes"] = properties.total_memory
    return environment


def write(directory: Path, environment: dict[str, Any], results: dict[str, Any]) -> Path:
    """Writes one JSON file named by device and commit, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", environment["device"].lower()).strip("-")
    path = directory / f"{slug}-{environment['cores']}-cores-{environment['commit']}.json"
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps({"environment": environment, **results}, indent=1) + "\n")
    scratch.replace(path)
    return path
