"""The drop-ins for MONAI's losses compute what MONAI does.

Warnings are errors in these tests, so that wherever none is expected none came: no fallback either.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
from drop_ins import rounding
from monai import losses as peer
from monai_losses import (
    ACTIVATIONS,
    BACKGROUNDS,
    BATCHES,
    BINARY,
    COMPOUNDS,
    FEW,
    FLAT,
    LABEL_MAPS,
    OVERLAPS,
    REDUCTIONS,
    SCALARS,
    SIGMOID,
    SOFTMAX,
    TARGETS,
    TOLERANCE,
    VOLUME,
    WEIGHT,
    Case,
    assert_close,
    assert_conforms,
    build,
    cases,
    labels_of,
    one_hot,
    tensors_of,
    value_and_gradient,
)
from torch import Tensor
from under_test import DEVICE, backends

from fastmed.compat import monai as ours

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


def test_every_drop_in_is_what_it_stands_in_for() -> None:
    for name in ours.losses.__all__:
        assert issubclass(getattr(ours, name), getattr(peer, name))
