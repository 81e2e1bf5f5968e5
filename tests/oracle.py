"""The float64 oracle and the tolerance that follows from it."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmed.backends import reference
from fastmed.contract import NLL_POS, TARGET, RegionInput, Wanted

EPS32 = torch.finfo(torch.float32).eps


def in_float64(operands: RegionInput) -> RegionInput:
    """The same operands, the input and real-valued targets exactly as they are, in float64."""
    return operands._replace(input=operands.input.double())


def exact_sums(operands: RegionInput, wanted: Wanted = Wanted()) -> tuple[Tensor, Tensor]:
    """Stacked sums in float64, and how far plain torch at the input's own precision is from them."""
    exact = reference.differentiable_sums(in_float64(operands), wanted)[0]
    torch_sums = reference.differentiable_sums(operands, wanted)[0]
    return exact, (torch_sums - exact).abs()


def exact_gradient(operands: RegionInput, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the input by autograd in float64, and how far autograd at the input's precision is from it."""

    def differentiate(which: RegionInput) -> Tensor:
        leaf = which.input.detach().clone().requires_grad_()
        stacked = reference.differentiable_sums(which._replace(input=leaf), Wanted(soft=True))[0]
        (result,) = torch.autograd.grad((stacked[: len(gradient)] * gradient.to(stacked.dtype)).sum(), leaf)
        return result.double()

    exact = differentiate(in_float64(operands))
    return exact, (differentiate(operands) - exact).abs()


def assert_sums_close(got: Tensor, operands: RegionInput, wanted: Wanted = Wanted()) -> None:
    """At most twice torch's own error, plus a rounding band of 16 float32 ulp of the sum of magnitudes.

    The band: an element carries a few ulp from the elementary functions, and adding 1024 terms in eight or more
    lanes adds the like of it. Under softmax the nll is the logarithm of a total of 1 or more, which is rounded: so
    each target carries an ulp of 1, however small its nll.
    """
    exact, torch_error = exact_sums(operands, wanted)
    magnitude = operands._replace(input=operands.input.abs()) if operands.activation == "none" else operands
    band = 16 * EPS32 * exact_sums(magnitude, wanted)[0].abs()
    if operands.activation == "softmax":
        band[NLL_POS] += EPS32 * exact[TARGET].abs()
    excess = (got.double() - exact).abs() - (2 * torch_error + band + 1e-30)
    assert not got.isnan().any()
    assert excess.max() <= 0, f"sums off by {excess.max():.3g} beyond the tolerance"


def assert_gradient_close(got: Tensor, operands: RegionInput, gradient: Tensor) -> None:
    """At most twice torch's own error, plus half an ulp of the result's dtype and 16 float32 ulp of the terms.

    A softmax gradient subtracts sums over the classes, so its terms are as large as the coefficients.
    """
    exact, torch_error = exact_gradient(operands, gradient)
    ulp = torch.finfo(got.dtype)
    terms = gradient.abs().max() * (1.0 if operands.mask is None else operands.mask.double().abs().max())
    band = ulp.eps * exact.abs() + ulp.tiny + 16 * EPS32 * terms
    excess = (got.double() - exact).abs() - (2 * torch_error + band)
    assert not got.isnan().any()
    assert excess.max() <= 0, f"gradient off by {excess.max():.3g} beyond the tolerance"
