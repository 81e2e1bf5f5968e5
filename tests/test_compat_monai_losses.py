"""The drop-ins for MONAI's losses beside MONAI.

Warnings are errors in these tests, so that wherever none is expected none came: no fallback either.
"""

from __future__ import annotations

import copy
import doctest
import itertools
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import monai
import pytest
import torch
from drop_ins import rounding
from monai import losses as peer
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import Tensor
from torch.nn import functional as F
from under_test import DEVICE, backends, label

from fastmed.compat import fallback
from fastmed.compat import monai as ours
from fastmed.contract import STATISTICS

TOLERANCE = 1e-5
FLAT, VOLUME, BINARY = (2, 4, 9, 8), (2, 4, 6, 5, 7), (2, 1, 6, 5, 7)


class Case(NamedTuple):
    """A loss, its options, and what it is called with."""

    name: str
    options: dict[str, Any]
    target: str = "index"
    shape: tuple[int, ...] = VOLUME
    mask: str | None = None

    def __repr__(self) -> str:
        options = ",".join(f"{key}={getattr(value, '__name__', value)}" for key, value in self.options.items())
        return f"{self.name}({options})-{self.target}-{len(self.shape) - 2}d" + (f"-{self.mask}" if self.mask else "")


def labels_of(shape: tuple[int, ...], below: int) -> Tensor:
    return torch.randint(below, (shape[0], 1, *shape[2:]))


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return F.one_hot(labels[:, 0].long(), classes).movedim(-1, 1).float()


def unlabelled(shape: tuple[int, ...]) -> Tensor:
    """Whether a voxel has no label; the first sample has many."""
    share = torch.linspace(0.8, 0.1, shape[0]).view(-1, *[1] * (len(shape) - 1))
    return torch.rand(shape[0], 1, *shape[2:]) < share


TARGETS: dict[str, Callable[[tuple[int, ...]], Tensor]] = {
    "index": lambda shape: labels_of(shape, shape[1]),
    "index of float": lambda shape: labels_of(shape, shape[1]).float(),
    "index of uint8": lambda shape: labels_of(shape, shape[1]).to(torch.uint8),
    "absent classes": lambda shape: labels_of(shape, 2),
    "single class": lambda shape: torch.full_like(labels_of(shape, 2), 2),
    "unlabelled": lambda shape: labels_of(shape, shape[1]).masked_fill(unlabelled(shape), 255),
    "one-hot": lambda shape: one_hot(labels_of(shape, shape[1]), shape[1]),
    "one-hot of int": lambda shape: one_hot(labels_of(shape, shape[1]), shape[1]).int(),
    "one-hot unlabelled": lambda shape: one_hot(labels_of(shape, shape[1]), shape[1]) * ~unlabelled(shape),
    "binary": lambda shape: (torch.rand(shape) < 0.3).float(),
    "binary unlabelled": lambda shape: (torch.rand(shape) < 0.3).int().masked_fill(unlabelled(shape), 255),
    "soft": lambda shape: torch.randn(shape).softmax(1),
}
LABEL_MAPS = ("index", "index of float", "index of uint8", "absent classes", "single class", "unlabelled")

MASKS: dict[str, Callable[[tuple[int, ...]], Tensor]] = {
    "mask": lambda shape: (torch.rand(shape[0], 1, *shape[2:]) < 0.6).float(),
    "mask of bool": lambda shape: torch.rand(shape[0], 1, *shape[2:]) < 0.6,
    "one mask": lambda shape: (torch.rand(1, 1, *shape[2:]) < 0.6).float(),
    "fractions": lambda shape: torch.rand(shape[0], 1, *shape[2:]),
}


def options_of(case: Case) -> dict[str, Any]:
    is_map = case.target in LABEL_MAPS and case.shape[1] > 1
    return {"to_onehot_y": True, **case.options} if is_map else case.options


