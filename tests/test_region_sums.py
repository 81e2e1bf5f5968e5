"""The one pass, on every backend: sums and gradients against float64, layouts, labels, corners."""

from __future__ import annotations

import math

import pytest
import torch
from oracle import assert_gradient_close, assert_sums_close
from torch import Tensor
from under_test import DEVICE

import fastmed
from fastmed import ops, validation
from fastmed.backends import reference
from fastmed.contract import BASIC, HARD_TP, NLL_NEG, NLL_POS, RegionInput, RegionSums, Wanted
from fastmed.functional import confusion_counts, region_sums
from fastmed.metrics.functional import one_versus_rest

ACTIVATIONS = ("sigmoid", "softmax", None)


def run(operands: RegionInput, backend: str, gradient: Tensor, wanted: Wanted = Wanted()) -> tuple[Tensor, Tensor]:
    """Stacked sums of a backend and the gradient of the input."""
    stacked, _ = torch.ops.fastmed.region_sums(*operands, *wanted, None, backend)
    return stacked, torch.ops.fastmed.region_sums_backward(*operands, gradient, None, backend)


def check(operands: RegionInput, backend: str, wanted: Wanted = Wanted()) -> None:
    gradient = torch.randn(HARD_TP if wanted.soft else BASIC, *operands.input.shape[:2])
    stacked, grad_input = run(operands, backend, gradient, wanted)
    assert_sums_close(stacked, operands, wanted)
    assert_gradient_close(grad_input, operands, gradient)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("classes", [1, 2, 3, 9])
@pytest.mark.parametrize("voxels", [1, 7, 1025], ids="V{}".format)
def test_labels(region_backend: str, activation: str | None, classes: int, voxels: int) -> None:
    if activation == "softmax" and classes == 1:
        classes = 17
    input = torch.randn(2, classes, voxels) * 3
    target = torch.randint(classes, (2, voxels))
    check(validation.region_input(input, target, None, activation, None), region_backend)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(region_backend: str, activation: str | None, dtype: torch.dtype) -> None:
    input = (torch.randn(2, 4, 301) * 4).to(dtype)
    check(validation.region_input(input, torch.randint(4, (2, 301)), None, activation, None), region_backend)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64], ids=str
)
def test_integer_labels_of_any_width(region_backend: str, dtype: torch.dtype) -> None:
    target = torch.randint(3, (2, 33)).to(dtype)
    check(RegionInput(torch.randn(2, 3, 33), target, None, "softmax", None), region_backend)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("target_dtype", [torch.float32, torch.bool, torch.uint8], ids=str)
def test_dense_targets(region_backend: str, activation: str | None, target_dtype: torch.dtype) -> None:
    soft = torch.rand(2, 3, 130)
    target = soft if target_dtype == torch.float32 else (soft > 0.5).to(target_dtype)
    check(RegionInput(torch.randn(2, 3, 130), target, None, activation or "none", None), region_backend)


MASKS = {
    "bool": lambda: torch.rand(2, 1, 130) > 0.3,
    "weights": lambda: torch.rand(2, 1, 130) * (torch.rand(2, 1, 130) > 0.3),
    "per-class": lambda: torch.rand(2, 3, 130) * (torch.rand(2, 3, 130) > 0.3),
    "nothing": lambda: torch.zeros(2, 1, 130),
}


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("ignore_index", [None, 0, 255], ids="ignore {}".format)
def test_masks(region_backend: str, activation: str | None, mask: str, ignore_index: int | None) -> None:
    target = torch.randint(3, (2, 130), dtype=torch.uint8)
    if ignore_index == 255:
        target[torch.rand(2, 130) > 0.7] = 255
    operands = RegionInput(torch.randn(2, 3, 130), target, MASKS[mask](), activation or "none", ignore_index)
    check(operands, region_backend)


