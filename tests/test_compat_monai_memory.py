"""Ordinary configurations of MONAI's losses run fused, and keep nothing but their operands."""

from __future__ import annotations

import pytest
import torch
from monai_losses import (
    BINARY,
    COMPOUNDS,
    OVERLAPS,
    SIGMOID,
    SOFTMAX,
    VOLUME,
    WEIGHT,
    Case,
    build,
    tensors_of,
    value_and_gradient,
)
from torch import Tensor

from fastmed.compat import monai as ours
from fastmed.contract import STATISTICS

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
