"""Whether a kernel runs on several threads, and how: on those of PyTorch's OpenMP where its entry is to be had.

A second pool would find the processors taken by the threads of the first, which wait for their next work by spinning.
A process forked after the first use must not enter OpenMP again. So the calling thread works alone after a fork, for
small tensors, and where torch has one thread (as in a DataLoader worker).
"""

from __future__ import annotations

import ctypes
import functools
import threading
from typing import Any

import torch

from .. import fork

# Below this many elements of the input the hand-over to other threads costs more than it saves.
SERIAL_BELOW = 1 << 16

# What a thread is given to do.
ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def _openmp() -> Any:
    """What starts a team of threads in GNU's OpenMP, and in LLVM's, which PyTorch has loaded; None if neither."""
    try:
        start = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    start.argtypes, start.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return start


def count(elements: int) -> int:
    """Threads to use for an input of this many elements."""
    return 1 if elements < SERIAL_BELOW or fork.happened() else torch.get_num_threads()


def _start_plain_threads(entry: int, argument: int, number: int, _flags: int) -> None:
    function = ENTRY(entry)
    others = [threading.Thread(target=function, args=(argument,)) for _ in range(number - 1)]
    for other in others:
        other.start()
    function(argument)
    for other in others:
        other.join()


_plain_threads = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(
    _start_plain_threads
)


def team() -> Any:
    """A C function that calls another with an argument on a number of threads; the last of its arguments is 0."""
    return _openmp() or _plain_threads


def team_address() -> int:
    """Where it is, for compiled code."""
    return ctypes.cast(team(), ctypes.c_void_p).value or 0


def run(entry: Any, argument: int, number: int) -> None:
    """Calls a C function on a number of threads, the calling one among them, and waits until all have returned."""
    if number == 1:
        entry(argument)
    else:
        team()(entry, argument, number, 0)