def tensors_of(case: Case, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Input, target and mask; a loss without activation gets probabilities."""
    input = 2.0 * torch.randn(case.shape)
    if case.name == "AsymmetricUnifiedFocalLoss":
        input = input.softmax(1) if case.shape[1] > 1 else input.sigmoid()
    elif case.name != "FocalLoss" and not {"sigmoid", "softmax", "other_act"} & case.options.keys():
        input = input.sigmoid()
    rest = (TARGETS[case.target](case.shape), *(MASKS[case.mask](case.shape) for _ in [0] if case.mask))
    return input.to(dtype), *rest


def build(library: Any, case: Case, backend: str = "auto") -> Any:
    loss = getattr(library, case.name)(**copy.deepcopy(options_of(case)))
    if library is ours:
        loss.backend = backend
    return loss


def value_and_gradient(loss: Any, input: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and the gradient of a weighted sum of its elements."""
    input = input.detach().clone().requires_grad_()
    value = loss(input, *rest)
    total = value.double().flatten() @ torch.linspace(1.0, 2.0, value.numel(), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(total, input)
    return value.detach(), gradient


def assert_close(actual: Tensor, expected: Tensor, rtol: float = 0.0) -> None:
    """To `TOLERANCE` of the largest element, and `rtol` of each."""
    assert actual.shape == expected.shape
    atol = TOLERANCE * expected.double().abs().max().item()
    torch.testing.assert_close(actual.double(), expected.double(), rtol=rtol, atol=atol)


def assert_conforms(case: Case, backend: str) -> None:
    tensors = tensors_of(case)
    value, gradient = value_and_gradient(build(ours, case, backend), *tensors)
    expected, expected_gradient = value_and_gradient(build(peer, case), *tensors)
    assert value.dtype == expected.dtype
    assert_close(value, expected)
    assert_close(gradient, expected_gradient)


def cases(name: str, *tables: list[dict[str, Any]], **how: Any) -> list[Case]:
    """One case for each combination of an entry of every table."""
    return [Case(name, {k: v for each in some for k, v in each.items()}, **how) for some in itertools.product(*tables)]


SOFTMAX, SIGMOID = {"softmax": True}, {"sigmoid": True}
ACTIVATIONS = [SOFTMAX, SIGMOID, {}, {"other_act": torch.tanh}]
REDUCTIONS = [{"reduction": "mean"}, {"reduction": "sum"}, {"reduction": "none"}]
SCALARS = REDUCTIONS[:2]
BACKGROUNDS = [{}, {"include_background": False}]
BATCHES = [{}, {"batch": True}]
WEIGHT = [0.5, 2.0, 0.0, 1.5]
OVERLAPS = ["DiceLoss", "TverskyLoss", "GeneralizedDiceLoss"]
COMPOUNDS = ["DiceCELoss", "DiceFocalLoss", "GeneralizedDiceFocalLoss"]

GRID = [
    *(case for name in OVERLAPS for case in cases(name, ACTIVATIONS[:2], REDUCTIONS, BACKGROUNDS, BATCHES)),
    *(
        case
        for name in OVERLAPS + COMPOUNDS
        for case in cases(name, ACTIVATIONS, [{"smooth_nr": 0.1, "smooth_dr": 0.2}])
    ),
    *(
        Case(name, SOFTMAX, target, shape)
        for name in OVERLAPS + COMPOUNDS
        for target, shape in itertools.product((*LABEL_MAPS[:-1], "one-hot", "one-hot of int"), (FLAT, VOLUME))
    ),
    *(Case(name, SIGMOID, "binary", shape) for name in OVERLAPS + COMPOUNDS for shape in (FLAT, VOLUME, BINARY)),
    *(Case(name, SOFTMAX, "soft") for name in [*OVERLAPS, "DiceCELoss"]),
    *(Case(name, {**SOFTMAX, "soft_label": True}, target) for name in OVERLAPS for target in ("soft", "index")),
    *(Case(name, {"soft_label": True, "batch": True}, "soft") for name in OVERLAPS),
    *(
        Case(name, {**activation, "ignore_index": ignored}, target, shape)
        for name in ("DiceLoss", "TverskyLoss")
        for activation in (SOFTMAX, {**SIGMOID, "include_background": False})
        for ignored, target, shape in (
            (255, "unlabelled", VOLUME),
            (0, "index", FLAT),
            (2, "index of uint8", VOLUME),
            (-1, "index of uint8", VOLUME),
            (2, "one-hot", VOLUME),
            (-1, "one-hot unlabelled", VOLUME),
        )
    ),
    *(
        Case(name, {**SIGMOID, "ignore_index": 255}, "binary unlabelled", BINARY)
        for name in ("DiceLoss", "TverskyLoss")
    ),
    *cases(
        "DiceLoss",
        ACTIVATIONS[:2],
        [{"squared_pred": True}, {"jaccard": True}, {"squared_pred": True, "jaccard": True}],
    ),
    *cases(
        "DiceLoss",
        [SOFTMAX],
        REDUCTIONS,
        [{"weight": WEIGHT}, {"weight": 2.0}, {"weight": WEIGHT[1:], **BACKGROUNDS[1]}],
    ),
    Case("DiceLoss", {**SOFTMAX, "soft_label": True, "squared_pred": True}, "soft"),
    *cases("TverskyLoss", ACTIVATIONS[:2], [{"alpha": 0.3, "beta": 0.7}, {"alpha": 1.0, "beta": 2.0}]),
    *cases(
        "GeneralizedDiceLoss",
        [{"w_type": kind} for kind in ("square", "simple", "uniform")],
        BATCHES,
        target="absent classes",
    ),
    *cases("DiceCELoss", ACTIVATIONS, SCALARS, [{"weight": torch.tensor(WEIGHT)}], BACKGROUNDS),
    *cases(
        "DiceCELoss",
        [SOFTMAX],
        SCALARS,
        [{"label_smoothing": 0.2}, {"label_smoothing": 0.2, "weight": torch.tensor(WEIGHT)}],
    ),
    *cases("DiceCELoss", [SOFTMAX], SCALARS, [{"label_smoothing": 0.2, "weight": torch.tensor(WEIGHT)}], target="soft"),
    *cases(
        "DiceCELoss",
        [SOFTMAX],
        [{"lambda_dice": 0.3, "lambda_ce": 2.0, "squared_pred": True, "jaccard": True}],
        BATCHES,
    ),
    *cases("DiceCELoss", [SIGMOID, {}], SCALARS, [{}, {"weight": torch.tensor([3.0])}], target="binary", shape=BINARY),
    *cases(
        "DiceFocalLoss",
        ACTIVATIONS[:2],
        SCALARS,
        [{"weight": WEIGHT, "alpha": 0.3}, {"weight": WEIGHT[1:], **BACKGROUNDS[1]}],
    ),
    *cases(
        "DiceFocalLoss",
        ACTIVATIONS[:2],
        BATCHES,
        [{"gamma": 1.5, "lambda_dice": 0.3, "lambda_focal": 2.0, "squared_pred": True}],
    ),
    *cases(
        "GeneralizedDiceFocalLoss",
        ACTIVATIONS[:2],
        SCALARS,
        BATCHES,
        [{"weight": WEIGHT}, {"lambda_gdl": 0.3, **BACKGROUNDS[1]}],
    ),
    *(
        Case("FocalLoss", {"use_softmax": use_softmax, **reduction, **option}, target)
        for use_softmax, reduction, target in itertools.product((True, False), SCALARS, ("index", "one-hot"))
        for option in (
            {},
            {"gamma": 0.0},
            {"alpha": 0.25},
            {"alpha": WEIGHT},
            {"weight": 2.0},
            {"weight": WEIGHT},
            {"ignore_index": 1},
            {**BACKGROUNDS[1], "weight": WEIGHT[1:], "alpha": WEIGHT[1:]},
            {**BACKGROUNDS[1], "ignore_index": 1},
        )
    ),
    *cases(
        "FocalLoss", [{"use_softmax": True}, {}], BACKGROUNDS, SCALARS, [{"ignore_index": 255}], target="unlabelled"
    ),
    *cases("FocalLoss", [{"use_softmax": True, "gamma": 1.0}, {"gamma": 0.0}], target="soft"),
    Case("FocalLoss", {"gamma": 3.0}, "binary", BINARY),
    Case("FocalLoss", {"ignore_index": 255}, "binary unlabelled", BINARY),
    Case("FocalLoss", {}, "index", (6, 3)),
    *(
        case
        for mask in ("mask", "mask of bool", "one mask")
        for target in ("index", "one-hot")
        for case in cases(
            "MaskedDiceLoss", ACTIVATIONS, [{}, {"squared_pred": True}, {"soft_label": True}], target=target, mask=mask
        )
        if not (case.options.get("soft_label") and "other_act" in case.options)
    ),
    *cases("MaskedDiceLoss", [SOFTMAX], REDUCTIONS, BACKGROUNDS, BATCHES, mask="mask"),
    *(
        case
        for target, shape in (("index", (2, 2, 6, 5, 7)), ("one-hot", (2, 2, 9, 8)), ("binary", BINARY))
        for case in cases(
            "AsymmetricUnifiedFocalLoss", [{}, {"weight": 0.2, "gamma": 0.8, "delta": 0.4}], target=target, shape=shape
        )
    ),
    Case("MaskedDiceLoss", {**SOFTMAX, "soft_label": True, "squared_pred": True}, "soft", mask="mask"),
    Case("AsymmetricUnifiedFocalLoss", {"ignore_index": 255}, "unlabelled", (2, 2, 9, 8)),
    Case("AsymmetricUnifiedFocalLoss", {"ignore_index": 1}, "one-hot", (2, 2, 9, 8)),
]

# Triton's interpreter is slow.
ON_CPU = [each for each in backends("region_sums") if each.id != "triton" or DEVICE != "cpu"]
FEW = [
    *(Case(name, SOFTMAX, shape=(2, 3, 4, 5)) for name in OVERLAPS + COMPOUNDS),
    Case("DiceCELoss", {**SOFTMAX, "label_smoothing": 0.2}, "soft", (2, 3, 4, 5)),
    Case("DiceLoss", {**SOFTMAX, "soft_label": True}, "soft", (2, 3, 4, 5)),
    Case(
        "FocalLoss", {"use_softmax": True, "include_background": False, "ignore_index": 255}, "unlabelled", (2, 3, 4, 5)
    ),
    Case("MaskedDiceLoss", SIGMOID, "binary", (2, 3, 4, 5), "mask"),
    Case("AsymmetricUnifiedFocalLoss", {}, "index", (2, 2, 4, 5)),
]


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("case", GRID, ids=repr)
def test_value_and_gradient(case: Case, backend: str) -> None:
    assert_conforms(case, backend)


@pytest.mark.parametrize("case", FEW, ids=repr)
def test_every_backend(case: Case, region_backend: str) -> None:
    assert_conforms(case, region_backend)


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("scale", [10.0, 30.0])
@pytest.mark.parametrize("channels", [1, 2])
def test_probabilities_that_saturate(channels: int, scale: float, backend: str) -> None:
    """At 0 and 1, where MONAI clamps them, and at their neighbours in float32."""
    shape = (2, channels, 5, 6)
    logits = scale * torch.randn(shape)
    probabilities = logits.sigmoid() if channels == 1 else logits.softmax(1)
    labels, losses = labels_of(shape, 2), [library.AsymmetricUnifiedFocalLoss(True) for library in (ours, peer)]
    losses[0].backend = backend
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "single channel prediction")
        mine, theirs = (value_and_gradient(loss, probabilities, labels) for loss in losses)
    for actual, expected in zip(mine, theirs, strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("activation", [SOFTMAX, SIGMOID], ids=str)
@pytest.mark.parametrize("target", ["index", "one-hot", "soft"])
def test_an_absent_class_keeps_the_digits_of_soft_labels(target: str, activation: dict[str, Any], backend: str) -> None:
    """Of which the denominator is the smoothing alone; in float64, as MONAI's own sums lose digits too."""
    shape = (1, 3, 16, 16, 16)
    labels = labels_of(shape, 2)
    maps = one_hot(labels, 3) * (torch.rand(shape) if target == "soft" else 1.0)
    options = {**activation, "alpha": 0.0, "beta": 1.0, "soft_label": True, "to_onehot_y": target == "index"}
    losses = [library.TverskyLoss(**options) for library in (ours, peer)]
    losses[0].backend = backend
    logits = 2.0 * torch.randn(shape)
    mine = value_and_gradient(losses[0], logits, labels if target == "index" else maps)
    exact = value_and_gradient(losses[1], logits.double(), labels if target == "index" else maps.double())
    for actual, expected in zip(mine, exact, strict=True):
        assert_close(actual, expected)


LAMBDAS = {
    "DiceFocalLoss": ("lambda_dice", "lambda_focal"),
    "GeneralizedDiceFocalLoss": ("lambda_gdl", "lambda_focal"),
}


def gradients_of_passes(case: Case, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """What the loss takes from each of two passes; nothing where there is one."""
    alone = [case._replace(options={**case.options, other: 0.0}) for other in LAMBDAS.get(case.name, ())]
    return [value_and_gradient(build(peer, each), *tensors)[1].abs() for each in alone]


# Each in one pass, or in those of `LAMBDAS`.
HALF = [
    *FEW,
    *(
        Case("DiceLoss", {**SOFTMAX, **options}, target, (2, 4, 3, 4))
        for options, target in (
            ({"weight": WEIGHT}, "index of uint8"),
            ({"ignore_index": 255, "include_background": False}, "unlabelled"),
            ({"jaccard": True, "squared_pred": True, "batch": True}, "one-hot"),
        )
    ),
    Case("DiceCELoss", {**SOFTMAX, "weight": torch.tensor(WEIGHT)}, "index of float", (2, 4, 3, 4)),
    Case("DiceCELoss", SIGMOID, "binary", (2, 1, 3, 4)),
    Case("FocalLoss", {"alpha": 0.25, "weight": WEIGHT}, "index", (2, 4, 3, 4)),
]


@pytest.mark.parametrize("case", HALF, ids=repr)
def test_half_precision(case: Case, region_backend: str) -> None:
    """Logits in half are computed with in float32, and the gradient of each pass is rounded once."""
    tensors = tensors_of(case, torch.bfloat16)
    in_full = (tensors[0].float(), *tensors[1:])
    value, gradient = value_and_gradient(build(ours, case, region_backend), *tensors)
    expected, expected_gradient = value_and_gradient(build(peer, case), *in_full)
    assert gradient.dtype == torch.bfloat16
    assert_close(value, expected)
    rounded = sum(gradients_of_passes(case, in_full), expected_gradient.abs())
    allowed = rounding(torch.bfloat16, region_backend) * rounded + TOLERANCE * rounded.max()
    assert ((gradient.float() - expected_gradient).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    logits, labels = torch.randn(VOLUME, requires_grad=True), TARGETS["index"](VOLUME)
    loss = ours.DiceCELoss(softmax=True, to_onehot_y=True, weight=torch.tensor(WEIGHT))
    with torch.autocast(DEVICE, dtype=dtype):
        value = loss(logits.to(dtype), labels)
    expected = loss(logits.to(dtype).float(), labels)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0.0)


def outcome(loss: Callable[..., Tensor], *tensors: Tensor | None) -> tuple[Any, list[str], list[str]]:
    """The value or the error, what was warned of, and which fallbacks were announced."""
    fallback.announced.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result: Any = loss(*tensors)
        except Exception as error:
            result = (type(error), str(error))
    is_fallback = [issubclass(each.category, fallback.FallbackWarning) for each in caught]
    texts = [(str(each.message), of_fallback) for each, of_fallback in zip(caught, is_fallback, strict=True)]
    return result, [text for text, said in texts if not said], [text for text, said in texts if said]


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


MISTAKES = [
    ("DiceLoss", SOFTMAX, ones(2, 3, 4, 4), ones(2, 1, 4, 4)),
    ("DiceLoss", SOFTMAX, ones(2, 3, 4, 4), ones(2, 3, 4, 5)),
    ("DiceLoss", {**SOFTMAX, "to_onehot_y": True}, ones(2, 3, 4, 4), ones(2, 3, 4, 4)),
    ("DiceLoss", {**SOFTMAX, "to_onehot_y": True}, ones(2, 3, 4, 4), ones(1, 1, 4, 4)),
    ("DiceLoss", {**SOFTMAX, "to_onehot_y": True}, ones(2, 3, 4, 4), 3 * ones(2, 1, 4, 4)),
    ("DiceLoss", {"weight": [1.0, 2.0]}, ones(2, 3, 4, 4), ones(2, 3, 4, 4)),
    ("DiceLoss", {"weight": [1.0, 2.0, -1.0]}, ones(2, 3, 4, 4), ones(2, 3, 4, 4)),
    ("DiceLoss", {"weight": [1.0, 2.0, 3.0], "include_background": False}, ones(2, 3, 4, 4), ones(2, 3, 4, 4)),
    ("DiceLoss", {}, ones(4), ones(4)),
    ("MaskedDiceLoss", {}, ones(2, 3, 4, 4), ones(2, 3, 4, 4), ones(3, 1, 4, 4)),
    ("MaskedDiceLoss", {}, ones(2, 3, 4, 4), ones(2, 3, 4, 4), ones(2, 3, 4, 4)),
    ("TverskyLoss", SIGMOID, ones(2, 3, 4, 4), ones(2, 1, 4, 4)),
    ("TverskyLoss", {"to_onehot_y": True}, ones(2, 3, 4, 4), -ones(2, 1, 4, 4)),
    ("GeneralizedDiceLoss", SIGMOID, ones(2, 3, 4, 4), ones(2, 1, 4, 4)),
    ("GeneralizedDiceLoss", {"to_onehot_y": True}, ones(2, 3, 4, 4), 9 * ones(2, 1, 4, 4)),
    ("DiceCELoss", SOFTMAX, ones(2, 3, 4, 4), ones(2, 4, 4)),
    ("DiceCELoss", SOFTMAX, ones(2, 3, 4, 4), ones(2, 2, 4, 4)),
    ("DiceCELoss", SOFTMAX, ones(2, 3, 4, 4), ones(2, 1, 4, 4)),
    ("DiceCELoss", {**SOFTMAX, "to_onehot_y": True}, ones(2, 3, 4, 4), 3 * ones(2, 1, 4, 4)),
    ("DiceCELoss", {"weight": ones(2)}, ones(2, 3, 4, 4), ones(2, 3, 4, 4)),
    ("DiceCELoss", {"weight": ones(1)[0]}, ones(2, 3, 4, 4), ones(2, 3, 4, 4)),
    ("DiceFocalLoss", SOFTMAX, ones(2, 3, 4, 4), ones(2, 4, 4)),
    ("DiceFocalLoss", SOFTMAX, ones(2, 3, 4, 4), ones(2, 2, 4, 4)),
    ("DiceFocalLoss", SOFTMAX, ones(2, 3, 4, 4), ones(2, 1, 4, 4)),
    ("DiceFocalLoss", {"to_onehot_y": True}, ones(2, 3, 4, 4), 3 * ones(2, 1, 4, 4)),
    ("DiceFocalLoss", {"weight": [1.0]}, ones(2, 3, 4, 4), ones(2, 3, 4, 4)),
    ("GeneralizedDiceFocalLoss", SOFTMAX, ones(2, 3, 4, 4), ones(2, 4, 4)),
    ("GeneralizedDiceFocalLoss", {"weight": [-1.0, 1.0, 1.0]}, ones(2, 3, 4, 4), ones(2, 3, 4, 4)),
    ("FocalLoss", {}, ones(2, 3, 4, 4), ones(2, 1, 4, 4)),
    ("FocalLoss", {"to_onehot_y": True}, ones(2, 3, 4, 4), 3 * ones(2, 1, 4, 4)),
    ("FocalLoss", {"weight": [1.0, 2.0]}, ones(2, 3, 4, 4), ones(2, 3, 4, 4)),
    ("FocalLoss", {"weight": [1.0]}, ones(2, 1, 4, 4), ones(2, 1, 4, 4)),
    ("FocalLoss", {"weight": [1.0, 2.0, -1.0]}, ones(2, 3, 4, 4), ones(2, 3, 4, 4)),
    ("FocalLoss", {"weight": -1.0}, ones(2, 3, 4, 4), ones(2, 3, 4, 4)),
    ("FocalLoss", {"alpha": [1.0, 2.0]}, ones(2, 3, 4, 4), ones(2, 3, 4, 4)),
    ("FocalLoss", {"alpha": [1.0, 2.0], "use_softmax": True}, ones(2, 3, 4, 4), ones(2, 3, 4, 4)),
    ("AsymmetricUnifiedFocalLoss", {}, ones(2, 2, 4), ones(2, 2, 4)),
    ("AsymmetricUnifiedFocalLoss", {}, ones(2, 2, 4, 4), ones(2, 1, 4, 4)),
    ("AsymmetricUnifiedFocalLoss", {}, ones(2, 2, 4, 4), 2 * ones(2, 2, 4, 4)),
    ("AsymmetricUnifiedFocalLoss", {"to_onehot_y": True}, ones(2, 2, 4, 4), 2 * ones(2, 1, 4, 4)),
    ("AsymmetricUnifiedFocalLoss", {"to_onehot_y": True}, ones(2, 3, 4, 4), ones(2, 1, 4, 4)),
]


def case_id(value: object) -> str:
    return "x".join(map(str, value.shape)) if isinstance(value, Tensor) else str(value)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: "-".join(map(case_id, mistake)))
def test_mistakes_raise_the_errors_of_monai(mistake: tuple[Any, ...]) -> None:
    name, options, *tensors = mistake
    mine, theirs = (outcome(getattr(library, name)(**options), *tensors) for library in (ours, peer))
    assert isinstance(theirs[0], tuple), "MONAI raises nothing"
    assert mine == theirs


@pytest.mark.parametrize("name", sorted(set(OVERLAPS + COMPOUNDS + ["MaskedDiceLoss", "FocalLoss"])))
@pytest.mark.parametrize(
    "options",
    [
        {"sigmoid": True, "softmax": True},
        {"other_act": 1},
        {"other_act": torch.tanh, "softmax": True},
        {"reduction": "median"},
        {"lambda_dice": -1.0},
        {"lambda_focal": -1.0},
        {"colour": "red"},
    ],
    ids=label,
)
def test_options_raise_the_errors_of_monai(name: str, options: dict[str, Any]) -> None:
    def error(library: Any) -> object:
        try:
            getattr(library, name)(**options)
        except Exception as caught:
            return type(caught), str(caught).replace("fastmed.compat.monai.losses", "monai.losses")
        return None

    assert error(ours) == error(peer)


def test_an_unknown_reduction_raises_what_monai_raises() -> None:
    for case in [case for case in FEW if case.name in (*OVERLAPS, "FocalLoss", "MaskedDiceLoss")]:
        losses = [build(library, case) for library in (ours, peer)]
        for loss in losses:
            loss.reduction = "median"
        tensors = tensors_of(case)
        mine, theirs = (outcome(loss, *tensors) for loss in losses)
        assert theirs[0][0] is ValueError
        assert mine == theirs


WARNED_OF = [
    *(
        Case(name, {**activation, "to_onehot_y": True, "include_background": False}, "binary", BINARY)
        for name in OVERLAPS + COMPOUNDS
        for activation in (SIGMOID, SOFTMAX)
    ),
    Case("MaskedDiceLoss", {**SOFTMAX, "to_onehot_y": True, "include_background": False}, "binary", BINARY, "mask"),
    Case("MaskedDiceLoss", SOFTMAX),
    Case("FocalLoss", {"to_onehot_y": True, "include_background": False}, "binary", BINARY),
    Case("FocalLoss", {"alpha": 0.3, "include_background": False, "use_softmax": True}),
    Case("AsymmetricUnifiedFocalLoss", {"to_onehot_y": True}, "binary", BINARY),
    Case("AsymmetricUnifiedFocalLoss", {"ignore_index": 255}, "binary unlabelled", BINARY),
]


@pytest.mark.parametrize("case", WARNED_OF, ids=repr)
def test_warnings_are_those_of_monai(case: Case) -> None:
    tensors = tensors_of(case)
    # Without an activation, Dice needs what a softmax of a single channel leaves as it is to be a probability.
    tensors = (tensors[0].sigmoid(), *tensors[1:])
    value, warned, announced = outcome(build(ours, case), *tensors)
    expected, expected_warnings, _ = outcome(build(peer, case), *tensors)
    assert_close(value, expected)
    assert warned == expected_warnings != []
    assert announced == []


FALLBACKS = [
    (Case("FocalLoss", {"reduction": "none"}), "reduction"),
    (Case("FocalLoss", {}, "soft"), "target"),
    (Case("FocalLoss", {"gamma": 0.0, "alpha": 0.3}, "soft"), "target"),
    (Case("FocalLoss", {"gamma": -1.0}), "gamma"),
    (Case("FocalLoss", {"use_softmax": True, "include_background": False}, shape=(2, 2, 9, 8)), "use_softmax"),
    (Case("FocalLoss", {"reduction": "sum"}, "binary", (6, 3)), "reduction"),
    (Case("DiceFocalLoss", {**SIGMOID, "reduction": "none"}), "reduction"),
    (Case("GeneralizedDiceFocalLoss", SIGMOID, "soft"), "target"),
    (Case("DiceLoss", {**SIGMOID, "ignore_index": 1}, "soft"), "ignore_index"),
    (Case("DiceLoss", {"other_act": torch.tanh, "soft_label": True}, "soft"), "soft_label"),
    (Case("DiceLoss", SIGMOID, "binary", (6, 3)), "input"),
    (Case("DiceCELoss", {**SOFTMAX, "label_smoothing": 1.0}), "label_smoothing"),
    (Case("MaskedDiceLoss", SIGMOID, mask="fractions"), "mask"),
]


@pytest.mark.parametrize(("case", "option"), FALLBACKS, ids=repr)
def test_a_fallback_is_monai_and_says_once_why(case: Case, option: str) -> None:
    tensors = tensors_of(case)
    loss = build(ours, case)
    expected = build(peer, case)(*tensors)
    value, _, announced = outcome(loss, *tensors)
    assert torch.equal(value, expected)
    assert len(announced) == 1
    assert announced[0].startswith(f"{case.name} ")
    assert f"({option}: " in announced[0]
    # A second warning would be an error.
    assert torch.equal(loss(*tensors), expected)


def test_an_activation_that_changes_the_shape_is_left_to_monai() -> None:
    logits, target = torch.randn(BINARY), TARGETS["binary"](VOLUME)
    options = {"other_act": lambda input: input.sigmoid().expand(VOLUME)}
    value, _, announced = outcome(ours.DiceLoss(**options), logits, target)
    assert torch.equal(value, peer.DiceLoss(**options)(logits, target))
    assert ["other_act: " in each for each in announced] == [True]


def test_a_target_that_requires_a_gradient_gets_it() -> None:
    logits, target = torch.randn(FLAT), torch.randn(FLAT).softmax(1).requires_grad_()
    value, _, announced = outcome(ours.DiceLoss(sigmoid=True), logits, target)
    assert len(announced) == 1
    (gradient,) = torch.autograd.grad(value, target)
    (expected,) = torch.autograd.grad(peer.DiceLoss(sigmoid=True)(logits, target), target)
    assert torch.equal(gradient, expected)


ORDINARY = [
    *(Case(name, activation) for name in OVERLAPS + COMPOUNDS for activation in (SOFTMAX, SIGMOID)),
    *(Case(name, SIGMOID, "binary", BINARY) for name in OVERLAPS + COMPOUNDS),
    *(Case(name, SOFTMAX, "one-hot") for name in OVERLAPS + COMPOUNDS),
    Case("FocalLoss", {}),
    Case("FocalLoss", {"use_softmax": True, "include_background": False}),
    Case("MaskedDiceLoss", SOFTMAX, mask="mask"),
    Case("AsymmetricUnifiedFocalLoss", {}, "index", (2, 2, 9, 8)),
]


@pytest.mark.parametrize("case", ORDINARY, ids=repr)
def test_ordinary_configurations_run_fused(case: Case, ran: set[str], fastest: str) -> None:
    value_and_gradient(build(ours, case), *tensors_of(case))
    assert ran == {fastest}


KEEPING_NOTHING = [
    *(Case(name, activation, "index of uint8") for name in OVERLAPS + COMPOUNDS for activation in (SOFTMAX, SIGMOID)),
    *(Case(name, SIGMOID, "binary", BINARY) for name in OVERLAPS + COMPOUNDS),
    *(Case(name, {**SOFTMAX, "include_background": False}) for name in OVERLAPS + COMPOUNDS),
    Case("DiceLoss", {**SOFTMAX, "ignore_index": 255}, "unlabelled"),
    Case("DiceLoss", {**SOFTMAX, "soft_label": True}, "soft"),
    Case("DiceCELoss", {**SOFTMAX, "weight": torch.tensor(WEIGHT), "label_smoothing": 0.1}),
    Case("FocalLoss", {}),
    Case("FocalLoss", {"use_softmax": True}),
    Case("MaskedDiceLoss", SOFTMAX, mask="mask of bool"),
]


@pytest.mark.usefixtures("no_batch_is_small")
@pytest.mark.parametrize("case", KEEPING_NOTHING, ids=repr)
def test_nothing_but_the_operands_is_kept_for_backward(case: Case) -> None:
    input, *rest = tensors_of(case)
    input.requires_grad_()
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        build(ours, case)(input, *rest)
    operands = {each.untyped_storage().data_ptr() for each in (input, *rest)}
    assert {input.data_ptr(), rest[0].data_ptr()} <= kept.keys()
    samples, classes = case.shape[:2]
    of_two_passes = 2 * STATISTICS * 4 * samples * classes
    assert [size for pointer, size in kept.items() if pointer not in operands and size > of_two_passes] == []


@pytest.mark.usefixtures("no_batch_is_small")
def test_a_label_map_of_float_is_kept_as_whole_numbers() -> None:
    """Four bytes a voxel, where a one-hot target takes four times the number of classes."""
    labels = torch.randint(4, (2, 1, 6, 5, 7)).float()
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    logits = torch.randn(VOLUME, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ours.DiceLoss(softmax=True, to_onehot_y=True)(logits, labels)
    assert sorted(sizes)[-2:] == [labels.nbytes, logits.nbytes]


@pytest.mark.parametrize("weight_mode", ["exp", "same", "two"])
@pytest.mark.parametrize("target", ["index of uint8", "index of float", "one-hot"])
def test_deep_supervision(weight_mode: str, target: str) -> None:
    labels = TARGETS[target]((2, 3, 16, 12))
    options = {"softmax": True, "to_onehot_y": target != "one-hot"}
    outputs = [torch.randn(2, 3, *size, requires_grad=True) for size in ((16, 12), (8, 6), (5, 4), (2, 1))]
    found = []
    for library in (ours, peer):
        loss = library.DeepSupervisionLoss(library.DiceCELoss(**options), weight_mode)
        value = loss(outputs, labels)
        found.append((value.detach(), *torch.autograd.grad(value, outputs), loss(outputs[0], labels).detach()))
    for mine, theirs in zip(*found, strict=True):
        assert_close(mine, theirs)


def test_deep_supervision_of_other_losses_and_mistakes_is_that_of_monai() -> None:
    outputs, labels = [torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4)], TARGETS["one-hot"]((2, 3, 8, 8))
    for inner in (torch.nn.MSELoss(), ours.DiceLoss()):
        mine, theirs = (library.DeepSupervisionLoss(inner, weights=[0.5, 2.0]) for library in (ours, peer))
        torch.testing.assert_close(mine(outputs, labels), theirs(outputs, labels))
        for wrong in (None, outputs[1], [outputs[0], outputs[1][0]]):
            assert outcome(mine, wrong, labels)[0] == outcome(theirs, wrong, labels)[0]


@pytest.mark.parametrize("mode", ["area", "nearest"])
def test_deep_supervision_by_another_interpolation_is_that_of_monai(mode: str) -> None:
    outputs, target = [torch.randn(2, 3, size, size) for size in (8, 4, 3)], TARGETS["one-hot"]((2, 3, 8, 8))
    found = []
    for library in (ours, peer):
        loss = library.DeepSupervisionLoss(library.DiceCELoss(softmax=True))
        loss.interp_mode = mode
        found.append(outcome(loss, outputs, target))
    (value, _, announced), (expected, *_) = found
    assert_close(value, expected)
    assert ["interp_mode: " in each for each in announced] == [True]
    assert outcome(ours.DeepSupervisionLoss(ours.DiceCELoss(softmax=True)), outputs, target)[2] == []


def test_deep_supervision_of_no_weight_has_no_slope() -> None:
    outputs = [torch.randn(2, 3, size, size, requires_grad=True) for size in (8, 4)]
    target = TARGETS["one-hot"]((2, 3, 8, 8))
    for library in (ours, peer):
        value = library.DeepSupervisionLoss(library.DiceLoss(softmax=True), weights=[0.0, 0.0])(outputs, target)
        assert value == 0
        assert all((each == 0).all() for each in torch.autograd.grad(value, outputs))


def test_deep_supervision_reads_half_as_it_is() -> None:
    outputs = [torch.randn(2, 3, 8, 8, dtype=torch.float16), torch.randn(2, 3, 4, 4, dtype=torch.float16)]
    labels = TARGETS["index of uint8"]((2, 3, 8, 8))
    seen: list[torch.dtype] = []
    inner = ours.DiceLoss(softmax=True, to_onehot_y=True)
    inner.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].dtype))
    value = ours.DeepSupervisionLoss(inner)(outputs, labels)
    assert seen == [torch.float16] * 2
    expected = peer.DeepSupervisionLoss(peer.DiceLoss(softmax=True, to_onehot_y=True))(outputs, labels)
    assert_close(value, expected)


