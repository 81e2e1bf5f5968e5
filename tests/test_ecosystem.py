"""What users of torch do with a loss besides calling it: compile, transform, export, scale, script, copy."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, vjp, vmap
from torch.utils.checkpoint import checkpoint

import fastmed
from fastmed import dispatch
from fastmed.compat.torchxrayvision import MultiTaskLoss
from fastmed.contract import BASIC, HARD_TP, RatioLinear, RegionInput, Request, Wanted
from fastmed.functional import confusion_counts, rank_statistics, region_sums, score_histogram

pytestmark = [
    # A batching rule would run the samples one after another too; and torch's own forward mode scripts functions.
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
    pytest.mark.filterwarnings("ignore:.*torch.jit"),
]

CLASSES = 3
VOLUME = (2, CLASSES, 5, 4, 3)
# One of each way that a loss goes: fused, open, several terms, and a table with its gradient at hand.
LOSSES = {
    "fused": fastmed.DiceCELoss,
    "open": lambda: fastmed.GeneralizedDiceLoss("softmax"),
    "compound": lambda: fastmed.CompoundLoss([fastmed.DiceLoss(), fastmed.FocalLoss()], [0.5, 2.0]),
    "several passes": lambda: fastmed.CompoundLoss([fastmed.DiceLoss(), fastmed.FocalLoss("sigmoid")]),
    "deep supervision": lambda: fastmed.DeepSupervisionLoss(fastmed.DiceCELoss()),
}


def volume(*sizes: int) -> tuple[Tensor, Tensor]:
    """Logits and labels of two samples."""
    sizes = sizes or VOLUME[2:]
    return torch.randn(2, CLASSES, *sizes), torch.randint(CLASSES, (2, *sizes), dtype=torch.uint8)


def table() -> tuple[Tensor, Tensor]:
    """Logits and labels of five studies, some of them missing."""
    target = torch.randint(2, (5, CLASSES)).float()
    return torch.randn(5, CLASSES), target.masked_fill(torch.rand(5, CLASSES) < 0.2, torch.nan)


def gradient(loss: Callable[..., Tensor], input: Tensor, *arguments: Tensor) -> Tensor:
    leaf = input.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, *arguments), leaf)[0]


def region_arguments(activation: str, target: str, masked: bool) -> RegionInput:
    input, labels = torch.randn(2, CLASSES, 20), torch.randint(CLASSES, (2, 20))
    dense = torch.rand(2, CLASSES, 20)
    mask = torch.rand(2, CLASSES if target == "dense" else 1, 20) if masked else None
    uncertain = torch.rand(CLASSES) if target == "uncertain" else None
    operands = RegionInput(input, labels if target == "labels" else dense, mask, activation, None, uncertain, 0.1, 2.0)
    if activation == "none":
        operands = operands._replace(input=input.sigmoid(), label_smoothing=0.0, gamma=0.0)
    return operands


REGIONS = [
    ("softmax", "labels", True),
    ("softmax", "dense", False),
    ("sigmoid", "labels", False),
    ("sigmoid", "uncertain", True),
    ("none", "dense", True),
]


@pytest.mark.parametrize(("activation", "target", "masked"), REGIONS)
def test_opcheck_of_region_operators(activation: str, target: str, masked: bool) -> None:
    ops, operands = torch.ops.fastmed, region_arguments(activation, target, masked)
    leaf = (operands.input.clone().requires_grad_(), *operands[1:])
    loss = RatioLinear(lambda_nll=float(activation != "none"), pool_batch=target == "uncertain")
    for rows in (BASIC, HARD_TP):
        by = torch.randn(rows, 2, CLASSES)
        torch.library.opcheck(ops.region_sums_backward, (*operands, by, None, "auto"))
    torch.library.opcheck(ops.region_sums, (*leaf, *Wanted(activation != "none", True, True), None, "auto"))
    weights = (torch.rand(CLASSES), torch.rand(CLASSES), None)
    torch.library.opcheck(ops.region_loss, (*leaf, *weights, loss.numbers(), None, "auto"))


def test_opcheck_of_several_passes() -> None:
    ops, operands = torch.ops.fastmed, region_arguments("softmax", "labels", True)
    passes = (["softmax", "sigmoid"], None, None, [0.1, 0.0], [0.0, 2.0])
    tensors, soft = (operands.input, operands.target, operands.mask), [True, False]
    by = torch.randn(2, HARD_TP, 2, CLASSES)
    torch.library.opcheck(ops.region_passes_backward, (*tensors, *passes, by, soft, "auto"))
    leaf = (operands.input.clone().requires_grad_(), *tensors[1:])
    torch.library.opcheck(ops.region_passes, (*leaf, *passes, [True, True], soft, True, None, "auto"))


def counting_arguments() -> Iterator[tuple[object, ...]]:
    scores, labels = torch.rand(2, CLASSES, 20), torch.randint(CLASSES, (2, 20))
    mask = torch.rand(2, 20) < 0.5
    for pooled in (False, True):
        yield labels, labels.flip(0), mask, CLASSES, None, 1, pooled
        yield scores, labels, None, CLASSES, None, None, pooled
        yield scores, (scores > 0.3).float(), None, CLASSES, torch.rand(CLASSES, dtype=torch.float64), None, pooled


def test_opcheck_of_counting_operators() -> None:
    ops = torch.ops.fastmed
    for arguments in counting_arguments():
        torch.library.opcheck(ops.confusion_counts, (*arguments, None, "auto"))
    for shape in ((30, CLASSES), (2, CLASSES, 15)):
        scored = (torch.rand(shape), torch.randint(2, shape), torch.rand(shape) < 0.7)
        torch.library.opcheck(ops.score_histogram, (*scored, "identity", 16, 0.0, 1.0, None, "auto"))
        torch.library.opcheck(ops.rank_statistics, (*scored, None, "auto"))


def test_every_operator_is_checked() -> None:
    """Whoever adds an operator adds it above."""
    names = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names() if "fastmed::" in name}
    assert names == {
        *("region_sums", "region_sums_backward", "region_passes", "region_passes_backward", "region_loss"),
        *("confusion_counts", "score_histogram", "rank_statistics"),
    }


# Sizes beside the number of samples and of classes, which are sizes too.
SIZES = [(6, 5, 4), (7, 9, 8), (CLASSES, CLASSES, CLASSES), (2, 13, CLASSES), (16, 2, 31)]


@pytest.fixture
def _compiled_once() -> Iterator[None]:
    """A second compilation is an error."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_compiled_once")
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("name", ["fused", "open", "compound"])
def test_a_new_volume_size_does_not_recompile(name: str, masked: bool) -> None:
    loss = LOSSES[name]()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for sizes in SIZES:
        input, labels = volume(*sizes)
        labels = labels.unsqueeze(1) if masked else labels
        mask = (torch.rand(2, 1, *sizes) < 0.8,) if masked else ()
        assert torch.equal(gradient(compiled, input, labels, *mask), gradient(loss, input, labels, *mask))


