"""The Triton backend: its two-stage forward, its fused losses, and the layouts its kernels read in place.

Runs in Triton's interpreter (TRITON_INTERPRET=1, set before the first import), or on a GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from fastmed import formulas, ops
from fastmed.backends import gpu_triton, reference
from fastmed.backends.gpu_triton import launch
from fastmed.contract import (
    BASIC,
    NLL_NEG,
    NLL_POS,
    PRED_SQ,
    STATISTICS,
    TP,
    LossWeights,
    RatioLinear,
    RegionInput,
    Request,
    Wanted,
)

pytestmark = pytest.mark.skipif(
    gpu_triton.unavailable_reason() is not None, reason="needs a GPU, or TRITON_INTERPRET=1 before the import"
)


def test_an_old_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triton.__version__", "3.2.0")
    assert (gpu_triton.unavailable_reason() or "").startswith("needs Triton 3.3 or newer, not 3.2.0")


DEVICE = "cpu" if launch.INTERPRETED else "cuda"
# Not a multiple of a tile (128 voxels in the interpreter), and more than one tile for some program.
VOXELS = 301
# Operands for each of the three schemes.
SCHEMES = [("sigmoid", 2), ("softmax", 3), ("softmax", 17)]

# Sums: float32 products summed in float32 over at most 64 tiles, then in float64. Each term carries a few
# roundings (2^-24 = 6e-8), the approximate functions of the GPU 2^-22 each: four of them.
SUMS = 1e-6
# Gradients: a short expression of float32 terms with cancellation, relative to the largest of the tensor.
GRADIENT = 2e-6


def make(
    classes: int,
    activation: str = "softmax",
    *,
    dense: bool = False,
    dtype: torch.dtype = torch.float32,
    target_dtype: torch.dtype = torch.uint8,
    mask: str | None = None,
    ignore_index: int | None = None,
    samples: int = 2,
    voxels: int = VOXELS,
) -> RegionInput:
    """Random operands; soft targets where the type allows."""
    generator = torch.Generator().manual_seed(classes + voxels)
    input = (3.0 * torch.randn(samples, classes, voxels, generator=generator)).to(DEVICE, dtype)
    if dense:
        target = torch.rand(samples, classes, voxels, generator=generator)
        target = (target if target_dtype.is_floating_point else target.round()).to(DEVICE, target_dtype)
    else:
        target = torch.randint(classes, (samples, voxels), generator=generator).to(DEVICE, target_dtype)
    weight = None
    if mask is not None:
        shape = (samples, classes if mask == "class" else 1, voxels)
        weight = torch.rand(shape, generator=generator).to(DEVICE)
        weight = weight > 0.3 if mask == "bool" else weight * (weight > 0.3)
    return RegionInput(input, target, weight, activation, ignore_index)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Agreement within a tolerance relative to the largest magnitude, and NaN at the same places."""
    scale = max(expected.double().nan_to_num().abs().flatten().tolist(), default=0.0) or 1.0
    torch.testing.assert_close(
        actual.double() / scale, expected.double() / scale, rtol=0, atol=tolerance, equal_nan=True
    )


def check_sums(operands: RegionInput) -> None:
    """Every statistic against the reference in float64."""
    actual, invalid = gpu_triton.region_sums(operands, Wanted())
    exact = operands._replace(input=operands.input.double())
    expected, expected_invalid = reference.region_sums(exact, Wanted())
    for row in range(expected.shape[0]):
        assert_close(actual[row], expected[row], SUMS)
    assert torch.equal(invalid, expected_invalid)


def check_gradient(operands: RegionInput) -> None:
    """The backward pass against the reference in float64, to the rounding of the input's type."""
    gradient = torch.randn(BASIC, *operands.input.shape[:2], generator=torch.Generator().manual_seed(0)).to(DEVICE)
    scale = torch.tensor(1.7, device=DEVICE)
    actual = gpu_triton.region_sums_backward(operands, gradient, scale)
    exact = operands._replace(input=operands.input.double())
    expected = reference.region_sums_backward(exact, gradient.double(), scale)
    assert actual.dtype == operands.input.dtype
    rounding = 0.0 if actual.dtype == torch.float32 else torch.finfo(actual.dtype).eps
    assert_close(actual, expected, GRADIENT + rounding)


