"""Every loss over regions against its definition in plain float64 torch, on every backend; options, sharing, counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fastmed
from benchmarks.memory import peak_extra
from fastmed import functional, ops
from fastmed.contract import BASIC
from fastmed.losses.base import RegionLoss
from fastmed.losses.deep_supervision import level_weights, nearest

CLASSES = 3


class Soft:
    """Activated prediction p, one-hot target g and their sums over voxels, as a textbook has them."""

    def __init__(self, logits: Tensor, labels: Tensor, activation: str | None, pooled: bool = False) -> None:
        self.logits, self.labels = logits, labels
        p = logits if activation is None else logits.softmax(1) if activation == "softmax" else logits.sigmoid()
        g = F.one_hot(labels.long(), CLASSES).movedim(-1, 1).to(p)
        axes = (0, 2, 3) if pooled else (2, 3)
        self.p, self.g, self.axes = p, g, axes
        self.tp, self.fp, self.fn = (p * g).sum(axes), (p * (1 - g)).sum(axes), ((1 - p) * g).sum(axes)
        self.tn = ((1 - p) * (1 - g)).sum(axes)


def dice(s: Soft, e: float = 1e-5) -> Tensor:
    return (1 - (2 * s.tp + e) / ((s.p**2).sum(s.axes) + s.g.sum(s.axes) + e)).mean()


def plain_dice(s: Soft, e: float = 1e-5) -> Tensor:
    return (1 - (2 * s.tp + e) / (s.p.sum(s.axes) + s.g.sum(s.axes) + e)).mean()


def jaccard(s: Soft, e: float = 1e-5) -> Tensor:
    return (1 - (s.tp + e / 2) / (s.p.sum(s.axes) + s.g.sum(s.axes) - s.tp + e / 2)).mean()


def tversky(s: Soft, e: float = 1e-5) -> Tensor:
    return 1 - (s.tp + e) / (s.tp + 0.3 * s.fp + 0.7 * s.fn + e)


def generalized(s: Soft, e: float = 1e-5) -> Tensor:
    volume = s.g.sum(s.axes)
    w = 1 / volume**2
    return (1 - (2 * (w * s.tp).sum(-1) + e) / ((w * (s.p.sum(s.axes) + volume)).sum(-1) + e)).mean()


def matthews(s: Soft, e: float = 1e-5) -> Tensor:
    root = ((s.tp + s.fp) * (s.tp + s.fn) * (s.tn + s.fp) * (s.tn + s.fn)).sqrt()
    return (1 - (s.tp * s.tn - s.fp * s.fn) / (root + e)).mean()


def brosch(s: Soft, e: float = 1e-5) -> Tensor:
    error, g, axes = (s.g - s.p) ** 2, s.g, s.axes
    missed, added = (error * g).sum(axes) / (g.sum(axes) + e), (error * (1 - g)).sum(axes) / ((1 - g).sum(axes) + e)
    return (0.05 * missed + 0.95 * added).mean()


def log_cosh(s: Soft, e: float = 1e-5) -> Tensor:
    d = 1 - (2 * s.tp + e) / ((s.p**2).sum(s.axes) + s.g.sum(s.axes) + e)
    return torch.log(torch.cosh(d)).mean()


def cross_entropy(s: Soft, **options: Any) -> Tensor:
    return F.cross_entropy(s.logits, s.labels.long(), **options)


def softmax_focal(s: Soft, gamma: float = 2.0) -> Tensor:
    return -(s.g * (1 - s.p) ** gamma * s.logits.log_softmax(1)).sum(1).mean()


def sigmoid_focal(s: Soft, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    pos, neg = F.logsigmoid(s.logits), F.logsigmoid(-s.logits)
    return -(alpha * s.g * (1 - s.p) ** gamma * pos + (1 - alpha) * (1 - s.g) * s.p**gamma * neg).mean()


def unified(s: Soft) -> Tensor:
    nll = -s.g * s.logits.log_softmax(1)
    background, rest = 0.4 * (1 - s.p[:, 0]) ** 0.5 * nll[:, 0], 0.6 * nll[:, 1:].sum(1)
    index = 1 - (s.tp + 1e-5) / (s.tp + 0.4 * s.fp + 0.6 * s.fn + 1e-5)
    overlap = torch.cat([index[:, :1], index[:, 1:] ** 0.5], 1)
    return 0.5 * (background + rest).mean() + 0.5 * overlap.mean()


BY_HAND: dict[str, tuple[RegionLoss, str | None, Callable[[Soft], Tensor]]] = {
    "dice": (fastmed.DiceLoss(), "softmax", dice),
    "dice of sigmoids": (fastmed.DiceLoss("sigmoid", squared=False), "sigmoid", plain_dice),
    "jaccard": (fastmed.JaccardLoss(squared=False), "softmax", jaccard),
    "tversky": (fastmed.TverskyLoss(alpha=0.3, beta=0.7), "softmax", lambda s: tversky(s).mean()),
    "focal tversky": (
        fastmed.TverskyLoss("sigmoid", alpha=0.3, beta=0.7, gamma=4 / 3),
        "sigmoid",
        lambda s: (tversky(s) ** 0.75).mean(),
    ),
    "generalized dice": (fastmed.GeneralizedDiceLoss(), "softmax", generalized),
    "log-cosh dice": (fastmed.LogCoshDiceLoss(), "softmax", log_cosh),
    "mcc": (fastmed.MCCLoss(), "softmax", matthews),
    "sensitivity-specificity": (fastmed.SensitivitySpecificityLoss(), "softmax", brosch),
    "sensitivity-specificity of sigmoids": (fastmed.SensitivitySpecificityLoss("sigmoid"), "sigmoid", brosch),
    "cross entropy": (fastmed.CrossEntropyLoss(), "softmax", cross_entropy),
    "smoothed cross entropy": (
        fastmed.CrossEntropyLoss(label_smoothing=0.1, class_weight=[1.0, 2.0, 0.5]),
        "softmax",
        lambda s: cross_entropy(s, label_smoothing=0.1, weight=torch.tensor([1.0, 2.0, 0.5]).to(s.p)),
    ),
    "focal": (fastmed.FocalLoss(), "softmax", softmax_focal),
    "focal of sigmoids": (fastmed.FocalLoss("sigmoid", alpha=0.25), "sigmoid", sigmoid_focal),
    "dice and cross entropy": (fastmed.DiceCELoss(), "softmax", lambda s: dice(s) + cross_entropy(s)),
    "dice and focal": (
        fastmed.DiceFocalLoss(lambda_focal=0.5),
        "softmax",
        lambda s: dice(s) + 0.5 * softmax_focal(s),
    ),
    "dice and focal of sigmoids": (
        fastmed.DiceFocalLoss("sigmoid", alpha=0.25),
        "sigmoid",
        lambda s: dice(s) + sigmoid_focal(s),
    ),
    "unified focal": (fastmed.UnifiedFocalLoss(), "softmax", unified),
}


def operands() -> tuple[Tensor, Tensor]:
    return torch.randn(2, CLASSES, 9, 11) * 2, torch.randint(CLASSES, (2, 9, 11), dtype=torch.uint8)


def value_and_gradient(loss: Callable[[Tensor], Tensor], input: Tensor) -> tuple[Tensor, Tensor]:
    leaf = input.detach().clone().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach().double(), gradient.double()


def on(loss: RegionLoss, backend: str) -> RegionLoss:
    own = loss.arguments() | {"backend": backend}
    return type(loss)(**own)


@pytest.mark.parametrize("name", BY_HAND)
def test_value_and_gradient(name: str, region_backend: str) -> None:
    loss, activation, by_hand = BY_HAND[name]
    input, labels = operands()
    expected, gradient = value_and_gradient(lambda x: by_hand(Soft(x, labels, activation)), input.double())
    got, by_input = value_and_gradient(lambda x: on(loss, region_backend)(x, labels), input)
    torch.testing.assert_close(got, expected, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(by_input, gradient, rtol=2e-5, atol=2e-6 * gradient.abs().max().item())


@pytest.mark.parametrize("name", BY_HAND)
def test_options_mean_the_same_everywhere(name: str) -> None:
    """An ignored label is a mask, a dense target its labels, a patch its voxels, and weights of one are none."""
    loss, _, _ = BY_HAND[name]
    input, labels = operands()
    expected = loss(input, labels)
    dense = F.one_hot(labels.long(), CLASSES).movedim(-1, 1)
    if "cross entropy" not in name or "smoothed" not in name:
        torch.testing.assert_close(loss(input, dense), expected)
    torch.testing.assert_close(loss(input, labels, torch.ones(2, 9, 11)), expected)
    ignoring = type(loss)(**loss.arguments() | {"ignore_index": 255})
    hidden = labels.clone()
    hidden[:, :4] = 255
    kept = loss(input, labels, hidden != 255)
    torch.testing.assert_close(ignoring(input, hidden), kept)
    torch.testing.assert_close(loss(input[:, :, 4:], labels[:, 4:]), kept)
    ignoring = type(loss)(**loss.arguments() | {"ignore_index": 1})
    if name != "smoothed cross entropy":
        torch.testing.assert_close(ignoring(input, dense, dense[:, 0] + 1), ignoring(input, labels, dense[:, 0] + 1))
    weighted = type(loss)(**loss.arguments() | {"class_weight": [5.0, 1.0, 0.5]})
    assert abs(weighted(input, labels) - expected) > 1e-3 * expected


@pytest.mark.parametrize("name", BY_HAND)
def test_reductions(name: str) -> None:
    loss, _, _ = BY_HAND[name]
    input, labels = operands()
    each = type(loss)(**loss.arguments() | {"reduction": "none"})(input, labels)
    assert each.shape[0] == 2
    alone = [loss(input[n : n + 1], labels[n : n + 1]) for n in range(2)]
    for value, of_sample in zip(each.flatten(1).mean(1) if each.ndim > 1 else each, alone, strict=True):
        torch.testing.assert_close(value, of_sample)
    total = type(loss)(**loss.arguments() | {"reduction": "sum"})(input, labels)
    assert total.item() > loss(input, labels).item()


@pytest.mark.parametrize("name", [name for name, (loss, _, _) in BY_HAND.items() if "smooth" in loss.arguments()])
def test_without_smoothing_a_removed_region_costs_nothing(name: str, region_backend: str) -> None:
    """0 / 0 is neither a loss nor a gradient, of one sample or of all."""
    loss = BY_HAND[name][0]
    loss = type(loss)(**loss.arguments() | {"smooth": 0.0, "backend": region_backend})
    input, labels = operands()
    annotated = torch.tensor([[True] * CLASSES, [False] * CLASSES])
    value, gradient = value_and_gradient(lambda x: loss(x, labels, annotated), input)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert not gradient[1].any()
    value, gradient = value_and_gradient(lambda x: loss(x, labels, ~annotated & annotated), input)
    # A correlation of nothing is none; and a power below 1 is cut next to 0.
    assert value <= (1.0 if name == "mcc" else 1e-3)
    assert not gradient.any()


@pytest.mark.parametrize("name", BY_HAND)
def test_an_empty_batch_costs_nothing(name: str, region_backend: str) -> None:
    """What a process is left with whose share of the last batch is empty."""
    input = torch.zeros(0, CLASSES, 4, 5, requires_grad=True)
    value = on(BY_HAND[name][0], region_backend)(input, torch.zeros(0, 4, 5, dtype=torch.uint8))
    assert value.item() == 0.0
    value.backward()
    assert input.grad is not None


def test_pooled_and_without_background() -> None:
    input, labels = operands()
    pooled = fastmed.MCCLoss(pool="batch", include_background=False, reduction="none", class_weight=[1.0, 2.0, 3.0])
    s = Soft(input.double(), labels, "softmax", pooled=True)
    root = ((s.tp + s.fp) * (s.tp + s.fn) * (s.tn + s.fp) * (s.tn + s.fn)).sqrt()
    expected = (1 - (s.tp * s.tn - s.fp * s.fn) / (root + 1e-5)) * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(pooled(input, labels).double(), expected[None, 1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weighting", ["square", "simple", "uniform"])
def test_an_absent_class_takes_the_largest_weight(weighting: str) -> None:
    monai = pytest.importorskip("monai.losses")
    input, labels = operands()
    labels[0].clamp_(max=1)
    peer = monai.GeneralizedDiceLoss(softmax=True, to_onehot_y=True, w_type=weighting)
    torch.testing.assert_close(
        functional.generalized_dice_loss(input, labels, weighting=weighting), peer(input, labels[:, None])
    )


def test_soft_labels() -> None:
    """The optional statistic |p - g|: MONAI's overlap for labels that are no 0 or 1."""
    input, target = torch.randn(2, 2, 50), torch.rand(2, 2, 50)
    sums = functional.region_sums(input, target, activation="sigmoid", nll=False, soft=True)
    assert sums.difference is not None
    torch.testing.assert_close(sums.difference, (input.sigmoid() - target).abs().sum(-1))