def test_masked_loss_is_that_of_monai_around_ours() -> None:
    case = Case("DiceLoss", SIGMOID, "binary", VOLUME, "mask")
    mine, theirs = (library.MaskedLoss(library.DiceLoss, sigmoid=True) for library in (ours, peer))
    tensors = tensors_of(case)
    value, _, announced = outcome(mine, *tensors)
    assert_close(value, theirs(*tensors))
    assert ["DiceLoss" in each and "mask: " in each for each in announced] == [True]
    for actual, expected in zip(value_and_gradient(mine, *tensors), value_and_gradient(theirs, *tensors), strict=True):
        assert_close(actual, expected)


def test_masked_loss_around_other_losses_and_without_a_mask_says_what_monai_says() -> None:
    case = Case("DiceLoss", SIGMOID, "binary", VOLUME, "mask")
    tensors = tensors_of(case)
    assert outcome(ours.MaskedLoss(torch.nn.MSELoss()), *tensors)[1:] == ([], [])
    without = [outcome(library.MaskedLoss(ours.DiceLoss, sigmoid=True), *tensors[:2]) for library in (ours, peer)]
    assert without[0] == without[1]
    assert without[0][1:] == (["No mask value specified for the MaskedLoss."], [])


def test_images_with_metadata() -> None:
    logits = MetaTensor(torch.randn(FLAT)).requires_grad_()
    labels = MetaTensor(TARGETS["index of float"](FLAT))
    value = ours.DiceCELoss(softmax=True, to_onehot_y=True)(logits, labels)
    value.backward()
    plain = logits.detach().as_tensor().requires_grad_()
    ours.DiceCELoss(softmax=True, to_onehot_y=True)(plain, labels.as_tensor()).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad, plain.grad)


