"""What the tests of drop-ins share: the same call to both libraries, and how far apart the answers may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from under_test import DEVICE

RTOL = 1e-5

Call = Callable[[Tensor, Tensor], Tensor]


class Answer(NamedTuple):
    """A loss and its gradient by the prediction."""

    value: Tensor
    gradient: Tensor


def answer(call: Call, pred: Tensor, target: Tensor) -> Answer:
    leaf = pred.detach().clone().requires_grad_()
    value = call(leaf, target)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return Answer(value.detach(), gradient)


def assert_same(mine: Call, theirs: Call, pred: Tensor, target: Tensor) -> None:
    """Value and gradient in float32 to 1e-5, of the value and of the largest slope."""
    actual, expected = answer(mine, pred, target), answer(theirs, pred, target)
    assert actual.value.shape == expected.value.shape
    torch.testing.assert_close(actual.value, expected.value, rtol=RTOL, atol=RTOL * 1e-2, equal_nan=True)
    largest = float(expected.gradient.nan_to_num().abs().max())
    torch.testing.assert_close(actual.gradient, expected.gradient, rtol=RTOL, atol=RTOL * largest)


def rounding(dtype: torch.dtype, backend: str) -> float:
    """By how much of itself a gradient may change where the backend rounds it to its type once.

    Half a unit in the last place; a whole one in Triton's interpreter, which cuts bfloat16 off.
    """
    truncates = backend == "triton" and DEVICE == "cpu" and dtype == torch.bfloat16
    return torch.finfo(dtype).eps / (1 if truncates else 2)


def assert_same_in_half(
    mine: Call, theirs: Call, pred: Tensor, target: Tensor, value_dtype: torch.dtype, backend: str
) -> None:
    """Against the library in float64 on the same numbers: what is left is the rounding of each result to its type."""
    actual = answer(mine, pred, target)
    expected = answer(theirs, pred.double(), target)
    assert actual.value.dtype == value_dtype
    assert actual.gradient.dtype == pred.dtype
    of_value = RTOL + torch.finfo(value_dtype).eps / 2
    torch.testing.assert_close(actual.value.double(), expected.value.double(), rtol=of_value, atol=RTOL * 1e-2)
    of_slope = RTOL + rounding(pred.dtype, backend)
    largest = float(expected.gradient.abs().max())
    torch.testing.assert_close(actual.gradient.double(), expected.gradient, rtol=of_slope, atol=RTOL * largest)


def error_of(call: Callable[[], object]) -> type[Exception] | None:
    """The type of the error that a call raises."""
    try:
        call()
    except Exception as error:
        return type(error)
    return None