def test_ignored_value_of_a_dense_target(region_backend: str) -> None:
    target = torch.randint(2, (2, 3, 130)).float()
    target[torch.rand(2, 3, 130) > 0.7] = -1.0
    check(RegionInput(torch.randn(2, 3, 130), target, None, "sigmoid", -1), region_backend)


def test_removed_voxels_do_not_count_even_as_nan(region_backend: str) -> None:
    for activation in ("sigmoid", "softmax"):
        input, target = torch.randn(1, 3, 40), torch.randint(3, (1, 40))
        mask = torch.rand(1, 1, 40) > 0.4
        poisoned = input.masked_fill(~mask, torch.nan)
        gradient = torch.randn(BASIC, 1, 3)
        clean = run(RegionInput(input, target, mask, activation, None), region_backend, gradient)
        dirty = run(RegionInput(poisoned, target, mask, activation, None), region_backend, gradient)
        assert torch.equal(clean[0], dirty[0])
        assert torch.equal(clean[1], dirty[1])
        assert (dirty[1].masked_select(~mask) == 0).all()


LAYOUTS = {
    "channels_last_3d": lambda: torch.randn(2, 4, 5, 6, 7).to(memory_format=torch.channels_last_3d),
    "crop": lambda: torch.randn(2, 4, 7, 8, 9)[:, :, 1:6, 1:7, 1:8],
    "every other": lambda: torch.randn(2, 4, 5, 6, 14)[..., ::2],
    "transposed": lambda: torch.randn(2, 4, 7, 6, 5).transpose(2, 4),
    "channel slice": lambda: torch.randn(2, 9, 5, 6, 7)[:, 2:6],
    "expanded samples": lambda: torch.randn(1, 4, 5, 6, 7).expand(2, 4, 5, 6, 7),
    "expanded voxels": lambda: torch.randn(2, 4, 1, 1, 1).expand(2, 4, 5, 6, 7),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_layouts(region_backend: str, layout: str, activation: str) -> None:
    input = LAYOUTS[layout]().detach()
    target = torch.randint(4, (2, 7, 6, 5)).permute(0, 3, 2, 1)
    leaf = input.clone(memory_format=torch.contiguous_format).requires_grad_()
    plain = region_sums(leaf, target.contiguous(), activation=activation, backend=region_backend)
    strided = input.requires_grad_()
    sums = region_sums(strided, target, activation=activation, backend=region_backend)
    for a, b in zip(plain, sums, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
    (plain.tp.square().sum() + plain.nll_pos.sum()).backward()
    (sums.tp.square().sum() + sums.nll_pos.sum()).backward()
    torch.testing.assert_close(leaf.grad, strided.grad, rtol=1e-5, atol=1e-5)


def test_channels_last_is_read_and_written_without_a_copy(region_backend: str) -> None:
    input = torch.randn(2, 4, 5, 6, 7).to(memory_format=torch.channels_last_3d)
    operands = validation.region_input(input, torch.zeros(2, 5, 6, 7, dtype=torch.uint8), None, "softmax", None)
    assert operands.input.data_ptr() == input.data_ptr()
    _, grad_input = run(operands, region_backend, torch.randn(BASIC, 2, 4))
    assert grad_input.stride() == operands.input.stride()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_many_classes(region_backend: str, activation: str) -> None:
    input = torch.randn(1, 300, 35)
    check(RegionInput(input, torch.randint(300, (1, 35)), None, activation, None), region_backend)


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 3, 0)], ids=str)
def test_nothing_sums_to_zero(region_backend: str, shape: tuple[int, ...]) -> None:
    input = torch.randn(shape, requires_grad=True)
    target = torch.zeros(shape[0], shape[2], dtype=torch.int64)
    sums = region_sums(input, target, activation="softmax", backend=region_backend)
    assert all((field == 0).all() for field in sums if field is not None)
    assert sums.tp.shape == shape[:2]
    sums.tp.sum().backward()
    assert input.grad is not None
    assert input.grad.shape == shape


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_any_finite_logit_gives_finite_sums(region_backend: str, activation: str, dtype: torch.dtype) -> None:
    largest = min(torch.finfo(dtype).max, 1e30)
    input = torch.tensor([largest, -largest, 1e4, -1e4, 88.0, -88.0, 1e-30, 0.0]).to(dtype)
    input = torch.stack([input, input.flip(0), torch.zeros_like(input)])[None]
    operands = RegionInput(input, torch.randint(3, (1, 8)), None, activation, None)
    stacked, gradient = run(operands, region_backend, torch.ones(BASIC, 1, 3))
    assert stacked.isfinite().all()
    assert gradient.isfinite().all()
    assert_sums_close(stacked, operands)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "none"])
