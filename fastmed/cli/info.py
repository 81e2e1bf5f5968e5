"""`fastmed info`: what runs on this machine, and why the rest does not."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from .. import dispatch
from .parser import Commands

_PACKAGES = ("torch", "triton", "numba", "numpy", "monai")


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("info", help="versions, backends, extension, GPU and threads")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the sections, names aligned."""
    sections = {
        "Versions": _versions(),
        "Backends": _backends(),
        "Native extension": _extension(),
        "Machine": _machine(),
    }
    width = max(len(name) for rows in sections.values() for name in rows)
    for title, rows in sections.items():
        print(title)
        for name, value in rows.items():
            print(f"  {name:<{width}}  {value}")
    return 0


def _versions() -> dict[str, str]:
    installed = {"fastmed": version("fastmed"), "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def _backends() -> dict[str, str]:
    rows = {}
    for row in dispatch.TABLE:
        reason = dispatch.unavailable_reason(row)
        state = "available" if reason is None else f"not available: {reason}"
        rows[row.name] = f"{', '.join(sorted(row.operations))}: {state}"
    return rows


def _extension() -> dict[str, str]:
    try:
        build = importlib.import_module("fastmed.backends.native").build_info()
    except ImportError as error:
        return {"build": f"none: {error}"}
    if build is None:
        return {"build": "none"}
    cuda = "CPU only" if build["cuda"] is None else f"CUDA {build['cuda']}: {', '.join(build['architectures'])}"
    return {"build": cuda, "compiler": build["compiler"]}


def _machine() -> dict[str, str]:
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "GPU": ", ".join(names) or "none",
        "CPU threads": f"{torch.get_num_threads()} (torch) of {os.cpu_count()} processors",
    }
