"""Bad input gets one clear error: the argument, its value, what is allowed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import fastmed
from fastmed.functional import dice_bce_loss, dice_ce_loss, region_sums, soft_dice_loss

X = torch.zeros(2, 3, 4, 5)
T = torch.zeros(2, 4, 5, dtype=torch.int64)

CASES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"input": torch.zeros(3)}, ValueError, "input: got shape (3,), allowed is (N, C, *spatial)"),
    ({"input": T}, TypeError, "input: got torch.int64, allowed are float16"),
    (
        {"target": T[:1]},
        ValueError,
        "target: got shape (1, 4, 5), allowed are labels (2, 4, 5) or (2, 1, 4, 5), or",
    ),
    ({"target": T.float()}, TypeError, "target: got torch.float32, allowed is an integer"),
    ({"target": torch.zeros(2, 3, 4, 5, requires_grad=True)}, ValueError, "target: requires a gradient"),
    (
        {"mask": torch.zeros(2, 2, 4, 5)},
        ValueError,
        "mask: got shape (2, 2, 4, 5), allowed are (2, 4, 5), (2, 1",
    ),
    ({"mask": torch.zeros(2, 4, 5, dtype=torch.complex64)}, TypeError, "mask: got torch.complex64"),
    ({"mask": torch.zeros(2, 4, 5, requires_grad=True)}, ValueError, "mask: requires a gradient"),
    (
        {"mask": torch.zeros(2, 4, 5, device="meta")},
        ValueError,
        "mask: got device meta, allowed is that of the in",
    ),
    ({"activation": "tanh"}, ValueError, "activation: got 'tanh', allowed are 'softmax', 'sigmoid', None"),
    ({"input": X[:, :1]}, ValueError, "use activation='sigmoid'"),
    ({"backend": "nothing"}, ValueError, "backend: got 'nothing', allowed are 'auto'"),
]


@pytest.mark.parametrize(("changes", "error", "message"), CASES, ids=[case[2][:30] for case in CASES])
def test_region_input(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"input": X, "target": T, "activation": "softmax", **changes}
    with pytest.raises(error, match=re.escape(message)):
        region_sums(arguments.pop("input"), arguments.pop("target"), **arguments)


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"pool": "all"}, "pool: got 'all', allowed are 'sample', 'batch'"),
    ({"reduction": "avg"}, "reduction: got 'avg', allowed are 'mean', 'sum', 'none'"),
    ({"smooth": -1.0}, "smooth: got -1.0, allowed is a finite number, 0 or more"),
    ({"smooth": float("nan")}, "smooth: got nan"),
    ({"class_weight": torch.ones(2)}, "class_weight: got shape (2,), allowed is one weight or (3,)"),
    ({"process_group": object()}, "process_group: needs pool='batch', got pool='sample'"),
]


@pytest.mark.parametrize(("changes", "message"), OPTIONS, ids=[case[1][:25] for case in OPTIONS])
@pytest.mark.parametrize("loss", [soft_dice_loss, dice_ce_loss, dice_bce_loss])
def test_options(loss: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(X, T, **changes)


def test_compounds() -> None:
    with pytest.raises(ValueError, match="reduction: got 'none' with pool='batch'"):
        dice_ce_loss(X, T, reduction="none", pool="batch")
    with pytest.raises(ValueError, match=re.escape("lambda_ce: got -1, allowed is a finite number")):
        dice_ce_loss(X, T, lambda_ce=-1)
    with pytest.raises(ValueError, match="include_background: got False with one class"):
        soft_dice_loss(X[:, :1], T[:, None], activation="sigmoid", include_background=False)


def test_modules_refuse_when_they_are_made() -> None:
    for module in (fastmed.DiceLoss, fastmed.DiceCELoss, fastmed.DiceBCELoss):
        with pytest.raises(ValueError, match="pool: got 'all'"):
            module(pool="all")
        with pytest.raises(ValueError, match="smooth: got inf"):
            module(smooth=float("inf"))
    with pytest.raises(ValueError, match="activation: got 'relu'"):
        fastmed.DiceLoss("relu")
    with pytest.raises(TypeError, match="class_weight: got 'balanced', allowed are None, a number, or one number for"):
        fastmed.DiceLoss(class_weight="balanced")
    with pytest.raises(
        ValueError, match=re.escape("task_weight: got [1.0, nan], allowed are finite numbers, 0 or more")
    ):
        fastmed.MultiTaskBCELoss(task_weight=[1.0, float("nan")])


def test_weights_have_no_gradient() -> None:
    weights = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="class_weight: requires a gradient, but none flows to weights"):
        soft_dice_loss(X, T, class_weight=weights)


def test_modules_show_and_move_their_configuration() -> None:
    loss = fastmed.DiceCELoss(class_weight=[1.0, 2.0, 3.0], include_background=False)
    assert "include_background=False" in repr(loss)
    assert loss.class_weight.tolist() == [1.0, 2.0, 3.0]
    assert not loss.state_dict()
    assert loss.to("meta").class_weight.device.type == "meta"