def test_nan_stays_in_its_sample(region_backend: str, activation: str) -> None:
    input, target = torch.randn(3, 2, 50), torch.randint(2, (3, 50))
    clean, clean_gradient = run(
        RegionInput(input, target, None, activation, None), region_backend, torch.ones(BASIC, 3, 2)
    )
    input[1, 1, 17] = torch.nan
    dirty, dirty_gradient = run(
        RegionInput(input, target, None, activation, None), region_backend, torch.ones(BASIC, 3, 2)
    )
    assert dirty[1, 1, 1].isnan()
    assert torch.equal(clean[:, [0, 2]], dirty[:, [0, 2]])
    assert torch.equal(clean_gradient[[0, 2]], dirty_gradient[[0, 2]])


def test_minus_infinity_switches_a_class_off(region_backend: str) -> None:
    input = torch.randn(1, 3, 20)
    input[:, 2] = -torch.inf
    target = torch.randint(2, (1, 20))
    stacked, gradient = run(RegionInput(input, target, None, "softmax", None), region_backend, torch.ones(BASIC, 1, 3))
    pair, pair_gradient = run(
        RegionInput(input[:, :2], target, None, "softmax", None), region_backend, torch.ones(BASIC, 1, 2)
    )
    torch.testing.assert_close(stacked[:, :, :2], pair, rtol=1e-6, atol=0)
    assert (stacked[:3, :, 2] == 0).all()
    torch.testing.assert_close(gradient[:, :2], pair_gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64], ids=str)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_labels_out_of_range(region_backend: str, dtype: torch.dtype, activation: str) -> None:
    input = torch.randn(2, 3, 40)
    target = torch.randint(3, (2, 40)).to(dtype)
    target[1, 5], target[1, 6], target[1, 7] = -7, torch.iinfo(dtype).max, 3
    # By default where looking costs nothing; on a GPU on request.
    validate = None if DEVICE == "cpu" else True
    with pytest.raises(ValueError, match=r"target: 3 labels are out of range, allowed are 0 to 2"):
        region_sums(input, target, activation=activation, validate=validate, backend=region_backend)
    sums = region_sums(input, target, activation=activation, validate=False, backend=region_backend)
    assert sums.tp[0].isfinite().all()
    assert sums.tp[1].isnan().all()
    target[1, 5], target[1, 7] = target[1, 6], 0
    ignored = region_sums(input, target, activation=activation, ignore_index=int(target[1, 6]), backend=region_backend)
    assert ignored.weight.tolist() == [[40.0] * 3, [38.0] * 3]


def label_table(*shape: int) -> Tensor:
    """Labels 0 and 1, soft labels, missing (NaN) and uncertain (-1) ones."""
    target = torch.where(torch.rand(shape) < 0.2, torch.rand(shape), torch.randint(2, shape).float())
    target[torch.rand(shape) < 0.1] = torch.nan
    target[torch.rand(shape) < 0.1] = -1.0
    return target


