"""What MONAI raises and warns of, its drop-ins do; what they leave to MONAI they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai import losses as peer
from monai_losses import (
    BINARY,
    COMPOUNDS,
    FEW,
    FLAT,
    OVERLAPS,
    SIGMOID,
    SOFTMAX,
    TARGETS,
    VOLUME,
    Case,
    assert_close,
    build,
    outcome,
    tensors_of,
)
from torch import Tensor
from under_test import label

from fastmed.compat import monai as ours


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
