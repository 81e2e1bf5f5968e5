"""The same number as MONAI and torch, value and gradient, on every backend that runs here.

The peer computes in float64: in float32 its own rounding reaches 1e-6, and depends on the processor.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fastmed


def monai(name: str, **options: object) -> torch.nn.Module:
    """A loss of MONAI's, imported with the first test that needs it: collection is to take no time."""
    return getattr(pytest.importorskip("monai.losses", reason="MONAI is the oracle"), name)(**options)


OPTIONS = list(itertools.product((True, False), repeat=3))
SHAPE = (2, 4, 9, 8, 7)


def exact(input: Tensor) -> Tensor:
    return input.detach().double().requires_grad_()


def value_and_gradient(loss: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    (gradient,) = torch.autograd.grad(loss, input)
    return loss.detach(), gradient


def assert_same(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    """Relative 1e-6: of the value, and of the largest component of the gradient."""
    value, gradient = (each.double() for each in ours)
    torch.testing.assert_close(value, theirs[0].double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, theirs[1].double(), rtol=0, atol=1e-6 * theirs[1].abs().max().item())


def options(squared: bool, background: bool, batch: bool) -> tuple[dict[str, object], dict[str, object]]:
    ours = {"squared": squared, "include_background": background, "pool": "batch" if batch else "sample"}
    return ours, {"squared_pred": squared, "include_background": background, "batch": batch}


@pytest.mark.parametrize(("squared", "background", "batch"), OPTIONS)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_dice(region_backend: str, activation: str | None, squared: bool, background: bool, batch: bool) -> None:
    input = torch.randn(SHAPE)
    input = input.softmax(1).requires_grad_() if activation is None else input.requires_grad_()
    labels = torch.randint(4, (2, 1, *SHAPE[2:]))
    ours, theirs = options(squared, background, batch)
    peer = monai(
        "DiceLoss", to_onehot_y=True, softmax=activation == "softmax", sigmoid=activation == "sigmoid", **theirs
    )
    loss = fastmed.DiceLoss(activation, backend=region_backend, **ours)
    wide = exact(input)
    assert_same(value_and_gradient(loss(input, labels), input), value_and_gradient(peer(wide, labels), wide))


@pytest.mark.parametrize(("squared", "background", "batch"), OPTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_dice_ce(region_backend: str, squared: bool, background: bool, batch: bool, weighted: bool) -> None:
    input = torch.randn(SHAPE, requires_grad=True)
    labels = torch.randint(4, (2, 1, *SHAPE[2:]))
    weight = torch.rand(4) + 0.1 if weighted else None
    ours, theirs = options(squared, background, batch)
    # MONAI takes one weight for both terms, of all classes or of those in the Dice.
    peer = monai("DiceCELoss", to_onehot_y=True, softmax=True, weight=weight, **theirs).double()
    loss = fastmed.DiceCELoss(class_weight=weight, backend=region_backend, **ours)
    wide = exact(input)
    assert_same(value_and_gradient(loss(input, labels), input), value_and_gradient(peer(wide, labels), wide))


@pytest.mark.parametrize(("squared", "background", "batch"), OPTIONS)
def test_dice_bce(region_backend: str, squared: bool, background: bool, batch: bool) -> None:
    input = torch.randn(SHAPE, requires_grad=True)
    target = torch.randint(2, SHAPE).float()
    pos_weight = torch.rand(4) * 5
    ours, theirs = options(squared, background, batch)
    wide, wide_target = exact(input), target.double()
    dice = monai("DiceLoss", sigmoid=True, **theirs)(wide, wide_target)
    per_class = pos_weight.double().view(1, -1, 1, 1, 1)
    theirs_value = dice + F.binary_cross_entropy_with_logits(wide, wide_target, pos_weight=per_class)
    loss = fastmed.DiceBCELoss(pos_weight=pos_weight, backend=region_backend, **ours)
    assert_same(value_and_gradient(loss(input, target), input), value_and_gradient(theirs_value, wide))


def test_dice_bce_of_one_class_is_monai_dice_ce(region_backend: str) -> None:
    input = torch.randn(2, 1, 9, 8, 7, requires_grad=True)
    target = torch.randint(2, (2, 1, 9, 8, 7))
    wide = exact(input)
    peer = monai("DiceCELoss", sigmoid=True, squared_pred=True)(wide, target.double())
    ours = fastmed.DiceBCELoss(backend=region_backend)(input, target.to(torch.uint8))
    assert_same(value_and_gradient(ours, input), value_and_gradient(peer, wide))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_dice_reductions(region_backend: str, reduction: str) -> None:
    input = torch.randn(SHAPE, requires_grad=True)
    labels = torch.randint(4, (2, 1, *SHAPE[2:]))
    wide = exact(input)
    peer = monai("DiceLoss", to_onehot_y=True, softmax=True, squared_pred=True, reduction=reduction)(wide, labels)
    ours = fastmed.DiceLoss(reduction=reduction, backend=region_backend)(input, labels)
    assert ours.shape == ((2, 4) if reduction == "none" else ())
    peer = peer.reshape(ours.shape)
    upstream = torch.rand(ours.shape)
    pair = [((loss * upstream).sum(), of) for loss, of in ((ours, input), (peer, wide))]
    assert_same(*(value_and_gradient(*each) for each in pair))


def test_cross_entropy_of_a_dense_target_is_torchs(region_backend: str) -> None:
    input = torch.randn(SHAPE, requires_grad=True)
    target = torch.rand(SHAPE).softmax(1)
    weight = torch.rand(4)
    loss = fastmed.DiceCELoss(lambda_dice=0.0, class_weight=weight, backend=region_backend)
    wide = exact(input)
    theirs = F.cross_entropy(wide, target.double(), weight=weight.double())
    assert_same(value_and_gradient(loss(input, target), input), value_and_gradient(theirs, wide))


def test_ignored_labels_are_torchs(region_backend: str) -> None:
    input = torch.randn(SHAPE, requires_grad=True)
    labels = torch.randint(4, (2, *SHAPE[2:]))
    labels[torch.rand(labels.shape) > 0.5] = -100
    loss = fastmed.DiceCELoss(lambda_dice=0.0, ignore_index=-100, backend=region_backend)
    wide = exact(input)
    theirs = F.cross_entropy(wide, labels, ignore_index=-100)
    assert_same(value_and_gradient(loss(input, labels), input), value_and_gradient(theirs, wide))


def test_a_mask_is_the_volume_without_its_voxels(region_backend: str) -> None:
    input, labels = torch.randn(1, 3, 60, requires_grad=True), torch.randint(3, (1, 60))
    mask = torch.rand(1, 60) > 0.5
    loss = fastmed.DiceCELoss(backend=region_backend)
    kept = loss(input[:, :, mask[0]], labels[:, mask[0]])
    assert_same(value_and_gradient(loss(input, labels, mask), input), value_and_gradient(kept, input))


def test_compound_per_sample(region_backend: str) -> None:
    input, labels = torch.randn(3, 3, 60), torch.randint(3, (3, 60))
    loss = fastmed.DiceCELoss(reduction="none", backend=region_backend)
    alone = torch.stack(
        [fastmed.DiceCELoss(backend=region_backend)(input[i : i + 1], labels[i : i + 1]) for i in range(3)]
    )
    torch.testing.assert_close(loss(input, labels), alone, rtol=1e-6, atol=0)


def test_all_ignored_is_zero_with_zero_gradient(region_backend: str) -> None:
    input = torch.randn(2, 3, 60, requires_grad=True)
    labels = torch.full((2, 60), 255, dtype=torch.uint8)
    loss = fastmed.DiceCELoss(ignore_index=255, backend=region_backend)(input, labels)
    loss.backward()
    assert loss.item() == 0.0
    assert (input.grad == 0).all()
