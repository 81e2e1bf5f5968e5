"""`fastmed warmup`: compile before the first training step what it would have to wait for."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator

import torch

from .. import dispatch
from ..functional import confusion_counts, rank_statistics, region_sums, score_histogram
from ..losses import DiceBCELoss, DiceCELoss, MultiTaskBCELoss
from .parser import Commands

_LOGITS = (torch.float32, torch.bfloat16, torch.float16)
_LABELS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_VOXELS = 64


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "warmup",
        help="compile the CPU's kernels ahead of their first use",
        description="Compiles the kernels of the Numba backend and keeps them in Numba's cache (beside the package, "
        "or in NUMBA_CACHE_DIR), so that the first training step does not wait for them: in an image, or "
        "before many processes start at once.",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run a small case of everything, and say how long each took."""
    row = next(row for row in dispatch.TABLE if row.name == "numba")
    if reason := dispatch.unavailable_reason(row):
        print(f"nothing to compile: numba {reason}")
        return 0
    start = time.perf_counter()
    for name, work in _work():
        before = time.perf_counter()
        work()
        print(f"{name:<42} {time.perf_counter() - before:6.1f} s", flush=True)
    print(f"{'ready after':<42} {time.perf_counter() - start:6.1f} s")
    return 0


def _work() -> Iterator[tuple[str, Callable[[], object]]]:
    """What there is to compile, and a call that does."""
    yield "softmax, label maps", lambda: _step(DiceCELoss, classes=3)
    yield "softmax, masks and dense targets", lambda: _step(DiceCELoss, classes=3, dense=True)
    yield "sigmoid", lambda: _step(DiceBCELoss, classes=1, dense=True)
    yield "tables of labels, in one call", lambda: _table(torch.float32)
    yield "tables of labels, in two", lambda: _table(torch.bfloat16)
    yield "no activation", lambda: _probabilities()
    yield "types of logits and labels", _types
    yield "confusion matrices, histograms, ranks", _metrics


def _step(loss: type[DiceCELoss] | type[DiceBCELoss], classes: int, dense: bool = False) -> None:
    logits = torch.randn(1, classes, _VOXELS, requires_grad=True)
    target = torch.rand(1, classes, _VOXELS).round() if dense else torch.zeros(1, _VOXELS, dtype=torch.uint8)
    mask = torch.ones(1, 1, _VOXELS) if dense else None
    loss(backend="numba")(logits, target, mask).backward()


def _table(dtype: torch.dtype) -> None:
    logits = torch.randn(_VOXELS, 3, dtype=dtype, requires_grad=True)
    MultiTaskBCELoss(backend="numba")(logits, torch.zeros(_VOXELS, 3)).backward()


def _probabilities() -> None:
    p = torch.rand(1, 2, _VOXELS, requires_grad=True)
    region_sums(p, torch.rand(1, 2, _VOXELS).round(), activation=None, backend="numba").tp.sum().backward()


def _types() -> None:
    for logits, labels in itertools.zip_longest(_LOGITS, _LABELS, fillvalue=torch.float32):
        input = torch.randn(1, 2, _VOXELS, dtype=logits, requires_grad=True)
        target = torch.zeros(1, _VOXELS, dtype=labels)
        region_sums(input, target, activation="softmax", backend="numba").tp.sum().backward()


def _metrics() -> None:
    scores, target = torch.rand(_VOXELS, 2), torch.zeros(_VOXELS, 2, dtype=torch.uint8)
    rank_statistics(scores, target)
    score_histogram(scores, target, 16)
    confusion_counts(target, target, 2)
