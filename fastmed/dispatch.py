"""The only place where a backend is chosen."""

from __future__ import annotations

import functools
import importlib
from typing import NamedTuple, cast

from .backends import fork
from .contract import Backend, Request


class BackendError(RuntimeError):
    """No backend, or not the one that was named, can run the request."""


class Row(NamedTuple):
    """A backend in the table: what can be said of it without importing it."""

    name: str
    module: str
    devices: frozenset[str] | None
    operations: frozenset[str]


_REGION = frozenset({"region_sums"})
_COUNTS = frozenset({"confusion_counts", "score_histogram"})
_RANKS = frozenset({"rank_statistics"})

# In order of preference. `devices=None` means any.
TABLE: tuple[Row, ...] = (
    Row("native", "fastmed.backends.native", frozenset({"cpu", "cuda"}), _COUNTS),
    Row("numba", "fastmed.backends.cpu_numba", frozenset({"cpu"}), _REGION | _COUNTS | _RANKS),
    Row("triton", "fastmed.backends.gpu_triton", frozenset({"cpu", "cuda"}), _REGION),
    Row("reference", "fastmed.backends.reference", None, _REGION | _COUNTS | _RANKS),
)
# With the package, since torch may have used its threads before any backend is loaded.
fork.watch()
NAMES = tuple(row.name for row in TABLE)


@functools.cache
def _load(module: str) -> Backend | str:
    """The backend's module, or why it cannot be imported."""
    try:
        return cast(Backend, importlib.import_module(module))
    except ImportError as error:
        return f"cannot be imported: {error}"


def unavailable_reason(row: Row) -> str | None:
    """Why nothing runs on this backend here, or None if something does."""
    backend = _load(row.module)
    return backend if isinstance(backend, str) else backend.unavailable_reason()


def unsupported_reasons(row: Row, request: Request) -> list[str]:
    """Every reason why the backend of this row cannot run the request; empty if it can."""
    if request.op not in row.operations:
        return [f"does not implement {request.op}"]
    if row.devices is not None and request.device not in row.devices:
        return [f"runs on {' or '.join(sorted(row.devices))}, not on {request.device}"]
    backend = _load(row.module)
    if isinstance(backend, str):
        return [backend]
    reason = backend.unavailable_reason()
    return [reason] if reason is not None else backend.unsupported_reasons(request)


@functools.lru_cache(maxsize=4096)
def select(request: Request, name: str = "auto") -> Backend:
    """The first backend of the table that runs the request, or the named one.

    Args:
        request: operation, device, dtypes and classes.
        name: "auto" or a name of the table; a named backend is used or refused, never replaced.

    Raises:
        ValueError: if `name` is not in the table.
        BackendError: if it cannot run the request, with every reason.
    """
    if name != "auto" and name not in NAMES:
        raise ValueError(f"backend: got {name!r}, allowed are 'auto', {', '.join(map(repr, NAMES))}")
    rows = [row for row in TABLE if name in ("auto", row.name)]
    refusals = []
    for row in rows:
        reasons = unsupported_reasons(row, request)
        if not reasons:
            return cast(Backend, _load(row.module))
        refusals.append(f"{row.name}: {'; '.join(reasons)}")
    raise BackendError(
        f"no backend runs {request.op} of {request.dtype} with {request.target_dtype} targets on {request.device} "
        f"(backend={name!r}):\n  " + "\n  ".join(refusals)
    )
