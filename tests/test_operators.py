"""What torch expects of an operator: schema, fake, autograd, compilation, precision contexts, clear refusals."""

from __future__ import annotations

import copy
import pickle
import shutil
from typing import Any

import pytest
import torch
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import fastmed
from fastmed.contract import BASIC, RatioLinear, RegionInput, Wanted
from fastmed.functional import confusion_counts

SHAPES = {"softmax": (2, 3, 40), "sigmoid": (1, 2, 33)}


@pytest.mark.parametrize("activation", SHAPES)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_opcheck(activation: str, backend: str) -> None:
    n, c, v = SHAPES[activation]
    input, target = torch.randn(n, c, v, requires_grad=True), torch.randint(c, (n, v))
    mask = torch.rand(n, 1, v)
    loss = RatioLinear(lambda_nll=1.0)
    ops = torch.ops.fastmed
    operands = RegionInput(input, target, mask, activation)
    torch.library.opcheck(ops.region_sums, (*operands, *Wanted(soft=True, hard=True), None, backend))
    torch.library.opcheck(ops.region_loss, (*operands, None, None, None, loss.numbers(), None, backend))
    gradient = torch.randn(BASIC, n, c)
    detached = (input.detach(), *operands[1:])
    torch.library.opcheck(ops.region_sums_backward, (*detached, gradient, torch.rand(()), backend))
    torch.library.opcheck(ops.confusion_counts, (target, target.flip(0), None, c, None, None, False, None, backend))


@pytest.mark.parametrize("loss", [fastmed.DiceCELoss(), fastmed.DiceLoss(reduction="none")], ids=["fused", "open"])
def test_compile_without_a_graph_break(loss: torch.nn.Module) -> None:
    input = torch.randn(2, 3, 5, 4, 3, requires_grad=True)
    labels = torch.randint(3, (2, 5, 4, 3))

    def step(x: torch.Tensor) -> torch.Tensor:
        return loss(x * 2.0, labels).sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected, got = step(input), compiled(input)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    (expected_gradient,) = torch.autograd.grad(expected, input)
    (gradient,) = torch.autograd.grad(got, input)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=0)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_inductor_compiles_forward_and_backward() -> None:
    input = torch.randn(1, 2, 6, 5, requires_grad=True)
    labels = torch.randint(2, (1, 6, 5))
    loss = torch.compile(fastmed.DiceCELoss(), fullgraph=True)(input, labels)
    loss.backward()
    torch.testing.assert_close(loss, fastmed.DiceCELoss()(input, labels))
    assert input.grad is not None


@pytest.mark.usefixtures("no_batch_is_small")
def test_nothing_but_the_operands_is_kept_for_backward() -> None:
    input, labels = (
        torch.randn(2, 3, 8, 8, 8, requires_grad=True),
        torch.randint(3, (2, 8, 8, 8), dtype=torch.uint8),
    )
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fastmed.DiceCELoss()(input, labels)
    operands = {input.data_ptr(), labels.data_ptr()}
    assert sum(size for pointer, size in saved.items() if pointer not in operands) == BASIC * 2 * 3 * 4


def test_autocast_takes_half_logits_as_they_are() -> None:
    input = torch.randn(2, 3, 50, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = fastmed.DiceCELoss()(input, torch.randint(3, (2, 50)))
    loss.backward()
    assert loss.dtype == torch.float32
    assert input.grad is not None
    assert input.grad.dtype == torch.bfloat16


def test_checkpointing_gives_the_same_gradient() -> None:
    labels = torch.randint(3, (2, 50))
    input = torch.randn(2, 3, 50, requires_grad=True)
    (plain,) = torch.autograd.grad(fastmed.DiceCELoss()(input * 2, labels), input)
    again = checkpoint(lambda x: fastmed.DiceCELoss()(x * 2, labels), input, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again, input)[0], plain, rtol=0, atol=0)


def test_upstream_gradient_scales() -> None:
    labels, input = torch.randint(3, (2, 50)), torch.randn(2, 3, 50, requires_grad=True)
    (once,) = torch.autograd.grad(fastmed.DiceCELoss()(input, labels), input)
    (scaled,) = torch.autograd.grad(fastmed.DiceCELoss()(input, labels) * -8.0, input)
    torch.testing.assert_close(scaled, once * -8.0, rtol=1e-6, atol=1e-9)


def test_double_backward_is_refused() -> None:
    labels, input = torch.randint(3, (2, 50)), torch.randn(2, 3, 50, requires_grad=True)
    (gradient,) = torch.autograd.grad(fastmed.DiceCELoss()(input, labels), input, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        gradient.sum().backward()


def test_inference_mode_and_no_grad() -> None:
    labels, input = torch.randint(3, (2, 50)), torch.randn(2, 3, 50)
    expected = fastmed.DiceCELoss()(input, labels)
    with torch.inference_mode():
        assert fastmed.DiceCELoss()(input, labels).item() == expected.item()
        assert confusion_counts(labels, labels, 3).sum() == 100


def test_modules_copy_and_pickle() -> None:
    loss = fastmed.DiceBCELoss(pos_weight=[1.0, 2.0], pool="batch")
    input, target = torch.randn(2, 2, 9), torch.randint(2, (2, 2, 9))
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other(input, target).item() == loss(input, target).item()


class Seen(TorchDispatchMode):
    """The operators that passed the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


class Labelled(torch.Tensor):
    """A tensor of another class."""


def test_what_looks_on_sees_the_operators() -> None:
    logits, labels = torch.randn(1, 3, 40, requires_grad=True), torch.randint(3, (1, 40))
    expected = fastmed.DiceCELoss()(logits, labels)
    (gradient,) = torch.autograd.grad(expected, logits)
    with Seen() as seen:
        loss = fastmed.DiceCELoss()(logits, labels)
        (again,) = torch.autograd.grad(loss, logits)
    assert {"fastmed.region_loss.default", "fastmed.region_sums_backward.default"} <= seen.names
    torch.testing.assert_close((loss, again), (expected, gradient), rtol=1e-6, atol=1e-9)
    with profile() as profiler:
        fastmed.DiceLoss(reduction="none")(logits, labels).sum().backward()
        confusion_counts(logits, labels, 3)
    names = {event.key for event in profiler.key_averages()}
    assert {"fastmed::region_sums", "fastmed::region_sums_backward", "fastmed::confusion_counts"} <= names
    loss = fastmed.DiceCELoss()(logits, labels.as_subclass(Labelled))
    torch.testing.assert_close(loss.as_subclass(torch.Tensor), expected, rtol=1e-6, atol=0)