POLICIES = {"plain": {}, "smoothed": {"label_smoothing": 0.1}, "focal": {"label_smoothing": 0.1, "gamma": 2.0}}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("layout", ["channels first", "channels last", "strided"])
@pytest.mark.parametrize("classes", [1, 3, 14, 70])
def test_missing_and_uncertain_labels(region_backend: str, classes: int, layout: str, policy: str) -> None:
    input, target = torch.randn(2, classes, 45) * 4, label_table(2, classes, 45)
    uncertain = torch.tensor([torch.nan, 0.0, 1.0, 0.7]).repeat(18)[:classes]
    mask = (torch.rand(2, classes, 45) * (torch.rand(2, classes, 45) < 0.8)) if classes == 3 else None
    if layout == "channels last":
        input = input.transpose(1, 2).contiguous().transpose(1, 2)
        target = target.to(torch.float16).transpose(1, 2).contiguous().transpose(1, 2)
    elif layout == "strided":
        input = torch.stack([input, input], -1).transpose(1, 2).contiguous().transpose(1, 2)[..., 0]
    check(RegionInput(input, target, mask, "sigmoid", None, uncertain, **POLICIES[policy]), region_backend)


@pytest.mark.parametrize("activation", ["sigmoid", "none"])
def test_channels_last_in_many_chunks(region_backend: str, activation: str) -> None:
    """More voxels than one work item takes, and than fill the last tile."""
    voxels = 70_001 if region_backend == "numba" else 701
    input, target = torch.randn(1, voxels, 2).transpose(1, 2), torch.randint(2, (1, voxels, 2)).transpose(1, 2)
    check(RegionInput(input, target.to(torch.uint8), torch.rand(1, 1, voxels), activation), region_backend)


def test_rows_of_a_table_are_the_voxels_of_one_sample(region_backend: str) -> None:
    logits, target = torch.randn(9, 4), label_table(9, 4)
    uncertain, mask = torch.tensor([0.0, 1.0, 0.5, torch.nan]), torch.rand(9, 4)
    table = RegionInput(logits, target, mask, "sigmoid", None, uncertain)
    gradient = torch.randn(BASIC, 1, 4)
    sums, by_logits = run(table, region_backend, gradient)
    turned = [tensor.t().unsqueeze(0) for tensor in (logits, target, mask)]
    expected, expected_gradient = run(RegionInput(*turned, "sigmoid", None, uncertain), region_backend, gradient)
    assert torch.equal(sums, expected)
    assert torch.equal(by_logits, expected_gradient[0].t())


@pytest.mark.parametrize("value", [-2.0, 1.5, float("inf")])
@pytest.mark.parametrize("layout", ["table", "volume"])
def test_an_unknown_label_is_named(region_backend: str, value: float, layout: str) -> None:
    target = label_table(2, 3, 50)
    target[1, 2, 7] = target[1, 1, 8] = value
    operands = RegionInput(torch.randn(2, 3, 50), target, None, "sigmoid", None, torch.zeros(3))
    if layout == "table":
        operands = operands._replace(input=operands.input[1].t(), target=target[1].t())
    sums, _ = torch.ops.fastmed.region_sums(*operands, *Wanted(), False, region_backend)
    assert sums[:, -1].isnan().all()
    assert layout == "table" or sums[:, 0].isfinite().all()
    unseen = (target >= 0) & (target <= 1) | target.isnan() | (target == -1)
    hidden = operands._replace(mask=unseen[1].t() if layout == "table" else unseen)
    sums, _ = torch.ops.fastmed.region_sums(*hidden, *Wanted(), True, region_backend)
    assert sums.isfinite().all()
    with pytest.raises(ValueError, match=rf"target: got {value:g} for task 1 \(2 such values in all\), allowed are"):
        torch.ops.fastmed.region_sums(*operands, *Wanted(), True, region_backend)


