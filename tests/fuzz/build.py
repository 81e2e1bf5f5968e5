"""The extension with AddressSanitizer and UndefinedBehaviorSanitizer in it, and the environment that runs it."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

import pybind11

ROOT = Path(__file__).parents[2]
SOURCES = ("bindings.cpp", "confusion_cpu.cpp", "histogram_cpu.cpp")


def build(folder: Path) -> Path:
    """`_native` in a folder of its own; CUDA is left out, and threads are its own: sanitizers know no OpenMP."""
    folder.mkdir(parents=True, exist_ok=True)
    module = folder / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    flags = ["-std=c++17", "-O1", "-g", "-fno-trapping-math", "-ffp-contract=off", "-pthread", "-shared", "-fPIC"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    include = [f"-I{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))]
    sources = [str(ROOT / "csrc" / name) for name in SOURCES]
    subprocess.run(["g++", *flags, *sanitizers, *include, *sources, "-o", str(module)], check=True)
    return module.resolve()


def environment() -> dict[str, str]:
    """The sanitizer has to be there before anything allocates; Python itself leaks on purpose."""
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    options = {"ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return {**os.environ, **options, "LD_PRELOAD": " ".join(libraries), "PYTHONMALLOC": "malloc"}
