"""Multi-task cross entropy: the peers' numbers and those of the textbook, missing labels, extremes, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from under_test import DEVICE

import fastmed
from fastmed.functional import dice_bce_loss, multitask_bce_loss

NAN = float("nan")
SHAPES = {"one task": (7, 1), "batch": (64, 18), "many tasks": (5, 300), "one row": (1, 3), "volume": (2, 3, 5, 4)}


def table(*shape: int, missing: float = 0.2) -> tuple[Tensor, Tensor]:
    """Logits that want a gradient, and labels of which some are missing."""
    target = (torch.rand(shape) < 0.3).float()
    target[torch.rand(shape) < missing] = NAN
    return (torch.randn(shape) * 3).requires_grad_(), target


def compare(loss: Tensor, expected: Tensor, logits: Tensor) -> None:
    """Equal to 1e-6 in value, and in gradient relative to its largest component."""
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (expected_gradient,) = torch.autograd.grad(expected, logits, retain_graph=True)
    torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-6, atol=1e-9)
    largest = max(expected_gradient.abs().max().item(), 1e-30)
    torch.testing.assert_close(gradient, expected_gradient.to(gradient.dtype), rtol=0, atol=1e-6 * largest)
    assert not gradient.isnan().any()


def loop_over_tasks(logits: Tensor, target: Tensor, task_weight: Tensor | None = None) -> Tensor:
    """The training loop of torchxrayvision, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for task in range(target.shape[1]):
        valid = ~target[:, task].isnan()
        if valid.any():
            of_task = F.binary_cross_entropy_with_logits(
                logits[:, task][valid].double(), target[:, task][valid].double()
            )
            total = total + of_task * (1.0 if task_weight is None else task_weight[task].double())
    return total


@pytest.mark.skipif(DEVICE != "cpu", reason="Numba runs on the CPU")
@pytest.mark.parametrize("rows", [60, 901], ids=["one thread", "threads"])
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("gamma", [0.0, 1.5])
@pytest.mark.parametrize("kind", ["missing", "masked", "integers", "soft", "from pandas"])
def test_one_pass_and_two_passes_are_the_definition(rows: int, layout: str, gamma: float, kind: str) -> None:
    """A contiguous table gets its gradient along with the loss on this backend; no other table does."""
    logits, target = table(rows, 100)
    logits, mask = logits.detach(), None
    if kind == "masked":
        # The logit of a missing label may be anything.
        mask = torch.rand(rows, 100) < 0.7
        logits[~mask] = NAN
    elif kind == "integers":
        target = target.nan_to_num(-1.0).to(torch.int8)
    elif kind == "soft":
        target = torch.rand(rows, 100)
    elif kind == "from pandas":
        target = target.t().contiguous().t()
    logits = logits.t().contiguous().t() if layout == "transposed" else logits
    weights = {"pos_weight": torch.rand(100) * 5, "neg_weight": torch.rand(100)}
    options = {"gamma": gamma, "label_smoothing": 0.1, "normalize": "task", **weights}
    exact = logits.double().requires_grad_()
    multitask_bce_loss(exact, target, mask, backend="reference", **options).backward()
    assert exact.grad is not None
    for upstream in (1.0, 2.5):
        leaf = logits.detach().requires_grad_()
        multitask_bce_loss(leaf, target, mask, backend="numba", **options).backward(torch.tensor(upstream))
        assert leaf.grad is not None
        expected = upstream * exact.grad
        torch.testing.assert_close(leaf.grad.double(), expected, rtol=0, atol=1e-6 * expected.abs().max().item())


@pytest.mark.skipif(DEVICE != "cpu", reason="Numba runs on the CPU")
@pytest.mark.parametrize("rows", [60, 901], ids=["one thread", "threads"])
def test_unknown_labels_of_one_pass(rows: int) -> None:
    logits, target = table(rows, 100)
    target[-1, 99] = 2.0
    with pytest.raises(ValueError, match="got 2 for task 99"):
        multitask_bce_loss(logits, target, backend="numba")
    loss = multitask_bce_loss(logits, target, validate=False, backend="numba")
    assert loss.isnan()
    assert torch.autograd.grad(loss, logits)[0].isnan().any()