def test_sums_without_nll(region_backend: str) -> None:
    operands = RegionInput(torch.randn(2, 3, 50), torch.randint(3, (2, 50)), None, "softmax", None)
    stacked, _ = run(operands, region_backend, torch.randn(BASIC, 2, 3), Wanted(nll=False))
    assert_sums_close(stacked, operands, Wanted(nll=False))
    sums = region_sums(operands.input, operands.target, activation="softmax", nll=False, backend=region_backend)
    assert sums.nll_pos is None
    assert sums.nll_neg is None


def test_sums_of_pieces_add(region_backend: str) -> None:
    input, target = torch.randn(2, 4, 96), torch.randint(4, (2, 96))
    whole = region_sums(input, target, activation="softmax", backend=region_backend)
    left = region_sums(input[..., :40], target[:, :40], activation="softmax", backend=region_backend)
    right = region_sums(input[..., 40:], target[:, 40:], activation="softmax", backend=region_backend)
    both = left + right
    assert both.nll_neg is None
    for name in ("tp", "pred", "pred_sq", "target", "nll_pos", "weight"):
        torch.testing.assert_close(getattr(both, name), getattr(whole, name), rtol=4e-6, atol=1e-6)


def test_same_bits_from_run_to_run(region_backend: str) -> None:
    operands = RegionInput(torch.randn(1, 3, 4000), torch.randint(3, (1, 4000)), None, "softmax", None)
    gradient = torch.randn(BASIC, 1, 3)
    first = run(operands, region_backend, gradient)
    for _ in range(3):
        again = run(operands, region_backend, gradient)
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])


def test_a_custom_tversky_trains(region_backend: str) -> None:
    """The five lines of the README, on a problem where the answer is known."""

    def tversky(logits: Tensor, labels: Tensor, alpha: float = 0.3, beta: float = 0.7) -> Tensor:
        s = region_sums(logits, labels, activation="softmax", nll=False, backend=region_backend)
        fp, fn = s.pred - s.tp, s.target - s.tp
        return (1 - s.tp / (s.tp + alpha * fp + beta * fn)).mean()

    labels = torch.randint(3, (2, 6, 5, 4))
    logits = torch.zeros(2, 3, 6, 5, 4, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.5)
    first = tversky(logits, labels).item()
    for _ in range(20):
        optimiser.zero_grad()
        tversky(logits, labels).backward()
        optimiser.step()
    assert first > 0.5
    assert tversky(logits, labels).item() < 0.05
    assert (logits.argmax(1) == labels).all()


def test_float64_runs_on_the_reference() -> None:
    input = torch.randn(1, 2, 9, dtype=torch.float64)
    sums = region_sums(input, torch.randint(2, (1, 9)), activation="softmax")
    assert sums.tp.dtype == torch.float64
    with pytest.raises(fastmed.BackendError, match=r"numba: (takes logits in float32|runs on cpu|cannot be imported)"):
        region_sums(input, torch.randint(2, (1, 9)), activation="softmax", backend="numba")


