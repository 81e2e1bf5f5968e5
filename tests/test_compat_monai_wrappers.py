"""MONAI's wrappers around losses, and what else meets a loss: metadata, compilers, documented examples."""

from __future__ import annotations

import doctest
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from monai import losses as peer
from monai.data import MetaTensor
from monai_losses import (
    FLAT,
    SIGMOID,
    SOFTMAX,
    TARGETS,
    TOLERANCE,
    VOLUME,
    Case,
    assert_close,
    build,
    outcome,
    tensors_of,
    value_and_gradient,
)
from torch import Tensor

from fastmed.compat import monai as ours


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
