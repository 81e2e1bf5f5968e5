"""One random call of the extension for each number, held to a plain count in NumPy.

Operands lie in buffers of exactly the bytes that their strides reach, so that a sanitizer sees the first byte read
beyond; what they hold is random, down to the bits. Other calls have arguments of any kind, and must be refused.
`python -m tests.fuzz` builds the extension and runs this module in a process that the sanitizers can watch.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import itertools
import json
import sys
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LABELS = ("UINT8", "INT8", "INT16", "UINT16", "INT32", "UINT32", "INT64")
SCORES = ("FLOAT16", "BFLOAT16", "FLOAT32", "FLOAT64")
# NumPy has no bfloat16: its bits are the upper half of a float32.
STORED = {
    "BFLOAT16": np.dtype(np.uint16),
    **{name: np.dtype(name.lower()) for name in LABELS + SCORES if name[0] != "B"},
}
EXTRA_COLUMNS = 3


class Operand(NamedTuple):
    """What a call gets, the numbers in it (N, C, V), and the buffer that must outlive the call."""

    native: Any
    numbers: NDArray[Any]
    buffer: NDArray[Any]


def load(path: str) -> ModuleType:
    """The extension at a path."""
    specification = importlib.util.spec_from_file_location("_native", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _strides(rng: np.random.Generator, shape: Sequence[int]) -> list[int]:
    """Of any order of the axes, with gaps, expanded or backwards."""
    strides, step = [0, 0, 0], int(rng.integers(1, 4))
    for axis in rng.permutation(3):
        strides[axis] = step * int(rng.choice([1, 1, 1, -1, 0]))
        step *= shape[axis] + int(rng.integers(0, 2))
        step = max(step, 1)
    return strides


def _contents(rng: np.random.Generator, dtype: str, size: int, classes: int) -> NDArray[Any]:
    stored = STORED[dtype]
    kind = rng.choice(["classes", "bits", "few"])
    if kind == "bits":
        return np.frombuffer(rng.bytes(size * stored.itemsize), stored).copy()
    values = rng.integers(-1 if kind == "few" else 0, classes + (kind == "few"), size)
    if dtype == "BFLOAT16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(stored)


def draw_operand(
    native: ModuleType, rng: np.random.Generator, dtype: str, shape: Sequence[int], classes: int
) -> Operand:
    """An operand of a shape (N, C, V) in memory of its own."""
    strides = _strides(rng, shape)
    reach = [stride * max(length - 1, 0) for stride, length in zip(strides, shape, strict=True)]
    first = -sum(min(each, 0) for each in reach)
    size = 0 if 0 in shape else first + sum(max(each, 0) for each in reach) + 1
    buffer = _contents(rng, dtype, size, classes)
    item = buffer.itemsize
    viewed = (
        np.empty(shape, buffer.dtype)
        if size == 0
        else np.lib.stride_tricks.as_strided(buffer[first:], shape, [stride * item for stride in strides])
    )
    numbers = (viewed.astype(np.uint32) << 16).view(np.float32) if dtype == "BFLOAT16" else viewed.copy()
    address = buffer.ctypes.data + first * item
    return Operand(native.Operand(address, getattr(native.Dtype, dtype), *strides), numbers, buffer)


def _mask(native: ModuleType, rng: np.random.Generator, shape: Sequence[int]) -> Operand | None:
    if rng.random() < 0.5:
        return None
    return draw_operand(native, rng, "UINT8", shape, 2)


def _shape(rng: np.random.Generator) -> tuple[int, int, int]:
    samples, voxels = int(rng.choice([0, 1, 1, 2, 3])), int(rng.choice([0, 1, 15, 16, 17, 300, 5_000, 70_000]))
    classes = int(rng.choice([1, 2, 3, 4, 16, 17, 70, 300]))
    return samples, classes if samples * voxels < 20_000 else min(classes, 4), voxels


def _classes_of(numbers: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """The class of each number, or -1 for what is none."""
    if numbers.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            inside = (numbers >= 0) & (numbers < classes) & (numbers == np.floor(numbers))
    else:
        inside = (numbers >= 0) & (numbers < classes)
    return np.where(inside, numbers, 0).astype(np.int64) - ~inside


def _is(numbers: NDArray[Any], value: int | None) -> NDArray[np.bool_]:
    """Where a number is this one; NumPy would round one of them to the type of the other."""
    if value is None:
        return np.zeros(numbers.shape, bool)
    if numbers.dtype.kind == "f":
        return numbers.astype(np.float64) == float(value)
    limits = np.iinfo(numbers.dtype)
    return numbers == value if limits.min <= value <= limits.max else np.zeros(numbers.shape, bool)


def _tables(rows: NDArray[np.int64], columns: NDArray[np.int64], kept: NDArray[np.bool_], size: int) -> Any:
    valid = kept & (rows >= 0) & (columns >= 0)
    cells = (rows * size + columns)[valid]
    return np.bincount(cells, minlength=size * size), int((kept & ~valid).sum())


def confusion(native: ModuleType, rng: np.random.Generator) -> None:
    """A random count, and the same one in NumPy."""
    samples, classes, voxels = _shape(rng)
    kind = str(rng.choice(["LABELS", "SCORES", "MULTI_LABEL"]))
    pooled = bool(rng.random() < 0.5)
    ignore = None if rng.random() < 0.5 else int(rng.choice([0, 1, -1, 255, classes, 2**40, -(2**63)]))
    channels = classes if kind == "MULTI_LABEL" else 1
    of_input = rng.choice({"LABELS": LABELS, "SCORES": SCORES, "MULTI_LABEL": LABELS + SCORES}[kind])
    of_target = rng.choice(LABELS + SCORES if kind == "MULTI_LABEL" else LABELS)
    size = 2 if kind == "MULTI_LABEL" else classes
    input = draw_operand(native, rng, str(of_input), (samples, 1 if kind == "LABELS" else classes, voxels), size)
    target = draw_operand(native, rng, str(of_target), (samples, channels, voxels), size)
    mask = _mask(native, rng, (samples, channels, voxels))
    # In the precision of the scores, as the extension asks for them.
    precision = input.numbers.dtype if input.numbers.dtype.kind == "f" else np.int64
    thresholds = rng.normal(size=classes).astype(precision).astype(np.float64)
    tables = 1 if pooled else samples
    counts = np.zeros((tables, channels, size * size), np.int64)
    invalid = np.zeros(tables, np.int64)
    native.confusion_counts_cpu(
        native.ConfusionProblem(
            kind=getattr(native.Input, kind),
            input=input.native,
            target=target.native,
            mask=None if mask is None else mask.native,
            samples=samples,
            voxels=voxels,
            classes=classes,
            thresholds=thresholds.ctypes.data if kind == "MULTI_LABEL" else 0,
            ignore_index=ignore,
            pooled=pooled,
            counts=counts.ctypes.data,
            invalid=invalid.ctypes.data,
        ),
        int(rng.integers(1, 5)),
    )
    expected, wrong = np.zeros_like(counts), np.zeros_like(invalid)
    for n in range(samples):
        sample = 0 if pooled else n
        for channel in range(channels):
            truth = target.numbers[n, channel]
            kept = ~_is(truth, ignore)
            if mask is not None:
                kept &= mask.numbers[n, channel] != 0
            if kind == "MULTI_LABEL":
                # NaN and -1 are missing; as unsigned numbers know neither.
                kept &= (truth == truth) & ~_is(truth, -1)
                columns = (input.numbers[n, channel] > thresholds[channel]).astype(np.int64)
            elif kind == "SCORES":
                columns = input.numbers[n].argmax(0)
            else:
                columns = _classes_of(input.numbers[n, 0], classes)
            table, out_of_range = _tables(_classes_of(truth, size), columns, kept, size)
            expected[sample, channel] += table
            wrong[sample] += out_of_range
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(invalid, wrong)


def histogram(native: ModuleType, rng: np.random.Generator) -> None:
    """A random histogram: exactly that of NumPy where scores are binned as they are, else every score once."""
    samples, tasks, voxels = _shape(rng)
    bins, transform = int(rng.choice([1, 2, 64, 1000, 5000])), str(rng.choice(["IDENTITY", "SIGMOID", "LOGIT"]))
    low = np.float32(rng.normal())
    high = low + np.float32(rng.uniform(0.5, 4))
    scale = np.float32(bins / (float(high) - float(low)))
    scores = draw_operand(native, rng, str(rng.choice(SCORES)), (samples, tasks, voxels), 4)
    target = draw_operand(native, rng, str(rng.choice(LABELS + SCORES)), (samples, tasks, voxels), 2)
    mask = _mask(native, rng, (samples, tasks, voxels))
    counts = np.zeros((tasks, 2, bins + EXTRA_COLUMNS), np.int64)
    invalid = np.zeros(tasks, np.int64)
    native.score_histogram_cpu(
        native.HistogramProblem(
            scores=scores.native,
            target=target.native,
            mask=None if mask is None else mask.native,
            samples=samples,
            tasks=tasks,
            voxels=voxels,
            bins=native.Bins(getattr(native.Transform, transform), bins, float(low), float(high), float(scale)),
            counts=counts.ctypes.data,
            invalid=invalid.ctypes.data,
        ),
        int(rng.integers(1, 5)),
    )
    kept = np.ones(target.numbers.shape, bool) if mask is None else mask.numbers != 0
    known = [kept & (target.numbers == label) for label in (0, 1)]
    missing = (target.numbers != target.numbers) | _is(target.numbers, -1)
    unknown = kept & ~missing & ~known[0] & ~known[1]
    np.testing.assert_array_equal(invalid, unknown.sum((0, 2)))
    np.testing.assert_array_equal(counts.sum(2), np.stack([each.sum((0, 2)) for each in known], 1))
    if transform != "IDENTITY":
        return
    with np.errstate(all="ignore"):
        values = scores.numbers.astype(np.float32)
        place = np.clip(np.floor((values - low) * scale), 0, bins - 1) + 1
        place = np.where(values < low, 0, np.where(values > high, bins + 1, place))
        place = np.where(np.isnan(values), bins + 2, place).astype(np.int64)
    for task in range(tasks):
        for label in (0, 1):
            chosen = place[:, task][known[label][:, task]]
            np.testing.assert_array_equal(
                counts[task, label], np.bincount(chosen, minlength=bins + EXTRA_COLUMNS), err_msg=f"{task} {label}"
            )


_ODD: tuple[Any, ...] = (None, -1, 0, 2**63, 2**70, -(2**63), 1.5, "8", b"", float("nan"), [], object())


def arguments(native: ModuleType, rng: np.random.Generator) -> None:
    """One argument of a kind or size that has no meaning: refused, with nothing counted."""
    data = np.zeros(64, np.uint8)
    counts, invalid = np.zeros((1, 4), np.int64), np.zeros(1, np.int64)
    operand = native.Operand(data.ctypes.data, native.Dtype.UINT8, 64, 64, 1)
    scores = native.Operand(data.ctypes.data, native.Dtype.FLOAT32, 16, 16, 1)
    if rng.random() < 0.5:
        of: dict[str, Any] = {
            "kind": native.Input.LABELS,
            "input": operand,
            "target": operand,
            "mask": None,
            "samples": 1,
            "voxels": 64,
            "classes": 2,
            "thresholds": 0,
            "ignore_index": None,
            "pooled": False,
            "counts": counts.ctypes.data,
            "invalid": invalid.ctypes.data,
        }
        odd: dict[str, tuple[Any, ...]] = {
            "kind": (*_ODD, native.Input.MULTI_LABEL, native.Input.SCORES),
            "input": (*_ODD, scores),
            "target": (*_ODD, scores),
            "mask": (*_ODD[1:], scores),
            "samples": tuple(value for value in _ODD if value != 0),
            "voxels": tuple(value for value in _ODD if value != 0),
            "classes": (*_ODD, native.MAX_CLASSES + 1, 2**32 - 1),
            "ignore_index": (2**63, 2**70, 1.5, "8", [], object()),
            "pooled": (2**63, 1.5, "8", [], object()),
        }
        make, run = native.ConfusionProblem, native.confusion_counts_cpu
    else:
        counts = np.zeros((1, 2, 4 + EXTRA_COLUMNS), np.int64)
        bins = native.Bins(native.Transform.IDENTITY, 4, 0.0, 1.0, 4.0)
        of = {
            "scores": scores,
            "target": operand,
            "mask": None,
            "samples": 1,
            "tasks": 1,
            "voxels": 16,
            "bins": bins,
            "counts": counts.ctypes.data,
            "invalid": invalid.ctypes.data,
        }
        odd = {
            "scores": (*_ODD, operand),
            "target": _ODD,
            "mask": (*_ODD[1:], scores),
            "samples": tuple(value for value in _ODD if value != 0),
            "tasks": tuple(value for value in _ODD if value != 0),
            "voxels": tuple(value for value in _ODD if value != 0),
            "bins": (*_ODD, native.Bins(native.Transform.IDENTITY, 0, 0.0, 1.0, 4.0)),
        }
        make, run = native.HistogramProblem, native.score_histogram_cpu
    name = str(rng.choice(sorted(odd)))
    value = odd[name][int(rng.integers(len(odd[name])))]
    try:
        run(make(**{**of, name: value}), 2)
    except (TypeError, ValueError, OverflowError):
        assert not counts.any()
        assert not invalid.any()
    else:
        raise AssertionError(f"{name} = {value!r} was not refused")


SUBJECTS = {"confusion": confusion, "histogram": histogram, "arguments": arguments}


def call(native: ModuleType, number: int) -> str:
    """The call of a number, the same one in every run; its subject."""
    rng = np.random.default_rng(number)
    subject = str(rng.choice(list(SUBJECTS), p=[0.5, 0.35, 0.15]))
    SUBJECTS[subject](native, rng)
    return subject


def main() -> None:
    """Calls until the time is over, then how many of each subject."""
    parser = argparse.ArgumentParser()
    parser.add_argument("native")
    parser.add_argument("first", type=int)
    parser.add_argument("calls", type=int)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    native = load(options.native)
    done: collections.Counter[str] = collections.Counter()
    end = time.monotonic() + options.seconds
    for number in itertools.islice(itertools.count(options.first), options.calls):
        if time.monotonic() >= end:
            break
        # Before the call: a sanitizer ends the process within it.
        print(number, file=sys.stderr, flush=True)
        done[call(native, number)] += 1
    print(json.dumps(done))


if __name__ == "__main__":
    main()