def labels(classes: int, voxels: int) -> Tensor:
    return torch.randint(classes, (2, voxels))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("dense", [False, True], ids=["labels", "dense"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_soft_and_hard_statistics(region_backend: str, activation: str | None, dense: bool, masked: bool) -> None:
    input = torch.randn(2, 5, 1301) * 3
    target = torch.rand(2, 5, 1301).masked_fill(torch.rand(2, 5, 1301) < 0.2, 0.5) if dense else labels(5, 1301)
    mask = torch.rand(2, 1, 1301) * (torch.rand(2, 1, 1301) < 0.7) if masked else None
    operands = RegionInput(input, target, mask, activation or "none", None)
    wanted = Wanted(nll=activation is not None, soft=True, hard=True)
    check(operands, region_backend, wanted)
    stacked, _ = run(operands, region_backend, torch.zeros(BASIC, 2, 5), wanted)
    exact = reference.region_sums(operands, wanted)[0]
    assert torch.equal(stacked[HARD_TP:].double(), exact[HARD_TP:])
    assert (exact[HARD_TP] > 0).all()


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dense", [False, True], ids=["labels", "dense"])
def test_softmax_focal_and_smoothed(region_backend: str, gamma: float, smoothing: float, dense: bool) -> None:
    input = torch.randn(2, 5, 1301) * torch.tensor([0.1, 1.0, 5.0, 20.0, 60.0]).view(1, 5, 1)
    target = torch.rand(2, 5, 1301) if dense else labels(5, 1301)
    operands = RegionInput(input, target, None, "softmax", None, label_smoothing=smoothing, gamma=gamma)
    check(operands, region_backend)


@pytest.mark.parametrize("classes", [2, 40])
def test_counts_are_those_of_the_confusion_matrix(region_backend: str, classes: int) -> None:
    input, target = torch.randn(2, classes, 9, 10, 11), torch.randint(classes, (2, 9, 10, 11))
    # Equal logits: the lowest class wins.
    input[:, 1] = input[:, 0]
    target[:, 0] = 255
    sums = region_sums(input, target, activation="softmax", ignore_index=255, hard_counts=True, backend=region_backend)
    matrix = confusion_counts(input, target, classes, ignore_index=255)
    expected = torch.stack(one_versus_rest(matrix), dim=-1)
    assert sums.counts is not None
    assert sums.counts.dtype == torch.int64
    assert torch.equal(sums.counts, expected)


def test_counts_of_a_sigmoid_are_those_of_its_threshold(region_backend: str) -> None:
    input, target = torch.randn(2, 3, 700), torch.rand(2, 3, 700) < 0.3
    input[0, :, 5] = torch.nan
    sums = region_sums(input, target, activation="sigmoid", hard_counts=True, backend=region_backend)
    assert sums.counts is not None
    assert torch.equal(sums.counts, confusion_counts(input, target, 3, threshold=0.0))


def test_counts_beyond_what_float32_holds(region_backend: str) -> None:
    if region_backend == "triton" and DEVICE == "cpu":
        pytest.skip("Triton's interpreter would take minutes")
    voxels = 2**24 + 1
    input = torch.ones(1).expand(1, 1, voxels)
    sums = region_sums(
        input, torch.ones(1, 1, voxels, dtype=torch.bool), activation=None, nll=False, hard_counts=True,
        backend=region_backend,
    )  # fmt: skip
    assert sums.counts is not None
    assert sums.counts.tolist() == [[[0, 0, 0, voxels]]]


def test_a_nan_is_predicted_as_no_class(region_backend: str) -> None:
    input = torch.zeros(1, 2, 3)
    input[0, 1, 1] = torch.nan
    sums = region_sums(input, torch.tensor([[0, 1, 1]]), activation="softmax", hard_counts=True, backend=region_backend)
    assert sums.counts is not None
    assert sums.counts.tolist() == [[[1, 1, 0, 1], [1, 0, 2, 0]]]


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_a_sure_logit_costs_nothing_where_it_is_right(region_backend: str, gamma: float) -> None:
    """Infinite logits of a sigmoid have their limit where it exists."""
    input, target = torch.tensor([[[torch.inf], [-torch.inf]]]), torch.tensor([[[1.0], [0.0]]])
    sums = region_sums(input, target, activation="sigmoid", gamma=gamma, backend=region_backend)
    assert sums.nll_pos is not None
    assert sums.nll_neg is not None
    assert sums.nll_pos[0, 0] == 0.0
    assert sums.nll_neg[0, 1] == 0.0
    operands = RegionInput(input, target, None, "sigmoid", None)
    by = torch.zeros(BASIC, 1, 2)
    by[NLL_POS, 0, 0] = by[NLL_NEG, 0, 1] = 1.0
    gradient = torch.ops.fastmed.region_sums_backward(*operands, by, None, region_backend)
    assert (gradient == 0).all()


@pytest.mark.parametrize("logits", [[torch.inf, 1.0, 2.0], [-torch.inf] * 3], ids=["inf", "all -inf"])
def test_without_a_probability_no_class_is_predicted(region_backend: str, logits: list[float]) -> None:
    input = torch.tensor(logits).view(1, 3, 1)
    sums = region_sums(input, torch.tensor([[0]]), activation="softmax", hard_counts=True, backend=region_backend)
    assert sums.pred.isnan().all()
    assert sums.counts is not None
    assert sums.counts.tolist() == [[[0, 0, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("level", [1e3, 1e30])
def test_the_level_of_the_logits_does_not_matter(region_backend: str, level: float, dtype: torch.dtype) -> None:
    """Equal logits are a third each, however large they are, also against a label map without weights."""
    input = torch.full((1, 3, 40), level, dtype=dtype)
    sums = region_sums(input, torch.randint(3, (1, 40)), activation="softmax", backend=region_backend)
    assert sums.nll_pos is not None
    torch.testing.assert_close(sums.nll_pos.sum().item(), 40 * math.log(3), rtol=1e-5, atol=0)


@pytest.mark.parametrize("classes", [2, 3, 6, 20])
def test_any_class_may_be_far_above_the_others(region_backend: str, classes: int) -> None:
    """The exponentials are those of differences from the largest logit, whichever class has it."""
    for highest in range(classes):
        input = torch.randn(1, classes, 20)
        input[:, highest] += 500.0
        target = torch.randint(classes, (1, 20))
        check(RegionInput(input, target, None, "softmax"), region_backend)


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_ignored_voxel_does_not_count_even_as_nan(region_backend: str, value: float, classes: int) -> None:
    input, target = torch.randn(1, classes, 40), torch.randint(classes, (1, 40))
    target[:, ::7] = 255
    spoilt = input.clone()
    spoilt[:, 1, ::7] = value
    by = torch.randn(BASIC, 1, classes)
    clean = run(RegionInput(input, target, None, "softmax", 255), region_backend, by)
    dirty = run(RegionInput(spoilt, target, None, "softmax", 255), region_backend, by)
    for a, b in zip(clean, dirty, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("classes", [3, 9, 20])
def test_gradients_of_several_passes_add(region_backend: str, classes: int, layout: str, dtype: torch.dtype) -> None:
    dense = classes == 9
    input, labels = torch.randn(2, classes, 70).to(dtype), torch.randint(classes, (2, 70))
    if layout == "channels last":
        input = input.movedim(1, -1).contiguous().movedim(-1, 1)
    target = torch.rand(2, classes, 70) if dense else labels
    mask = torch.rand(2, 1, 70) if dense else None
    by = torch.randn(3, HARD_TP, 2, classes)
    activations, wanted = ("softmax", "sigmoid", "softmax"), (Wanted(), Wanted(nll=False, soft=True), Wanted())
    passes = [
        RegionInput(input, target, mask, name, label_smoothing=0.1 * i, gamma=2.0 * i)
        for i, name in enumerate(activations)
    ]

    def gradient(sums: list[RegionSums], coefficients: Tensor) -> Tensor:
        loss = torch.zeros(())
        for of_pass, of_fields in zip(sums, coefficients, strict=True):
            for field, coefficient in zip(of_pass, of_fields, strict=False):
                loss = loss if field is None else loss + (field * coefficient).sum()
        return torch.autograd.grad(loss, leaf)[0]

    leaf = input.clone().requires_grad_()
    passes = [operands._replace(input=leaf) for operands in passes]
    together = gradient(ops.region_passes(passes, wanted, None, region_backend), by)
    apart = [
        gradient([ops.region_sums(passes[i], wanted[i], None, region_backend)], by[i : i + 1])
        for i in range(len(passes))
    ]
    assert together.stride() == input.stride()
    scale = torch.stack(apart).abs().amax().item()
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(together.float(), torch.stack(apart).float().sum(0), rtol=0, atol=4 * ulp * scale)
