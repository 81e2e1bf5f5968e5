"""The fused finalisers against the formulas, which stay the only truth."""

from __future__ import annotations

import pytest
import torch
from test_formulas import OPTIONS
from under_test import DEVICE, backends

from fastmed import dispatch, formulas, ops
from fastmed.contract import LossWeights, RegionInput, Request, Wanted

_REQUEST = Request("region_sums", DEVICE, torch.float32, torch.int64, 4)
FUSED = [backend for backend in backends("region_sums") if backend.id != "reference"]


@pytest.mark.parametrize("name", FUSED)
def test_every_compiled_backend_has_a_finaliser(name: str) -> None:
    assert hasattr(dispatch.select(_REQUEST, name), "region_loss")


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_loss_and_gradient(name: str, activation: str, weighted: bool) -> None:
    backend = dispatch.select(_REQUEST, name)
    operands = RegionInput(torch.randn(3, 4, 50), torch.randint(4, (3, 50)), None, activation, None)
    weights = LossWeights(*(torch.rand(3, 4) + 0.1)) if weighted else LossWeights()
    for loss in OPTIONS[:: 1 if name == "numba" else 4]:
        stacked, _ = backend.region_sums(operands, Wanted())
        sums = ops.unstack(stacked, None, activation, Wanted())
        value, gradient, invalid = backend.region_loss(operands, loss, weights)
        expected = formulas.ratio_linear(sums, loss, weights)
        # The backend may round to float32, and the kernel of a loss may add in another order than that of all sums.
        torch.testing.assert_close(value.double(), expected.double(), rtol=2e-6, atol=2e-6)
        closed = formulas.ratio_linear_gradient(sums, loss, weights)
        torch.testing.assert_close(gradient.double(), closed.double(), rtol=2e-5, atol=1e-7)
        assert (invalid == 0).all()


@pytest.mark.parametrize("name", FUSED)
def test_labels_out_of_range_make_the_loss_nan(name: str) -> None:
    target = torch.randint(4, (3, 50))
    target[1, 7] = 4
    operands = RegionInput(torch.randn(3, 4, 50), target, None, "softmax", None)
    value, _, invalid = dispatch.select(_REQUEST, name).region_loss(operands, OPTIONS[0], LossWeights())
    assert value.isnan()
    assert invalid.tolist() == [0, 1, 0]