class Passes:
    """Counts the passes over the voxels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        for name in ("region_passes", "region_loss"):
            monkeypatch.setattr(ops, name, self.counted(getattr(ops, name)))

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(operands: Any, *arguments: Any) -> Any:
            self.number += len(operands) if isinstance(operands, list) else 1
            return function(operands, *arguments)

        return call


def test_a_compound_shares_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [fastmed.DiceLoss(), fastmed.MCCLoss(), fastmed.FocalLoss(), fastmed.SensitivitySpecificityLoss()]
    weights = [1.0, 0.5, 2.0, 0.25]
    input, labels = operands()

    def apart(x: Tensor) -> Tensor:
        return torch.stack([w * loss(x, labels) for w, loss in zip(weights, members, strict=True)]).sum()

    expected, expected_gradient = value_and_gradient(apart, input)
    passes = Passes(monkeypatch)
    value, gradient = value_and_gradient(lambda x: fastmed.CompoundLoss(members, weights)(x, labels), input)
    assert passes.number == 1
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-8)
    fastmed.CompoundLoss([*members, fastmed.CrossEntropyLoss()])(input, labels)
    assert passes.number == 3  # One more for another focal exponent.


def test_losses_of_a_compound_agree() -> None:
    with pytest.raises(ValueError, match=r"losses: got ignore_index = \[None, 3\], allowed is the same for all"):
        fastmed.CompoundLoss([fastmed.DiceLoss(), fastmed.MCCLoss(ignore_index=3)])
    with pytest.raises(TypeError, match="losses: got MSELoss"):
        fastmed.CompoundLoss([torch.nn.MSELoss()])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="weights: got 1, allowed is one for each of the 2 losses"):
        fastmed.CompoundLoss([fastmed.DiceLoss(), fastmed.MCCLoss()], [1.0])
    with pytest.raises(ValueError, match="losses: got none"):
        fastmed.CompoundLoss([])
    with pytest.raises(ValueError, match="losses: got reduction 'none' with pool='batch'"):
        fastmed.CompoundLoss([fastmed.DiceLoss(pool="batch", reduction="none")])
    assert fastmed.CompoundLoss([fastmed.DiceLoss(reduction="none")])(*operands()).shape == (2,)


@pytest.mark.parametrize("name", BY_HAND)
def test_hard_counts_come_with_the_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, activation, _ = BY_HAND[name]
    input, labels = operands()
    plain = loss(input, labels)
    counts = torch.zeros(CLASSES, 4, dtype=torch.int64)
    passes = Passes(monkeypatch)
    for _ in range(2):
        torch.testing.assert_close(loss(input, labels, hard_counts=counts), plain)
    assert passes.number == (4 if name == "unified focal" else 2)
    if activation == "softmax":
        matrix = functional.confusion_counts(input, labels, CLASSES).sum(0)
        tp = matrix.diagonal()
        fp, fn = matrix.sum(0) - tp, matrix.sum(1) - tp
        expected = torch.stack([matrix.sum() - tp - fp - fn, fp, fn, tp], 1)
    else:
        dense = F.one_hot(labels.long(), CLASSES).movedim(-1, 1)
        expected = functional.confusion_counts(input, dense, CLASSES, threshold=0.0).sum(0)
    assert torch.equal(counts, 2 * expected)


def test_hard_counts_need_their_shape() -> None:
    with pytest.raises(ValueError, match=r"hard_counts: got torch.float32 of shape \(3, 4\) on cpu, allowed is torch"):
        fastmed.DiceLoss()(*operands(), hard_counts=torch.zeros(3, 4))


def test_one_loss_takes_operands_of_any_kind_in_turn() -> None:
    """What is made for one kind of operands is no answer for another."""
    shapes, loss = [(2, 3, 6, 5), (2, 2, 6, 5), (1, 3, 4)], fastmed.CrossEntropyLoss()
    for shape in shapes * 2:
        input = torch.randn(shape)
        labels = torch.randint(2, (shape[0], *shape[2:]))
        soft = torch.randn(shape).softmax(1)
        torch.testing.assert_close(loss(input, labels), F.cross_entropy(input, labels))
        torch.testing.assert_close(loss(input, soft), F.cross_entropy(input, soft))


def test_weights_of_a_loss_may_change_between_steps() -> None:
    input, labels = torch.randn(2, CLASSES, 6, 5), torch.randint(CLASSES, (2, 6, 5))
    loss, weight = fastmed.CrossEntropyLoss(class_weight=[1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0])
    for factor in (1.0, 5.0):
        loss.class_weight[1] = weight[1] = factor
        torch.testing.assert_close(loss(input, labels), F.cross_entropy(input, labels, weight))


def test_unknown_options_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match="colour"):
        fastmed.JaccardLoss(colour="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"hard_counts: .* allowed is with a call"):
        fastmed.JaccardLoss(hard_counts=torch.zeros(CLASSES, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="weighting: got 'cubic'"):
        functional.generalized_dice_loss(*operands(), weighting="cubic")
    with pytest.raises(ValueError, match="alpha: got -1"):
        functional.tversky_loss(*operands(), alpha=-1)
    with pytest.raises(ValueError, match="sensitivity_share: got 2"):
        functional.sensitivity_specificity_loss(*operands(), sensitivity_share=2)
    with pytest.raises(ValueError, match=r"alpha: got 0\.25 with activation='softmax'"):
        functional.focal_loss(*operands(), alpha=0.25)


@pytest.mark.usefixtures("no_batch_is_small")
def test_nothing_but_operands_is_kept_for_backward() -> None:
    input, labels = operands()
    input.requires_grad_()
    for name, (loss, _, _) in BY_HAND.items():
        kept: dict[int, int] = {}

        def pack(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss(input, labels)
        large = [number for number in kept.values() if number > BASIC * 2 * CLASSES]
        assert sorted(large) == [labels.numel(), input.numel()], name


def test_several_passes_have_one_gradient() -> None:
    pytest.importorskip("numba", reason="without Numba plain torch computes, which keeps what it needs for backward")
    input, labels = torch.randn(1, CLASSES, 200, 300, requires_grad=True), torch.randint(CLASSES, (1, 200, 300))

    def run() -> None:
        input.grad = None
        fastmed.UnifiedFocalLoss()(input, labels).backward()

    assert peak_extra(run, torch.device("cpu")) < 1.1 * input.nbytes


@pytest.mark.parametrize("size", [(8, 8), (4, 6), (3, 5), (1, 1)], ids=str)
def test_nearest_labels_are_those_of_torch(size: tuple[int, int]) -> None:
    labels = torch.randint(100, (2, 3, 8, 11), dtype=torch.uint8)
    expected = F.interpolate(labels.float(), size=size, mode="nearest-exact").to(torch.uint8)
    assert torch.equal(nearest(labels, size), expected)


def test_deep_supervision() -> None:
    loss = fastmed.DiceCELoss(ignore_index=7)
    outputs = [torch.randn(2, CLASSES, size, size) for size in (16, 8, 4)]
    labels = torch.randint(CLASSES, (2, 16, 16), dtype=torch.uint8)
    labels[:, 3] = 7
    mask = torch.rand(2, 1, 16, 16)
    by_level = [loss(out, nearest(labels, out.shape[2:]), nearest(mask, out.shape[2:])) for out in outputs]
    nnunet, monai, own = (
        fastmed.DeepSupervisionLoss(loss, weighting)(outputs, labels, mask)
        for weighting in ("nnunet", "monai", (3.0, 0.0, 1.0))
    )
    torch.testing.assert_close(nnunet, (2 * by_level[0] + by_level[1]) / 3)
    torch.testing.assert_close(monai, by_level[0] + 0.5 * by_level[1] + 0.25 * by_level[2])
    torch.testing.assert_close(own, 3 * by_level[0] + by_level[2])
    torch.testing.assert_close(fastmed.DeepSupervisionLoss(loss)(outputs[0], labels, mask), by_level[0])
    with pytest.raises(ValueError, match="weighting: got 3 numbers, allowed is one for each of 2 outputs"):
        fastmed.DeepSupervisionLoss(loss, (1.0, 1.0, 1.0))(outputs[:2], labels)


def test_deep_supervision_of_partial_labels_counts_the_finest_output() -> None:
    loss, annotated = fastmed.DiceCELoss(), torch.tensor([[1, 1, 0], [1, 1, 1]])
    outputs = [torch.randn(2, CLASSES, size, size) for size in (8, 4)]
    labels = torch.randint(CLASSES, (2, 8, 8), dtype=torch.uint8)
    counts, expected = torch.zeros(2, CLASSES, 4, dtype=torch.int64)
    value = fastmed.DeepSupervisionLoss(loss, (1.0, 1.0))(outputs, labels, annotated, counts)
    fine = loss(outputs[0], labels, annotated, hard_counts=expected)
    torch.testing.assert_close(value, fine + loss(outputs[1], nearest(labels, (4, 4)), annotated))
    assert torch.equal(counts, expected)


def test_deep_supervision_of_a_loss_without_masks() -> None:
    output, labels = operands()
    value = fastmed.DeepSupervisionLoss(torch.nn.CrossEntropyLoss())([output], labels.long())
    torch.testing.assert_close(value, F.cross_entropy(output, labels.long()))


def test_some_output_has_a_weight() -> None:
    with pytest.raises(ValueError, match=r"weighting: got \[0.0, 0.0\], allowed is at least one number other than 0"):
        fastmed.DeepSupervisionLoss(fastmed.DiceLoss(), (0.0, 0.0))


def test_weights_of_levels_are_those_of_the_peers() -> None:
    assert level_weights("monai", 6) == [1.0, 0.5, 0.25, 0.125, 0.0625, 0.0625]
    assert level_weights("nnunet", 1) == [1.0]
    weights = level_weights("nnunet", 5)
    assert weights[-1] == 0.0
    assert math.isclose(sum(weights), 1.0)
    assert [weights[i] / weights[0] for i in range(4)] == [1.0, 0.5, 0.25, 0.125]
