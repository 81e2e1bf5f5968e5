"""What a generated case can be: the axes of each kind, their values with the plainest first, and how cases are drawn.

torch has no negative strides, so there is no such layout.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

INTEGERS = ("int64", "uint8", "int8", "int16", "uint16", "int32", "uint32", "bool")
HALVES = ("bfloat16", "float16")
FLOATS = ("float32", *HALVES, "float64")
_TYPES = (*INTEGERS, *FLOATS)
_UNSIGNED = ("uint8", "uint16", "uint32", "bool")

# More elements would cost time and show nothing new: kernels go on to their next tile after 1024 voxels.
_MOST_ELEMENTS = 6000
_LENGTHS = (5, 0, 1, 2, 3, 4, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)
_SPATIAL = (
    (7,),
    (),
    *((length,) for length in (*_LENGTHS, 255, 256, 257, 509, 1023, 1024, 1025, 2047, 2048, 2049)),
    *((a, b) for a in _LENGTHS for b in (1, 3, 4, 9)),
    *((a, b, c) for a in (0, 1, 2, 3, 5, 7, 8, 9) for b in (1, 2, 5) for c in (1, 2, 3, 8)),
)
LAYOUTS = (
    "contiguous",
    "channels last",
    "transposed",
    "crop",
    "every other",
    "storage offset",
    "one sample expanded",
    "one voxel expanded",
)
_CONTENTS = ("random", "background", "a class missing", "all ignored", "out of range", "missing")
_VALUES = ("normal", "uniform", "constant", "ties", "zero", "huge", "tiny", "infinite", "one class -inf", "nan")


def _layouts() -> tuple[tuple[str, str, str], ...]:
    return tuple((a, b, c) for a in LAYOUTS for b in LAYOUTS for c in ("contiguous", "transposed", "crop"))


class RegionCase(NamedTuple):
    """One call of a region operator; `types` and `layouts` are those of input, target and mask."""

    op: str
    backend: str
    samples: int
    classes: int
    spatial: tuple[int, ...]
    types: tuple[str, str, str]
    layouts: tuple[str, str, str]
    values: str
    activation: str | None
    target: str
    content: str
    mask: str
    ignore_index: int | None
    label_smoothing: float
    gamma: float
    wanted: tuple[bool, bool, bool]
    loss: str
    weighted: bool
    validate: bool | None
    seed: int = 0

    @property
    def ignored_class(self) -> int | None:
        """The class whose voxels are ignored where the target has a channel for each, not the value of one."""
        is_class = self.target == "dense" and self.ignore_index in range(self.classes) and self.classes > 1
        return self.ignore_index if is_class else None


class CountCase(NamedTuple):
    """One call of `confusion_counts`."""

    op: str
    backend: str
    samples: int
    classes: int
    spatial: tuple[int, ...]
    types: tuple[str, str, str]
    layouts: tuple[str, str, str]
    values: str
    kind: str
    content: str
    mask: str
    ignore_index: int | None
    threshold: str
    pool: str
    validate: bool | None
    seed: int = 0


class HistogramCase(NamedTuple):
    """One call of `score_histogram`."""

    op: str
    backend: str
    samples: int
    classes: int
    spatial: tuple[int, ...]
    types: tuple[str, str, str]
    layouts: tuple[str, str, str]
    values: str
    content: str
    mask: str
    activation: str | None
    spacing: str
    bins: int
    limits: tuple[float, float] | None
    validate: bool | None
    seed: int = 0


Case = RegionCase | CountCase | HistogramCase
Axes = Mapping[str, tuple[Any, ...]]

_SHAPES: Axes = {
    "samples": (2, 0, 1, 3),
    "classes": (3, 1, 2, 4, 5, 8, 9, 14, 17, 33),
    "spatial": _SPATIAL,
    "layouts": _layouts(),
    "validate": (None, False),
}
_REGION: Axes = {
    **_SHAPES,
    "types": tuple((a, b, c) for a in FLOATS for b in _TYPES for c in ("bool", "uint8", *FLOATS)),
    "values": _VALUES,
    "activation": ("softmax", "sigmoid", None),
    "target": ("labels", "labels with a channel", "dense", "uncertain"),
    "content": _CONTENTS,
    "mask": ("none", "voxels", "one channel", "classes", "table", "nothing"),
    "ignore_index": (None, 0, 2, 255, -1),
    "label_smoothing": (0.0, 0.1, 0.5),
    "gamma": (0.0, 1.0, 2.0, 2.5),
    "wanted": ((True, False, False), (True, True, True), (False, True, False), (False, False, True)),
    "loss": ("",),
    "weighted": (False,),
}
LOSSES = ("dice", "dice ce", "dice bce", "tversky", "jaccard", "batch dice", "balanced bce", "focal", "sum")
AXES: Mapping[str, Axes] = {
    "region_sums": _REGION,
    "region_sums_backward": {**_REGION, "wanted": ((True, False, False), (True, True, False))},
    "region_loss": {**_REGION, "wanted": ((True, False, False),), "loss": LOSSES, "weighted": (False, True)},
    "confusion_counts": {
        **_SHAPES,
        "classes": (3, 1, 2, 4, 5, 9, 17, 33, 120, 255, 256, 300),
        "types": tuple(
            (a, b, c) for a in (*INTEGERS, *FLOATS) for b in (*INTEGERS, *FLOATS) for c in ("bool", "uint8")
        ),
        "values": _VALUES,
        "kind": ("labels", "scores", "threshold"),
        "content": _CONTENTS,
        "mask": ("none", "voxels", "one channel", "classes", "nothing"),
        "ignore_index": (None, 0, 2, 255, -1),
        "threshold": ("number", "each class"),
        "pool": ("sample", "batch"),
    },
    "score_histogram": {
        **_SHAPES,
        "classes": (3, 1, 2, 5, 9),
        "types": tuple((a, b, c) for a in FLOATS for b in _TYPES for c in ("bool", "uint8")),
        "values": _VALUES,
        "content": ("random", "background", "out of range", "missing"),
        "mask": ("none", "voxels", "one channel", "classes", "table", "nothing"),
        "activation": (None, "sigmoid"),
        "spacing": ("uniform", "logit"),
        "bins": (4, 1, 2, 7, 64, 1000),
        "limits": (None, (0.25, 0.75), (-1.7, 3.3)),
    },
}
# Numba compiles a function for each triple of types, so it gets those that other tests compile anyway.
_NUMBA: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "region": (
        ("float32", "int64", "bool"),
        ("bfloat16", "int64", "bool"),
        ("float16", "int64", "bool"),
        ("float32", "float32", "bool"),
        ("float32", "uint8", "float32"),
        ("float32", "float32", "float32"),
    ),
    "confusion_counts": (
        ("uint8", "uint8", "bool"),
        ("int64", "int64", "bool"),
        ("int64", "uint8", "uint8"),
        ("float32", "uint8", "bool"),
        ("float32", "float32", "bool"),
        ("bfloat16", "uint8", "bool"),
    ),
    "score_histogram": (("float32", "float32", "bool"), ("bfloat16", "float32", "uint8")),
}
_TYPE: Mapping[str, type[RegionCase] | type[CountCase] | type[HistogramCase]] = {
    "region_sums": RegionCase,
    "region_sums_backward": RegionCase,
    "region_loss": RegionCase,
    "confusion_counts": CountCase,
    "score_histogram": HistogramCase,
}
# Cases of each operator and backend. In its interpreter, one call of Triton takes as long as a hundred of the others.
NUMBER: Mapping[str, Mapping[str, int]] = {
    "region_sums": {"reference": 1750, "numba": 2500, "triton": 32},
    "region_sums_backward": {"reference": 1000, "numba": 1500, "triton": 16},
    "region_loss": {"reference": 750, "numba": 1250, "triton": 24},
    "confusion_counts": {"reference": 2250, "numba": 2500, "native": 4500},
    "score_histogram": {"reference": 1000, "numba": 1000, "native": 2000},
}


def axes_of(op: str, backend: str) -> Axes:
    """The axes of an operator, with the types that the backend takes."""
    axes = dict(AXES[op])
    if backend == "numba":
        axes["types"] = _NUMBA.get(op, _NUMBA["region"])
    elif backend == "triton":
        axes["types"] = tuple(types for types in axes["types"] if types[0] != "float64")
    return axes


def dtype(name: str) -> torch.dtype:
    """The type of this name."""
    return getattr(torch, name)  # type: ignore[no-any-return]


def holds(name: str, value: float) -> bool:
    """Whether a type can hold the value."""
    if name == "bool":
        return value in (0, 1)
    of_type = dtype(name)
    return of_type.is_floating_point or torch.iinfo(of_type).min <= value <= torch.iinfo(of_type).max


def _is_possible(case: Case) -> bool:
    """Whether the choices go together: all else is left out, which says nothing of the package."""
    spatial, target_type = case.spatial, case.types[1]
    if case.samples * case.classes * math.prod(spatial) > _MOST_ELEMENTS:
        return False
    if case.mask == "table" and len(spatial) < 2 and spatial in ((), (case.classes,)):
        return False
    if "one voxel expanded" in case.layouts and not spatial:
        return False
    if isinstance(case, HistogramCase):
        return _is_possible_histogram(case)
    if case.content == "all ignored" and (case.ignore_index is None or not holds(target_type, case.ignore_index)):
        return False
    return _is_possible_region(case) if isinstance(case, RegionCase) else _is_possible_count(case)


def _is_possible_region(case: RegionCase) -> bool:
    integer = case.types[1] in INTEGERS
    is_map = case.target.startswith("labels")
    if is_map and (not integer or case.classes == 1):
        return False
    if case.activation == "softmax" and case.classes == 1:
        return False
    if case.target == "uncertain" and case.activation != "sigmoid":
        return False
    if case.activation is None and (
        case.values in ("huge", "infinite", "one class -inf") or case.gamma or case.label_smoothing
    ):
        return False
    if case.values == "huge" and case.gamma and case.activation == "softmax" and case.op != "region_sums":
        # Autograd of the definition multiplies a logit of 1e30 by the rounding of a probability.
        return False
    if case.content == "missing" and (is_map or integer):
        return False
    if case.content == "out of range" and not (is_map or (case.target == "uncertain" and case.types[1] in FLOATS)):
        return False
    if case.backend == "numba" and case.mask == "none" and case.types[2] != "bool":
        # Without a mask Numba's kernels are those for one of bytes.
        return False
    return case.op != "region_loss" or _is_possible_loss(case)


def _is_possible_loss(case: RegionCase) -> bool:
    if case.activation is None:
        return case.loss in ("dice", "tversky", "jaccard")
    if case.loss in ("dice bce", "balanced bce"):
        return case.activation == "sigmoid"
    return case.loss != "dice ce" or case.activation == "softmax"


def _is_possible_count(case: CountCase) -> bool:
    input_type, target_type, _ = case.types
    if case.kind == "threshold":
        return case.classes < 100 and not (case.content == "missing" and target_type in _UNSIGNED)
    if target_type not in INTEGERS or case.content == "missing" or case.classes == 1 or case.mask == "classes":
        return False
    return (input_type in INTEGERS) == (case.kind == "labels")


def _is_possible_histogram(case: HistogramCase) -> bool:
    if case.spacing == "logit" and case.limits == (0.25, 0.75):
        return False
    unsigned = case.types[1] in ("uint8", "uint16", "uint32", "bool")
    return not (case.content == "missing" and unsigned) and not (
        case.content == "out of range" and case.types[1] == "bool"
    )


def _draw(source: random.Random, op: str, backend: str, axes: Axes) -> Case:
    """One case: each choice the plainest in one of four, so that few things are unusual at a time."""
    while True:
        chosen = {name: values[0] if source.random() < 0.25 else source.choice(values) for name, values in axes.items()}
        case = _TYPE[op](op=op, backend=backend, **chosen)
        if _is_possible(case):
            return case


def _distinct(op: str, backend: str) -> Iterator[Case]:
    source, axes = random.Random(f"{op} {backend}"), axes_of(op, backend)
    seen: set[Case] = set()
    while True:
        case = _draw(source, op, backend, axes)
        if case not in seen:
            seen.add(case)
            yield case._replace(seed=len(seen))


@functools.cache
def cases(op: str, backend: str) -> tuple[Case, ...]:
    """All cases of an operator and a backend, no two alike but for the random numbers in them."""
    stream = _distinct(op, backend)
    return tuple(next(stream) for _ in range(NUMBER[op][backend]))


def simplest(case: Case, fails: Any) -> Case:
    """The case with every choice made plain that does not matter to its failure."""
    for name, values in axes_of(case.op, case.backend).items():
        for value in values:
            plainer = case._replace(**{name: value})
            if value == getattr(case, name) or (_is_possible(plainer) and fails(plainer)):
                case = plainer
                break
    return case