@pytest.mark.parametrize("name", ["DiceCELoss", "GeneralizedDiceFocalLoss"])
def test_a_compiler_sees_one_graph(name: str) -> None:
    case = Case(name, SOFTMAX, shape=FLAT)
    tensors = tensors_of(case)
    compiled = torch.compile(build(ours, case), fullgraph=True, backend="aot_eager")
    for actual, expected in zip(
        value_and_gradient(compiled, *tensors), value_and_gradient(build(ours, case), *tensors), strict=True
    ):
        assert_close(actual, expected)


def documented_examples() -> Iterator[tuple[str, str]]:
    """Each example of MONAI's own documentation of these losses, as a program with our import."""
    for name in sorted(set(ours.losses.__all__)):
        for owner in (getattr(peer, name), getattr(peer, name).__init__, getattr(peer, name).forward):
            examples = doctest.DocTestParser().get_examples(owner.__doc__ or "")
            source = "".join(each.source for each in examples)
            if source:
                yield f"{name}.{owner.__name__}", source


EXAMPLES = dict(documented_examples())


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.filterwarnings("ignore:.*has no fused path", "ignore:single channel prediction")
def test_documented_examples(name: str) -> None:
    source = EXAMPLES[name].replace("\nfl(", "\nloss = fl(")
    changed = source.replace("from monai.losses.dice import DiceLoss", "from fastmed.compat.monai import DiceLoss")
    changed = changed.replace("from monai.losses import", "from fastmed.compat.monai import")
    assert changed != source
    mine, theirs = run_program(changed), run_program(source)
    for variable, value in theirs.items():
        if isinstance(value, Tensor):
            # The loss of a perfect prediction is the root of a rounding error.
            torch.testing.assert_close(
                mine[variable], value, rtol=TOLERANCE, atol=torch.finfo(torch.float32).eps ** 0.5
            )