@pytest.mark.skipif(DEVICE != "cpu", reason="Numba runs on the CPU")
def test_a_gradient_that_came_with_its_loss_is_no_ones_to_change() -> None:
    logits, target = table(60, 100)
    loss = multitask_bce_loss(logits, target, backend="numba")
    loss.backward(retain_graph=True)
    assert logits.grad is not None
    first = logits.grad.clone()
    logits.grad.zero_()
    loss.backward()
    torch.testing.assert_close(logits.grad, first, rtol=0, atol=0)


def test_a_small_table_is_differentiable_once(region_backend: str) -> None:
    logits, target = table(6, 4)
    (gradient,) = torch.autograd.grad(
        multitask_bce_loss(logits, target, backend=region_backend), logits, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="differentiable once"):
        gradient.sum().backward()


@pytest.mark.filterwarnings("ignore:Converting a tensor", "ignore:.*torch.jit")
def test_a_traced_table_is_no_constant() -> None:
    """Tracing by example must see the operator, and not the numbers of the example."""
    logits, target = table(6, 4)
    traced = torch.jit.trace(lambda x: multitask_bce_loss(x, target), (logits,), check_trace=False)
    other = table(6, 4)[0]
    torch.testing.assert_close(traced(other), multitask_bce_loss(other, target))


@pytest.mark.parametrize("shape", SHAPES)
def test_torch_with_weights(region_backend: str, shape: str) -> None:
    logits, target = table(*SHAPES[shape], missing=0.0)
    tasks, spatial = logits.shape[1], [1] * (logits.ndim - 2)
    pos_weight, weight = torch.rand(tasks) * 5, torch.rand(tasks)
    expected = F.binary_cross_entropy_with_logits(
        logits.double(),
        target.double(),
        weight.double().view(tasks, *spatial),
        pos_weight=pos_weight.double().view(tasks, *spatial),
    )
    options = {"pos_weight": pos_weight, "neg_weight": 1.0, "task_weight": weight, "backend": region_backend}
    compare(multitask_bce_loss(logits, target, normalize="total", **options), expected, logits)
    # Without a missing label every normalisation is the same.
    compare(multitask_bce_loss(logits, target, normalize="valid", **options), expected, logits)
    compare(multitask_bce_loss(logits, target, **options), expected, logits)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("missing", [0.0, 0.3, 0.9, 1.0])
def test_the_loop_over_tasks(region_backend: str, shape: str, missing: float) -> None:
    logits, target = table(*SHAPES[shape], missing=missing)
    weight = torch.rand(logits.shape[1])
    loss = multitask_bce_loss(logits, target, task_weight=weight, reduction="sum", backend=region_backend)
    if target.isnan().all():
        assert loss.item() == 0.0
        (gradient,) = torch.autograd.grad(loss, logits)
        assert (gradient == 0.0).all()
    else:
        compare(loss, loop_over_tasks(logits, target, weight), logits)


def test_the_textbook_by_hand(region_backend: str) -> None:
    # One task: logits log 3, 0, 0, 0 are p = 3/4, 1/2, 1/2, 1/2; one positive in four: w_pos = 3/4, w_neg = 1/4.
    logits = torch.tensor([[math.log(3.0)], [0.0], [0.0], [0.0]], requires_grad=True)
    target = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    loss = multitask_bce_loss(logits, target, pos_weight="balanced", neg_weight="balanced", backend=region_backend)
    assert loss.item() == pytest.approx((3 / 4 * math.log(4 / 3) + 1 / 4 * 3 * math.log(2)) / 4, rel=1e-6)
    loss.backward()
    # w_pos (p - 1) / 4 and w_neg p / 4.
    assert logits.grad.flatten().tolist() == pytest.approx([-3 / 64, 1 / 32, 1 / 32, 1 / 32], rel=1e-6)
    given = multitask_bce_loss(logits, target, pos_weight=0.75, neg_weight=0.25, backend=region_backend)
    assert given.item() == pytest.approx(loss.item(), rel=1e-6)