@pytest.mark.usefixtures("_compiled_once")
def test_counting_a_new_size_does_not_recompile() -> None:
    def count(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        histogram = score_histogram(logits, logits > 0, 8, activation="sigmoid")
        return confusion_counts(logits, labels, CLASSES), histogram.counts

    compiled = torch.compile(count, fullgraph=True, dynamic=True, backend="aot_eager")
    for sizes in SIZES:
        input, labels = volume(*sizes)
        for got, expected in zip(compiled(input, labels), count(input, labels), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_autocast(name: str, dtype: torch.dtype) -> None:
    """A network's half-precision logits go in as they are; loss and weights stay in float32."""
    network, (input, labels) = torch.nn.Conv3d(CLASSES, CLASSES, 1), volume()
    with torch.autocast("cpu", dtype=dtype):
        logits = network(input)
        value = LOSSES[name]()(logits, labels)
    assert (logits.dtype, value.dtype) == (dtype, torch.float32)
    value.backward()
    expected = LOSSES[name]()(logits.detach().float(), labels)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    assert network.weight.grad is not None
    assert network.weight.grad.dtype == torch.float32
    assert network.weight.grad.isfinite().all()
    assert network.weight.grad.abs().sum() > 0


def test_gradient_scaler() -> None:
    """Scaled by 2^16 the gradient of a mean over many voxels survives float16, and unscaled it is right."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    input, labels = volume(16, 16, 16)
    weights = input.half().float().requires_grad_()
    before = weights.detach().clone()
    optimiser = torch.optim.SGD([weights], lr=1.0)
    scaler.scale(fastmed.DiceCELoss()(weights.half(), labels)).backward()
    scaler.unscale_(optimiser)
    exact = gradient(fastmed.DiceCELoss(), before, labels)
    assert weights.grad is not None
    # Eleven bits, and no less where the scaled gradient is a normal number of float16.
    torch.testing.assert_close(weights.grad, exact, rtol=2.0**-10, atol=2.0**-14 / 2.0**16)
    plain = gradient(fastmed.DiceCELoss(), before.half(), labels).float()
    assert (plain - exact).abs().mean() > (weights.grad - exact).abs().mean()
    scaler.step(optimiser)
    scaler.update()
    assert not torch.equal(weights, before)


def test_gradient_scaler_skips_a_step_that_overflowed() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    input, labels = volume()
    weights = input.requires_grad_()
    before = weights.detach().clone()
    optimiser = torch.optim.SGD([weights], lr=1.0)
    # Beyond the largest float16, which the gradient of a sum reaches.
    scaler.scale(fastmed.DiceCELoss(reduction="sum", lambda_ce=100.0)(weights.half(), labels)).backward()
    scaler.step(optimiser)
    scaler.update()
    assert torch.equal(weights, before)
    assert scaler.get_scale() < 2.0**16


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_checkpoint(name: str, reentrant: bool) -> None:
    loss, (input, labels) = LOSSES[name](), volume()

    leaf = input.clone().requires_grad_()
    checkpoint(lambda x: loss(x * 2, labels), leaf, use_reentrant=reentrant).backward()
    assert torch.equal(leaf.grad, gradient(lambda x: loss(x * 2, labels), input))


@pytest.mark.parametrize("name", LOSSES)
def test_function_transforms(name: str) -> None:
    loss, (input, labels) = LOSSES[name](), volume()
    expected = gradient(loss, input, labels)
    assert torch.equal(grad(loss)(input, labels), expected)
    value, pull = vjp(lambda x: loss(x, labels), input)
    assert torch.equal(value, loss(input, labels))
    assert torch.equal(pull(torch.tensor(-2.0))[0], -2.0 * expected)
    assert torch.equal(functional_call(loss, {}, (input, labels)), value)


def test_function_transforms_of_a_table() -> None:
    loss, (logits, target) = fastmed.MultiTaskBCELoss(missing="ignore"), table()
    by_transform = grad(loss)(logits, target)
    # The way without the dispatcher, after one with it has filled every cache.
    torch.testing.assert_close(by_transform, gradient(loss, logits, target), rtol=1e-6, atol=1e-8)


def test_jacobian() -> None:
    input, labels = volume()
    each = fastmed.DiceLoss(reduction="none")
    leaf = input.clone().requires_grad_()
    values = each(leaf, labels)
    for n, c in itertools.product(range(2), range(CLASSES)):
        (row,) = torch.autograd.grad(values[n, c], leaf, retain_graph=True)
        assert torch.equal(jacrev(each)(input, labels)[n, c], row)


@pytest.mark.parametrize("name", ["fused", "open", "compound"])
def test_vmap_over_samples(name: str) -> None:
    loss, (input, labels) = LOSSES[name](), volume()

    def of_sample(x: Tensor, y: Tensor) -> Tensor:
        return loss(x.unsqueeze(0), y.unsqueeze(0))  # type: ignore[no-any-return]

    values, gradients = vmap(of_sample)(input, labels), vmap(grad(of_sample))(input, labels)
    for n in range(2):
        assert torch.equal(values[n], of_sample(input[n], labels[n]))
        assert torch.equal(gradients[n], gradient(of_sample, input[n], labels[n]))
    whole = grad(lambda x: vmap(of_sample)(x, labels).sum())(input)
    assert torch.equal(whole, gradients)


def test_vmap_of_counts() -> None:
    input, labels = volume()
    counts = vmap(lambda x, y: confusion_counts(x[None], y[None], CLASSES)[0])(input, labels)
    assert torch.equal(counts, confusion_counts(input, labels, CLASSES))


@pytest.mark.parametrize("make", [*LOSSES.values(), lambda: fastmed.DiceLoss(reduction="none")])
def test_forward_mode_is_refused(make: Callable[[], torch.nn.Module]) -> None:
    """Nothing is better than a tangent of 0."""
    loss, (input, labels) = make(), volume()
    with pytest.raises(NotImplementedError, match="no forward-mode derivative; differentiate in reverse"):
        torch.func.jvp(lambda x: loss(x, labels), (input,), (torch.ones_like(input),))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(input, torch.ones_like(input))
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            loss(dual, labels)


def test_forward_mode_of_a_table_is_refused() -> None:
    logits, target = table()
    for leaf in (logits, logits.clone().requires_grad_()):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(leaf, torch.ones_like(leaf))
            with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
                fastmed.MultiTaskBCELoss()(dual, target)


@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives_are_refused(name: str) -> None:
    loss, (input, labels) = LOSSES[name](), volume()
    leaf = input.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(leaf, labels), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        first.square().sum().backward()
    with pytest.raises(NotImplementedError, match="differentiable once"):
        grad(lambda x: grad(loss)(x, labels).square().sum())(input)


def test_second_derivatives_of_a_table_are_refused() -> None:
    logits, target = table()
    leaf = logits.clone().requires_grad_()
    (first,) = torch.autograd.grad(fastmed.MultiTaskBCELoss()(leaf, target), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        first.square().sum().backward()


class Trained(torch.nn.Module):
    """A network with its loss."""

    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.loss = torch.nn.Conv3d(CLASSES, CLASSES, 1), loss

    def forward(self, input: Tensor, labels: Tensor) -> Tensor:
        return self.loss(self.network(input), labels)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", LOSSES)
def test_export(name: str) -> None:
    """Exported once, with any size of the volume, saved and loaded."""
    trained, (input, labels) = Trained(LOSSES[name]()), volume(6, 5, 4)
    size = torch.export.Dim("size", min=2, max=64)
    dynamic = None if name == "deep supervision" else ({2: size}, {1: size})
    program = torch.export.export(trained, (input, labels), dynamic_shapes=dynamic)
    saved = io.BytesIO()
    torch.export.save(program, saved)
    saved.seek(0)
    loaded = torch.export.load(saved).module()
    other = (input, labels) if dynamic is None else volume(CLASSES, 5, 4)
    assert torch.equal(loaded(*other), trained(*other))


CONFIGURED = {
    **LOSSES,
    "class weights": lambda: fastmed.DiceCELoss(class_weight=[1.0, 2.0, 0.5], pool="batch"),
    "masked background": lambda: fastmed.TverskyLoss(include_background=False, ignore_index=0),
}


@pytest.mark.parametrize("name", CONFIGURED)
def test_copies_are_the_same_loss(name: str) -> None:
    loss, (input, labels) = CONFIGURED[name](), volume()
    fresh, value = CONFIGURED[name](), loss(input, labels)
    assert fresh.load_state_dict(loss.state_dict(), strict=True) == ([], [])
    saved = io.BytesIO()
    torch.save(loss, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=False)
    for other in (copy.deepcopy(loss), copy.copy(loss), pickle.loads(pickle.dumps(loss)), fresh, loaded):
        assert torch.equal(other(input, labels), value)
        assert repr(other) == repr(loss)


SCRIPTED = {**LOSSES, "table": fastmed.MultiTaskBCELoss, "torchxrayvision's": MultiTaskLoss}


@pytest.mark.parametrize("name", SCRIPTED)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a network"])
def test_torchscript_is_refused(name: str, inside: bool) -> None:
    loss = SCRIPTED[name]()
    with pytest.raises(
        NotImplementedError, match=rf"TorchScript cannot compile {type(loss).__name__}.* use torch.compile"
    ):
        torch.jit.script(Trained(loss) if inside else loss)


@pytest.mark.parametrize("name", LOSSES)
def test_inference_mode(name: str) -> None:
    """Validation in inference mode, before and between steps of training."""
    loss, (input, labels) = LOSSES[name](), volume()
    with torch.inference_mode():
        first = loss(input, labels).item()
        inside = loss(input.clone(), labels.clone()).item()
    value = loss(input.requires_grad_(), labels)
    assert first == inside == value.item()
    value.backward()
    with torch.inference_mode():
        assert loss(input, labels).item() == first


def test_inference_mode_of_a_table() -> None:
    loss, (logits, target) = fastmed.MultiTaskBCELoss(missing=fastmed.Smooth(0.55, 0.85)), table()
    with torch.inference_mode():
        first = loss(logits, target).item()
    value = loss(logits.requires_grad_(), target)
    torch.testing.assert_close(value.item(), first, rtol=1e-6, atol=0)
    value.backward()


@pytest.mark.parametrize("argument", ["target", "mask"])
@pytest.mark.parametrize("kind", ["volume", "table", "sums"])
def test_what_takes_no_gradient_is_refused_one(argument: str, kind: str) -> None:
    shape = (5, CLASSES) if kind == "table" else VOLUME
    input, given = torch.randn(shape), {"target": torch.rand(shape), "mask": torch.rand(shape)}
    given[argument].requires_grad_()
    calls = {
        "volume": fastmed.DiceBCELoss(),
        "table": fastmed.MultiTaskBCELoss(),
        "sums": partial(region_sums, activation="sigmoid"),
    }
    with pytest.raises(ValueError, match=rf"^{argument}: requires a gradient.*pass {argument}.detach\(\)"):
        calls[kind](input, **given)


@pytest.mark.parametrize("device", ["mps", "xpu", "hpu", "privateuseone"])
@pytest.mark.parametrize("op", ["region_sums", "confusion_counts", "score_histogram", "rank_statistics"])
def test_other_devices_are_served_by_the_reference(op: str, device: str) -> None:
    request = Request(op, device, torch.float32, torch.uint8, CLASSES)
    assert dispatch.select(request).__name__ == "fastmed.backends.reference"
    for name in set(dispatch.NAMES) - {"reference"}:
        with pytest.raises(fastmed.BackendError, match=rf"{name}: .*(not on {device}|does not implement)"):
            dispatch.select(request, name)


@pytest.mark.parametrize("name", ["fused", "open", "compound"])
def test_meta_tensors_have_shapes_and_types(name: str) -> None:
    """What planners of memory and of shards call a model with."""
    input = torch.randn(VOLUME, device="meta", dtype=torch.bfloat16, requires_grad=True)
    labels = torch.zeros(2, *VOLUME[2:], device="meta", dtype=torch.uint8)
    value = LOSSES[name]()(input, labels)
    (by_input,) = torch.autograd.grad(value, input)
    assert (value.shape, value.dtype, value.device.type) == ((), torch.float32, "meta")
    assert (by_input.shape, by_input.dtype, by_input.device.type) == (VOLUME, torch.bfloat16, "meta")
    counts = confusion_counts(input, labels, CLASSES)
    assert (counts.shape, counts.dtype) == ((2, CLASSES, CLASSES), torch.int64)
    scores, target = (torch.zeros(5, CLASSES, device="meta") for _ in range(2))
    assert score_histogram(scores, target, 8).counts.shape == (CLASSES, 2, 8)
    assert rank_statistics(scores, target).u.shape == (CLASSES,)
    assert fastmed.MultiTaskBCELoss()(scores.requires_grad_(), target).shape == ()
