"""Kernels: C functions that any number of threads enter at once, and that share the items of a job among them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, types
from numba.extending import intrinsic

from . import threads
from .compilation import compiled
from .job import NEXT, ROWS, SIZE, SUMS
from .memory import call

_POINTER = types.CPointer(types.int64)


class Kernel:
    """Compiled code for a pointer to a job, made at its first use."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        self._function = function
        functools.update_wrapper(self, function)

    @functools.cached_property
    def _code(self) -> Any:
        return cfunc(types.void(_POINTER), cache=True, error_model="numpy")(self._function)

    @functools.cached_property
    def address(self) -> int:
        """Where the code is, for compiled code."""
        return int(self._code.address)

    @functools.cached_property
    def _entry(self) -> Any:
        return threads.ENTRY(self.address)

    def __call__(self, job: Any, number_of_threads: int) -> None:
        """Runs until all items of a job are done."""
        threads.run(self._entry, job.ctypes.data, number_of_threads)


@compiled
def run(kernel: int, job: Any, operand: Any, team: int, number: int) -> None:
    """What calling a `Kernel` does, from compiled code: it is at an address, as is `threads.team`.

    The operand is what the job has as `SUMS`; the caller's reference to it outlives the kernel.
    """
    job[NEXT], job[SUMS], job[ROWS] = 0, operand.ctypes.data, len(operand)
    call(team, (kernel, np.int64(job.ctypes.data), number, np.int64(0)))


@intrinsic
def take(_context: Any, job: Any) -> Any:
    """The next item of a job, which no other thread gets: its first number counts them."""
    if job != _POINTER:
        return None

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", arguments[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(_POINTER), generate


@compiled
def read(job: Any) -> Any:
    """The job as an array."""
    return carray(job, (SIZE,))
