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
from monai import losses as peer
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import Tensor
from torch.nn import functional as F
from under_test import DEVICE, backends

from fastmed import dispatch
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
            (-1, "index", VOLUME),
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
@pytest.mark.parametrize("case", FEW, ids=repr)
def test_half_precision(case: Case, backend: str) -> None:
    """Logits in half are computed with in float32, and the gradient is rounded once."""
    tensors = tensors_of(case, torch.bfloat16)
    value, gradient = value_and_gradient(build(ours, case, backend), *tensors)
    expected, expected_gradient = value_and_gradient(build(peer, case), tensors[0].float(), *tensors[1:])
    assert gradient.dtype == torch.bfloat16
    assert_close(value, expected)
    assert_close(gradient, expected_gradient, rtol=torch.finfo(torch.bfloat16).eps / 2)
