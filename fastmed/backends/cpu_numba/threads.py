"""Whether a kernel runs on Numba's threads or on the calling one.

The `omp` layer is fast and may be entered by several Python threads at once, but a process forked after its first
use must not enter it again; `workqueue` aborts when two Python threads meet. So: `omp` where it is there, and the
serial twin of each kernel after a fork, for small tensors and at one thread (as in a DataLoader worker).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch

from .. import fork

# Below this many elements of the input the hand-over to other threads costs more than it saves.
SERIAL_BELOW = 1 << 16


@functools.cache
def _use_openmp() -> bool:
    """Whether parallel kernels run on the OpenMP layer; asked for at the first use of threads."""
    try:
        importlib.import_module("numba.np.ufunc.omppool")
    except ImportError:
        return False
    try:
        layer = numba.threading_layer()
    except ValueError:
        numba.config.THREADING_LAYER = layer = "omp"
    return bool(layer == "omp")


def count(elements: int) -> int:
    """Threads to use for an input of this many elements: 1 stands for the serial kernel."""
    if elements < SERIAL_BELOW:
        return 1
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    return 1 if threads == 1 or fork.happened() or not _use_openmp() else int(threads)


@contextmanager
def limit(threads: int) -> Iterator[None]:
    """Numba's number of threads within the block; that of the caller's own kernels is put back."""
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        yield
    finally:
        numba.set_num_threads(before)
