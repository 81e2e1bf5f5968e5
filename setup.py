"""The extension module `fastmed._native`: torch-free, with CUDA where nvcc is found, and never required."""

import os
import re
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

ARCHITECTURES = ("80", "90", "100")
CUDA_SOURCES = ("csrc/confusion_cuda.cu", "csrc/histogram_cuda.cu")
CUDA = os.environ.get("FASTMED_CUDA")  # "1": required, "0": left out, unset: built where possible


def find_nvcc() -> str | None:
    """Path of the CUDA compiler, or None."""
    home = os.environ.get("CUDA_HOME", os.devnull)
    return shutil.which("nvcc", path=f"{home}/bin") or shutil.which("nvcc")


def run(*command: str) -> str:
    """Output of a command; what goes wrong is a failed compilation."""
    try:
        done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CompileError(f"{error}\n{getattr(error, 'output', '')}") from error
    return done.stdout


class BuildNative(build_ext):
    """Adds the CUDA translation units."""

    def build_extension(self, extension: Pybind11Extension) -> None:
        """Builds with CUDA if possible or required, else for the CPU alone."""
        try:
            if CUDA != "0" and (nvcc := find_nvcc()):
                self.add_cuda(extension, nvcc)
            elif CUDA == "1":
                raise CompileError("no nvcc on PATH or under CUDA_HOME")
        except CompileError as error:
            if CUDA == "1":
                raise SystemExit(f"FASTMED_CUDA=1: {error}") from error
            print(f"{error}\nfastmed: building without CUDA", file=sys.stderr)
        try:
            self.build_with(extension, "-fopenmp")
        except CompileError:
            # Threads of its own, then.
            self.build_with(extension)

    def build_with(self, extension: Pybind11Extension, *flags: str) -> None:
        """Builds with more flags for compiler and linker."""
        compile_flags, link_flags = extension.extra_compile_args, extension.extra_link_args
        extension.extra_compile_args, extension.extra_link_args = [*compile_flags, *flags], [*link_flags, *flags]
        try:
            super().build_extension(extension)
        except LinkError as error:
            raise CompileError(str(error)) from error
        finally:
            extension.extra_compile_args, extension.extra_link_args = compile_flags, link_flags

    def add_cuda(self, extension: Pybind11Extension, nvcc: str) -> None:
        """Compiles the kernels, and links them and the static CUDA runtime into the extension."""
        known = re.findall(r"compute_(\d+)", run(nvcc, "--list-gpu-arch"))
        targets = [target for target in ARCHITECTURES if target in known]
        codes = [f"-gencode=arch=compute_{target},code=sm_{target}" for target in targets]
        codes += [f"-gencode=arch=compute_{target},code=compute_{target}" for target in targets[-1:]]
        flags = ("-O3", "-std=c++17", "-Xcompiler=-fPIC,-fvisibility=hidden")
        for source in CUDA_SOURCES:
            built = Path(self.build_temp, source).with_suffix(".cuda.o")
            built.parent.mkdir(parents=True, exist_ok=True)
            run(nvcc, *flags, *codes, "-c", source, "-o", str(built))
            extension.extra_objects.append(str(built))
        extension.library_dirs += re.findall(r'"-L([^"]+)"', run(nvcc, "--dryrun", CUDA_SOURCES[0]))
        extension.libraries += ["cudart_static", "dl", "rt", "pthread"]
        extension.define_macros.append(("FASTMED_CUDA", "1"))


native = Pybind11Extension(
    "fastmed._native",
    ["csrc/bindings.cpp", "csrc/confusion_cpu.cpp", "csrc/histogram_cpu.cpp"],
    depends=[*CUDA_SOURCES, *sorted(glob("csrc/*.hpp"))],
    # Loops with comparisons become vector instructions only if nobody asks for floating-point exceptions; and without
    # fused multiply-add a score falls into the same bin on every processor.
    extra_compile_args=["-O3", "-fno-trapping-math", "-ffp-contract=off", "-pthread"],
    extra_link_args=["-pthread"],
    cxx_std=17,
    optional=CUDA != "1",
)
setup(ext_modules=[native], cmdclass={"build_ext": BuildNative})