def check(operands: RegionInput) -> None:
    """Forward and backward."""
    check_sums(operands)
    check_gradient(operands)


@contextlib.contextmanager
def counted_launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the kernels that run."""
    names: list[str] = []
    run = launch.Launch.run

    def counting(self: launch.Launch) -> None:
        names.append(self.kernel.__name__)
        run(self)

    with monkeypatch.context() as patch:
        patch.setattr(launch.Launch, "run", counting)
        yield names


@pytest.mark.parametrize("classes", [2, 3, 4, 8, 9, 17])
def test_softmax_from_labels(classes: int) -> None:
    check(make(classes, samples=1 if classes > 4 else 2))


@pytest.mark.parametrize("classes", [4, 9])
def test_softmax_with_soft_targets_and_weights_of_each_class(classes: int) -> None:
    check(make(classes, dense=True, target_dtype=torch.float32, mask="class", voxels=140))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("target_dtype", [torch.uint8, torch.float32, torch.bool])
def test_sigmoid_with_dense_targets(classes: int, target_dtype: torch.dtype) -> None:
    check(make(classes, "sigmoid", dense=True, target_dtype=target_dtype))


def test_probabilities() -> None:
    operands = make(3, "none", dense=True)
    check(operands._replace(input=operands.input.sigmoid()))


def test_sigmoid_from_labels() -> None:
    check(make(3, "sigmoid", mask="bool", ignore_index=1))


@pytest.mark.parametrize(
    ("activation", "classes", "mask"),
    [
        *[("sigmoid", 2, mask) for mask in ("bool", "float", "class")],
        *[("softmax", 3, mask) for mask in ("bool", "float", "class")],
        ("softmax", 9, "class"),
        ("softmax", 17, "float"),
    ],
)
def test_masks(activation: str, classes: int, mask: str) -> None:
    check(make(classes, activation, mask=mask, ignore_index=0, voxels=140))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("activation", "classes"), [("sigmoid", 1), ("softmax", 4)])
def test_half_precision(activation: str, classes: int, dtype: torch.dtype) -> None:
    check(make(classes, activation, dense=activation == "sigmoid", dtype=dtype, voxels=140))


def channels_last(operands: RegionInput) -> RegionInput:
    """The same operands with the classes of a voxel side by side."""
    return operands._replace(input=operands.input.transpose(1, 2).contiguous().transpose(1, 2))


# The rows of 144 voxels begin where vectors may, those of 140 do not.
@pytest.mark.parametrize(
    ("classes", "dtype", "voxels", "tile"),
    [
        (4, torch.float32, 144, (4, 1, 4)),
        (9, torch.float32, 144, (2, 1, 2)),
        (9, torch.bfloat16, 144, (4, 1, 4)),
        (16, torch.float16, 272, (4, 1, 4)),
        (4, torch.bfloat16, 140, (4, 1, 1)),
        (9, torch.bfloat16, 140, (1, 1, 1)),
    ],
)
def test_voxels_of_a_load_are_treated_in_turn(
    classes: int, dtype: torch.dtype, voxels: int, tile: tuple[int, int, int]
) -> None:
    operands = make(classes, dtype=dtype, voxels=voxels, ignore_index=1)
    assert launch.few_tile(operands) == tile
    check(operands)


@pytest.mark.parametrize(
    ("classes", "dtype", "tile"),
    [
        (2, torch.bfloat16, (4, 2, 4)),
        (4, torch.float32, (1, 4, 1)),
        (8, torch.float16, (1, 8, 1)),
        (8, torch.float32, (1, 4, 1)),
        (12, torch.bfloat16, (1, 4, 1)),
        (3, torch.bfloat16, (1, 1, 1)),
    ],
)
def test_channels_last_classes_are_read_together(classes: int, dtype: torch.dtype, tile: tuple[int, int, int]) -> None:
    operands = channels_last(make(classes, dtype=dtype, mask="float", voxels=144))
    assert launch.few_tile(operands) == tile
    check(operands)


def test_channels_last_with_targets_and_weights_of_each_class() -> None:
    operands = channels_last(make(2, dense=True, target_dtype=torch.float32, mask="class", voxels=144))
    assert launch.few_tile(operands) == (1, 2, 1)
    check(operands)


@pytest.mark.parametrize(
    "target_dtype",
    [torch.bool, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64],
)
def test_labels_of_every_integer_type(target_dtype: torch.dtype) -> None:
    operands = make(2, voxels=140)
    sums, _ = gpu_triton.region_sums(operands._replace(target=operands.target.to(target_dtype)), Wanted())
    assert torch.equal(sums, gpu_triton.region_sums(operands, Wanted())[0])


def test_strides_are_read_in_place() -> None:
    """Channels last, expanded and sliced operands."""
    plain = make(3, voxels=140)
    check(channels_last(plain))
    check(plain._replace(input=plain.input[:1].expand(2, -1, -1)))
    check(plain._replace(input=plain.input[:, :, ::2], target=plain.target[:, 1::2]))


@pytest.mark.parametrize(("activation", "classes"), SCHEMES)
def test_labels_out_of_range_spoil_their_sample_alone(activation: str, classes: int) -> None:
    operands = make(classes, activation, target_dtype=torch.int16, voxels=20)
    operands.target[1, 7:10] = torch.tensor([-1, 100, -300])
    check_sums(operands)
    sums, invalid = gpu_triton.region_sums(operands, Wanted())
    assert invalid.tolist() == [0, 3]
    assert sums[:, 1].isnan().all()
    value, _, _ = gpu_triton.region_loss(operands, RatioLinear(lambda_nll=1.0), LossWeights())
    assert value.isnan()


def test_a_label_beyond_32_bits_is_out_of_range() -> None:
    operands = make(3, target_dtype=torch.int64, voxels=140)
    operands.target[0, 0] = 2**32 + 1
    assert gpu_triton.region_sums(operands, Wanted(nll=False))[1].tolist() == [1, 0]


@pytest.mark.parametrize(("activation", "classes"), SCHEMES)
def test_nan_spoils_its_sample_alone_and_not_where_masked(activation: str, classes: int) -> None:
    operands = make(classes, activation, mask="bool", voxels=20)
    assert operands.mask is not None
    operands.mask[0, 0, 5] = False
    operands.mask[1, 0, 5] = True
    operands.input[:, 0, 5] = torch.nan
    sums, _ = gpu_triton.region_sums(operands, Wanted())
    assert sums[:, 0].isfinite().all()
    assert sums[PRED_SQ, 1, 0].isnan()
    dx = gpu_triton.region_sums_backward(operands, torch.ones(BASIC, 2, classes, device=DEVICE), None)
    assert (dx[0, :, 5] == 0).all()


@pytest.mark.parametrize("classes", [3, 17])
def test_minus_infinity_is_probability_zero(classes: int) -> None:
    operands = make(classes, voxels=20)
    operands.target[:] = 0
    operands.input[:, 1:, ::3] = -torch.inf
    check(operands)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_logits_of_any_finite_magnitude(sign: float) -> None:
    """Products with log2(e) overflow here; differences do not."""
    operands = make(3, dtype=torch.bfloat16, voxels=140)
    operands.input[:] = sign * torch.finfo(torch.bfloat16).max
    sums, _ = gpu_triton.region_sums(operands, Wanted())
    assert_close(sums[NLL_POS], sums[TP] * 3.0 * torch.log(torch.tensor(3.0)).item(), SUMS)


def test_small_losses_keep_their_digits() -> None:
    """The product of (1 + t) less one keeps t below the rounding of 1, where the plain product loses all."""
    operands = make(1, "sigmoid", dense=True)
    logits = torch.where(operands.target > 0, 20.0, -20.0)
    sums, _ = gpu_triton.region_sums(operands._replace(input=logits), Wanted())
    expected = torch.nn.functional.softplus(torch.tensor(-20.0, dtype=torch.float64)) * VOXELS
    torch.testing.assert_close(
        sums[NLL_POS, :, 0] + sums[NLL_NEG, :, 0], expected.repeat(2).to(DEVICE), rtol=SUMS, atol=0
    )


LOSSES = {
    "dice": RatioLinear(),
    "plain dice": RatioLinear(squared=False),
    "pooled": RatioLinear(pool_batch=True),
    "without background": RatioLinear(first_class=1),
    "pooled without background": RatioLinear(first_class=1, pool_batch=True, squared=False),
    "tversky": RatioLinear(1.0, 0.0, 0.3, 0.7, squared=False),
    "jaccard": RatioLinear(1.0, -1.0, 1.0, 1.0),
    "compound, elements": RatioLinear(lambda_nll=0.7, nll_mean="elements"),
    "compound, voxels": RatioLinear(lambda_nll=0.7, nll_mean="voxels"),
    "compound, target": RatioLinear(lambda_nll=0.7, nll_mean="target"),
    "nll alone": RatioLinear(lambda_ratio=0.0, lambda_nll=1.0),
    "sums": RatioLinear(lambda_nll=0.7, mean=False),
}


def check_loss(operands: RegionInput, loss: RatioLinear, weights: LossWeights) -> None:
    """The fused loss and its coefficients against the formulas on sums in float64."""
    value, gradient, _ = gpu_triton.region_loss(operands, loss, weights)
    wanted = Wanted(nll=loss.lambda_nll != 0)
    exact = operands._replace(input=operands.input.double())
    sums = ops.unstack(reference.region_sums(exact, wanted)[0], None, operands.activation, wanted)
    assert value.dtype == gradient.dtype == torch.float32
    # A loss is a ratio of sums, each within SUMS, computed in float64 and rounded once.
    assert_close(value, formulas.ratio_linear(sums, loss, weights), 3 * SUMS)
    assert_close(gradient, formulas.ratio_linear_gradient(sums, loss, weights), 3 * SUMS)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_fused_loss(loss: RatioLinear) -> None:
    weights = LossWeights(*torch.tensor([[0.5, 1.0, 2.0], [3.0, 1.0, 0.2], [1.5, 0.1, 1.0]], device=DEVICE))
    check_loss(make(3, voxels=140), loss, LossWeights())
    check_loss(make(3, voxels=140), loss, weights)
    check_loss(make(3, "sigmoid", dense=True, voxels=140), loss, weights)


def test_fused_loss_with_weights_soft_targets_and_expanded_class_weights() -> None:
    weights = LossWeights(nll_pos=torch.tensor(2.0, device=DEVICE).expand(3))
    for nll_mean in ("elements", "voxels", "target"):
        loss = RatioLinear(lambda_nll=0.7, nll_mean=nll_mean)
        soft = make(3, dense=True, target_dtype=torch.float32, mask="float", voxels=140)
        check_loss(soft, loss, weights)
        check_loss(make(3, ignore_index=2, voxels=140), loss, weights)


def test_fused_loss_of_many_rows() -> None:
    """More samples, and more classes, than one tile of the second stage."""
    check_loss(make(3, "sigmoid", dense=True, samples=19, voxels=4), LOSSES["compound, elements"], LossWeights())
    check_loss(make(70, samples=1, voxels=3), LOSSES["pooled without background"], LossWeights())


def test_all_ignored_has_no_cross_entropy_and_no_gradient() -> None:
    operands = make(3, ignore_index=1, voxels=140)
    operands.target[:] = 1
    check_loss(operands, LOSSES["compound, elements"], LossWeights())
    _, gradient, _ = gpu_triton.region_loss(operands, LOSSES["compound, elements"], LossWeights())
    assert (gpu_triton.region_sums_backward(operands, gradient, None) == 0).all()


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 3, 0), (0, 3, 0)])
def test_nothing_to_sum(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _, voxels = shape
    operands = RegionInput(
        torch.zeros(shape, device=DEVICE),
        torch.zeros((samples, voxels), dtype=torch.uint8, device=DEVICE),
        None,
        "softmax",
        None,
    )
    with counted_launches(monkeypatch) as names:
        sums, invalid = gpu_triton.region_sums(operands, Wanted())
        dx = gpu_triton.region_sums_backward(operands, torch.zeros(BASIC, samples, 3, device=DEVICE), None)
    assert names == []
    assert sums.shape == (STATISTICS, samples, 3)
    assert (sums == 0).all()
    assert invalid.tolist() == [0] * samples
    assert dx.shape == shape
    check_loss(operands, RatioLinear(pool_batch=True, lambda_nll=1.0), LossWeights())


@pytest.mark.parametrize(("activation", "classes"), SCHEMES)
def test_two_launches_forward_and_one_backward(activation: str, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    operands = make(classes, activation, dense=activation == "sigmoid", samples=1, voxels=20)
    operands.input.requires_grad_()
    with counted_launches(monkeypatch) as names:
        value, _ = torch.ops.fastmed.region_loss(
            *operands, None, None, None, RatioLinear(lambda_nll=1.0).numbers(), False, "triton"
        )
        forward = list(names)
        value.backward()
    assert [name.split("_kernel_")[0] for name in forward] == ["region_fwd"] * 2
    assert forward[1] == "region_fwd_kernel_finalise"
    assert [name.split("_kernel_")[0] for name in names[2:]] == ["region_bwd"]
    assert operands.input.grad is not None


@pytest.mark.parametrize(("activation", "classes"), SCHEMES)
def test_results_are_the_same_bits_with_spoiled_scratch(activation: str, classes: int) -> None:
    """Fresh memory holds NaN here: whatever a kernel reads, it or its predecessor wrote."""
    operands = make(classes, activation, mask="float", voxels=20)
    loss = RatioLinear(lambda_nll=1.0)
    plain = gpu_triton.region_loss(operands, loss, LossWeights())
    plain_dx = gpu_triton.region_sums_backward(operands, plain[1], None)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        spoiled = gpu_triton.region_loss(operands, loss, LossWeights())
        spoiled_dx = gpu_triton.region_sums_backward(operands, spoiled[1], None)
    finally:
        torch.use_deterministic_algorithms(False)
    for first, second in zip((*plain, plain_dx), (*spoiled, spoiled_dx), strict=True):
        assert torch.equal(first, second)


def test_a_program_visits_no_more_tiles_than_its_product_holds() -> None:
    voxels = 2**33 + 5
    operands = RegionInput(
        torch.empty(1, 1, 1, device="meta").expand(1, 1, voxels),
        torch.empty(1, 1, 1, dtype=torch.uint8, device="meta").expand(1, 1, voxels),
        None,
        "sigmoid",
        None,
    )
    forward, _ = launch.partial_sums(operands, launch.statistics_of_sums(operands, Wanted()), processors=132)
    rows, programs = forward.grid
    assert rows == 1
    assert programs * forward.arguments["BLOCK"] * launch.TILES_PER_PROGRAM >= voxels


def test_says_what_it_does_not_take() -> None:
    accepted = Request("region_sums", DEVICE, torch.bfloat16, torch.uint8, 4)
    assert gpu_triton.unsupported_reasons(accepted) == []
    (reason,) = gpu_triton.unsupported_reasons(accepted._replace(dtype=torch.float64))
    assert "float64" in reason