def test_balanced_weights_of_the_batch_are_those_of_the_data_set(region_backend: str) -> None:
    logits, target = table(40, 5)
    w_pos, w_neg = fastmed.class_balance(target)
    expected = multitask_bce_loss(logits, target, pos_weight=w_pos, neg_weight=w_neg, backend="reference")
    balanced = multitask_bce_loss(logits, target, pos_weight="balanced", neg_weight="balanced", backend=region_backend)
    compare(balanced, expected, logits)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 60), st.floats(0.0, 0.9))
def test_balanced_classes_have_equal_total_weight(seed: int, rows: int, missing: float) -> None:
    """At logit 0 each label of weight w has gradient +-w / 2, so that those of a task cancel."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    target = torch.randint(2, (rows, 4), generator=generator).float()
    target[torch.rand((rows, 4), generator=generator) < missing] = NAN
    logits = torch.zeros(rows, 4, requires_grad=True)
    multitask_bce_loss(logits, target, pos_weight="balanced", neg_weight="balanced").backward()
    torch.testing.assert_close(logits.grad.sum(0), torch.zeros(4), rtol=0, atol=1e-6)


def test_policies_for_uncertain_labels(region_backend: str) -> None:
    logits, target = table(30, 4)
    uncertain = torch.rand(30, 4) < 0.3
    policies = ["ignore", "ones", "zeros", fastmed.Smooth(0.55, 0.85)]
    replaced = torch.where(uncertain, torch.tensor([NAN, 1.0, 0.0, 0.7]), target)
    # A soft label of 0.7: written out, since torch and fastmed both read soft labels as they are.
    expected = multitask_bce_loss(logits, replaced, backend="reference")
    marked = torch.where(uncertain, -1.0, target)
    compare(multitask_bce_loss(logits, marked, missing=policies, backend=region_backend), expected, logits)
    valid = ~replaced.isnan()
    by_hand = F.binary_cross_entropy_with_logits(
        logits.double(), torch.where(valid, replaced, 0.0).double(), reduction="none"
    )
    by_hand = ((by_hand * valid).sum(0) / valid.sum(0)).mean()
    compare(multitask_bce_loss(logits, marked, missing=policies, backend=region_backend), by_hand, logits)


def test_int8_labels_with_uncertain_ones(region_backend: str) -> None:
    logits, target = table(30, 4, missing=0.0)
    target[torch.rand(30, 4) < 0.3] = -1.0
    expected = multitask_bce_loss(logits, target, backend="reference")
    compare(multitask_bce_loss(logits, target.to(torch.int8), backend=region_backend), expected, logits)


@pytest.mark.parametrize("normalize", ["task", "valid", "total"])
def test_reductions_agree(region_backend: str, normalize: str) -> None:
    logits, target = table(30, 4)
    target[:, 2] = NAN
    options = {"normalize": normalize, "pos_weight": "balanced", "task_weight": [1.0, 2.0, 3.0, 4.0]}
    per_task = multitask_bce_loss(logits, target, reduction="none", backend=region_backend, **options)
    assert per_task.shape == (4,)
    assert per_task[2] == 0.0
    for reduction in ("mean", "sum"):
        loss = multitask_bce_loss(logits, target, reduction=reduction, backend=region_backend, **options)
        compare(loss, getattr(per_task, reduction)(), logits)


def test_normalize_valid_is_the_mean_over_valid_labels(region_backend: str) -> None:
    logits, target = table(30, 4)
    valid = ~target.isnan()
    expected = F.binary_cross_entropy_with_logits(logits[valid].double(), target[valid].double())
    compare(multitask_bce_loss(logits, target, normalize="valid", backend=region_backend), expected, logits)


def test_label_smoothing_and_focal_factor(region_backend: str) -> None:
    logits, target = table(30, 4, missing=0.0)
    x, smoothed = logits.double(), 0.9 * target.double() + 0.05
    p = torch.sigmoid(x)
    expected = -(smoothed * (1 - p) ** 2 * F.logsigmoid(x) + (1 - smoothed) * p**2 * F.logsigmoid(-x)).mean()
    loss = multitask_bce_loss(logits, target, label_smoothing=0.1, gamma=2.0, backend=region_backend)
    compare(loss, expected, logits)


def test_a_mask_removes_labels(region_backend: str) -> None:
    logits, target = table(30, 4)
    mask = torch.rand(30, 4) < 0.7
    expected = multitask_bce_loss(logits, torch.where(mask, target, NAN), backend="reference")
    compare(multitask_bce_loss(logits, target, mask, backend=region_backend), expected, logits)
    # What is removed is not looked at.
    dirty = torch.where(mask, target, 7.0)
    compare(multitask_bce_loss(logits, dirty, mask, backend=region_backend), expected, logits)


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 1e4), (torch.float16, 6e4), (torch.bfloat16, 1e30)])
@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_extreme_logits(region_backend: str, dtype: torch.dtype, largest: float, gamma: float) -> None:
    logits = torch.tensor([[largest], [-largest], [largest], [-largest]], dtype=dtype, requires_grad=True)
    target = torch.tensor([[1.0], [0.0], [0.0], [1.0]])
    loss = multitask_bce_loss(logits, target, gamma=gamma, reduction="sum", backend=region_backend)
    loss.backward()
    assert loss.item() == pytest.approx(2 * logits[0].item() / 4, rel=1e-6)
    assert logits.grad.flatten().tolist() == pytest.approx([0.0, 0.0, 0.25, -0.25], rel=1e-3)


def test_layouts_and_dtypes(region_backend: str) -> None:
    logits, target = table(30, 4)
    expected = multitask_bce_loss(logits, target, backend="reference")
    turned = logits.detach().t().contiguous().t().requires_grad_()
    loss = multitask_bce_loss(turned, target.half(), backend=region_backend)
    loss.backward()
    assert turned.grad.stride() == turned.stride()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    wide = torch.zeros(30, 9).index_copy(1, torch.arange(4), logits.detach())[:, :4].requires_grad_()
    torch.testing.assert_close(multitask_bce_loss(wide, target, backend=region_backend), expected, rtol=1e-6, atol=0)


def test_an_empty_batch_is_zero(region_backend: str) -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    for normalize in ("task", "valid", "total"):
        loss = multitask_bce_loss(logits, torch.zeros(0, 3), normalize=normalize, backend=region_backend)
        assert loss.item() == 0.0
        loss.backward()
    assert logits.grad.shape == (0, 3)


def test_double_precision_runs_on_the_reference() -> None:
    logits, target = table(6, 2)
    logits = logits.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: multitask_bce_loss(x, target, pos_weight="balanced", gamma=1.5, label_smoothing=0.1), logits
    )


REFUSALS = {
    "missing policy": ({"missing": "maybe"}, ValueError, r"missing: got 'maybe'"),
    "no policy": ({"missing": None}, ValueError, r"missing: got None, allowed are 'ignore', 'ones', 'zeros' and"),
    "normalize": ({"normalize": "batch"}, ValueError, r"normalize: got 'batch', allowed are 'task', 'valid', 'total'"),
    "weights": (
        {"pos_weight": [1.0, 2.0]},
        ValueError,
        r"pos_weight: got shape \(2,\), allowed is one weight or \(3,\)",
    ),
    "balance": ({"neg_weight": "auto"}, ValueError, r"neg_weight: got 'auto', allowed are (None, )?'balanced'"),
    "smoothing": ({"label_smoothing": 1.0}, ValueError, r"label_smoothing: got 1.0, allowed is 0 or more"),
    "gamma": ({"gamma": -1.0}, ValueError, r"gamma: got -1.0, allowed is"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    options, error, message = REFUSALS[name]
    with pytest.raises(error, match=message):
        multitask_bce_loss(torch.zeros(2, 3), torch.zeros(2, 3), **options)


@pytest.mark.parametrize("name", [name for name in REFUSALS if name != "weights"])
def test_a_module_refuses_at_once(name: str) -> None:
    options, error, message = REFUSALS[name]
    with pytest.raises(error, match=message):
        fastmed.MultiTaskBCELoss(**options)


def test_an_unknown_label_names_task_and_value(region_backend: str) -> None:
    logits, target = table(30, 4)
    target[3, 2] = 2.0
    with pytest.raises(ValueError, match=r"target: got 2 for task 2 \(1 such values in all\), allowed are 0 to 1, NaN"):
        multitask_bce_loss(logits, target, validate=True, backend=region_backend)
    assert multitask_bce_loss(logits, target, validate=False, backend=region_backend).isnan()


def test_the_module_compiles_and_holds_its_weights() -> None:
    logits, target = table(16, 4)
    loss = fastmed.MultiTaskBCELoss(*fastmed.class_balance(target), task_weight=[1.0, 2.0, 3.0, 4.0], gamma=1.0)
    assert {name for name, _ in loss.named_buffers()} == {"pos_weight", "neg_weight", "task_weight"}
    assert "gamma=1.0" in repr(loss)
    compiled = torch.compile(lambda x: loss(x * 2.0, target), fullgraph=True, backend="aot_eager")
    expected, got = loss(logits * 2.0, target), compiled(logits)
    compare(got, expected, logits)


def test_training_after_inference(region_backend: str) -> None:
    """What a first call in inference mode leaves behind must not enter a graph later."""
    logits, target = table(6, 11)
    policies = ["zeros", *["ones"] * 10]
    with torch.inference_mode():
        first = multitask_bce_loss(logits, target, missing=policies, backend=region_backend)
    again = multitask_bce_loss(logits, target, missing=policies, backend=region_backend)
    torch.testing.assert_close(again.detach(), first.clone(), rtol=1e-6, atol=0)
    compare(again, multitask_bce_loss(logits, target, missing=policies, backend="reference"), logits)


def test_fake_tensors_leave_nothing_behind() -> None:
    logits, target = table(6, 12)
    policies = ["zeros", *["ones"] * 11]
    with FakeTensorMode() as mode:
        fake = multitask_bce_loss(mode.from_tensor(logits), mode.from_tensor(target), missing=policies)
    assert fake.shape == ()
    multitask_bce_loss(logits, target, missing=policies).backward()


def partial_volume() -> tuple[Tensor, Tensor, Tensor]:
    """Logits and labels of three organs, and which of them each of two patients is annotated for."""
    target = torch.randint(2, (2, 3, 4, 5, 6), dtype=torch.int8)
    return torch.randn(2, 3, 4, 5, 6).requires_grad_(), target, torch.tensor([[True, False, True], [True, True, False]])


def test_partial_labels_as_a_mask_or_as_uncertain(region_backend: str) -> None:
    logits, target, valid = partial_volume()
    options = {"pos_weight": "balanced", "task_weight": [1.0, 2.0, 3.0], "backend": region_backend}
    marked = torch.where(valid.view(2, 3, 1, 1, 1), target, -1)
    by_mask = dice_bce_loss(logits, target, valid, **options)
    by_label = dice_bce_loss(logits, marked, missing="ignore", **options)
    compare(by_label, by_mask, logits)
    (gradient,) = torch.autograd.grad(dice_bce_loss(logits, marked, missing="ignore", **options), logits)
    assert (gradient[~valid] == 0.0).all()
    assert (gradient[valid] != 0.0).any()


def test_partial_labels_with_voxel_weights_and_ignored_voxels(region_backend: str) -> None:
    logits, target, valid = partial_volume()
    weights = torch.rand(2, 1, 4, 5, 6)
    target[:, :, 0, 0] = 3
    marked = torch.where(valid.view(2, 3, 1, 1, 1), target, -1)
    loss = fastmed.DiceBCELoss(missing="ignore", ignore_index=3, pos_weight=4.0, backend=region_backend)(
        logits, marked, weights
    )
    x, kept = logits.double(), (marked >= 0) & (marked != 3)
    w, g, p = weights.double() * kept, target.double() * kept, torch.sigmoid(x)
    over = (2, 3, 4)
    dice = 1 - (2 * (w * p * g).sum(over) + 1e-5) / ((w * p * p).sum(over) + (w * g * g).sum(over) + 1e-5)
    nll = 4 * w * g * F.softplus(-x) + w * (1 - g) * F.softplus(x)
    compare(loss, dice.mean() + nll.sum() / w.sum(), logits)


def test_missing_needs_a_channel_for_each_class() -> None:
    with pytest.raises(ValueError, match=r"missing: got 'ignore' with a label map of shape \(1, 4\); allowed is"):
        dice_bce_loss(torch.zeros(1, 2, 4), torch.zeros(1, 4, dtype=torch.int64), missing="ignore")