def run_program(source: str) -> dict[str, Any]:
    """What a program leaves behind."""
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(source, names)
    return names


def monai_names() -> dict[tuple[str, str], object]:
    modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "monai"}
    return {(name, attribute): value for name, module in modules.items() for attribute, value in vars(module).items()}


@pytest.fixture
def _unpatched() -> Iterator[None]:
    yield
    ours.unpatch()


@pytest.mark.usefixtures("_unpatched")
class TestPatch:
    """`patch` and `unpatch`."""

    def test_puts_ours_wherever_monai_has_its_own_and_undoes_it_exactly(self) -> None:
        before = monai_names()
        own = {getattr(peer, name): getattr(ours, name) for name in ours.losses.__all__}
        ours.patch()
        for at, value in monai_names().items():
            was = before[at]
            assert value is (own.get(was, was) if isinstance(was, type) else was), at
        assert monai.losses.dice.FocalLoss is monai.losses.FocalLoss is ours.FocalLoss
        assert monai.losses.Dice is monai.apps.pathology.losses.hovernet_loss.DiceLoss is ours.DiceLoss
        ours.unpatch()
        after = monai_names()
        assert before.keys() == after.keys()
        assert all(after[at] is value for at, value in before.items())
        assert {each.__module__.split(".")[0] for each in own.values() if each not in own} == {"fastmed"}

    def test_is_a_context_that_undoes_what_it_did(self) -> None:
        with ours.patch():
            assert monai.losses.DiceCELoss is ours.DiceCELoss
            with ours.patch():
                assert monai.losses.DiceCELoss is ours.DiceCELoss
            assert monai.losses.DiceCELoss is ours.DiceCELoss
        assert monai.losses.DiceCELoss is peer.DiceCELoss is not ours.DiceCELoss
        ours.patch()
        with pytest.raises(KeyError), ours.patch():
            raise KeyError
        assert monai.losses.DiceCELoss is ours.DiceCELoss

    def test_reaches_a_bundle(self) -> None:
        config = {"loss": {"_target_": "DiceCELoss", "softmax": True, "to_onehot_y": True}}
        with ours.patch():
            loss = ConfigParser(config).get_parsed_content("loss")
        assert type(loss) is ours.DiceCELoss
        assert type(ConfigParser(config).get_parsed_content("loss")) is not ours.DiceCELoss

    def test_reaches_losses_that_monai_builds_itself(self, ran: set[str]) -> None:
        with ours.patch():
            peer.SoftDiceclDiceLoss()(torch.rand(1, 2, 8, 8), torch.ones(1, 2, 8, 8))
        assert len(ran) == 1

    def test_pickles_load_without_it(self) -> None:
        with ours.patch():
            saved = pickle.dumps(monai.losses.DiceLoss(softmax=True))
        assert type(pickle.loads(saved)) is peer.DiceLoss
        loss = pickle.loads(pickle.dumps(ours.DiceLoss(softmax=True)))
        assert type(loss) is ours.DiceLoss

    def test_losses_made_before_are_pickled_and_copied(self) -> None:
        made = [library.DiceCELoss(softmax=True, lambda_ce=0.3) for library in (peer, ours)]
        logits, target = torch.randn(FLAT), TARGETS["one-hot"](FLAT)
        with ours.patch():
            saved = [pickle.dumps(loss) for loss in made]
            found = [*map(pickle.loads, saved), *map(copy.deepcopy, made)]
        for loss in [*found, *map(pickle.loads, saved)]:
            assert_close(loss(logits, target), made[0](logits, target))
        assert [type(pickle.loads(each)) for each in saved] == [type(made[0])] * 2
        assert type(pickle.loads(pickle.dumps(made[0]))) is type(made[0])

    def test_contexts_end_in_any_order(self) -> None:
        first, second = ours.patch(), ours.patch()
        first.close()
        assert monai.losses.DiceLoss is ours.DiceLoss
        second.close()
        assert monai.losses.DiceLoss is not ours.DiceLoss
        third = ours.patch()
        ours.unpatch()
        fourth = ours.patch()
        third.close()
        assert monai.losses.DiceLoss is ours.DiceLoss
        fourth.close()
        assert monai.losses.DiceLoss is not ours.DiceLoss

    def test_numbers_and_fallbacks_are_the_same(self) -> None:
        for case in FEW:
            tensors = tensors_of(case)
            expected = value_and_gradient(build(peer, case), *tensors)
            with ours.patch():
                found = value_and_gradient(build(peer, case), *tensors)
            for actual, other in zip(found, expected, strict=True):
                assert_close(actual, other)
        case, _ = FALLBACKS[0]
        tensors = tensors_of(case)
        expected_value = build(peer, case)(*tensors)
        with ours.patch():
            assert torch.equal(outcome(build(peer, case), *tensors)[0], expected_value)


def test_every_drop_in_is_what_it_stands_in_for() -> None:
    for name in ours.losses.__all__:
        assert issubclass(getattr(ours, name), getattr(peer, name))
