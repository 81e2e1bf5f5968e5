"""The fused multi-task loss beside the loop of torchxrayvision's `scripts/train_utils.py`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastmed.compat import torchxrayvision as xrv


def loop(outputs, targets, weights=None):
    """`train_epoch` of torchxrayvision, from the outputs to the loss."""
    criterion = torch.nn.BCEWithLogitsLoss()
    loss = torch.zeros(1, dtype=outputs.dtype)
    for task in range(targets.shape[1]):
        mask = ~torch.isnan(targets[:, task])
        if mask.any():
            task_loss = criterion(outputs[mask, task], targets[mask, task].to(outputs.dtype))
            loss = loss + (task_loss if weights is None else weights[task] * task_loss)
    return loss.sum()


def table(samples, tasks, missing):
    """Labels of 0 and 1, of which a share is NaN."""
    labels = torch.randint(2, (samples, tasks)).float()
    return labels.where(torch.rand(samples, tasks) >= missing, torch.nan)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("missing", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (7, 14), (300, 18), (64, 40)])
def test_value_and_gradient(shape, missing, weighted, region_backend):
    outputs = (3.0 * torch.randn(shape)).requires_grad_()
    targets = table(*shape, missing)
    weights = torch.rand(shape[1]) if weighted else None
    loss = xrv.MultiTaskLoss(weights, backend=region_backend)(outputs, targets)
    exact = outputs.detach().double().requires_grad_()
    expected = loop(exact, targets, weights)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, outputs)
    if expected.requires_grad:
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, exact)[0].float(), rtol=1e-6, atol=1e-6)
    else:
        assert not gradient.any()


def test_a_task_without_annotation_adds_nothing(region_backend):
    outputs, targets = torch.randn(20, 3), table(20, 3, 0.0)
    targets[:, 1] = torch.nan
    kept = xrv.multitask_loss(outputs[:, ::2], targets[:, ::2], backend=region_backend)
    assert xrv.multitask_loss(outputs, targets, backend=region_backend).item() == pytest.approx(kept.item(), rel=1e-6)


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_task_weights(missing):
    labels = table(1000, 14, missing)
    weights = np.nansum(labels.cpu().numpy(), axis=0)
    weights = weights.max() - weights + weights.mean()
    weights = weights / weights.max()
    for each in (labels, labels.cpu().numpy(), labels.double().cpu().numpy()):
        torch.testing.assert_close(xrv.task_weights(each), torch.as_tensor(weights).float(), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("given", [list, np.array, torch.tensor])
def test_weights_of_any_kind(given):
    outputs, targets, weights = torch.randn(20, 3), table(20, 3, 0.3), [1.0, 2.0, 0.5]
    expected = loop(outputs.double(), targets, weights).item()
    for loss in (xrv.MultiTaskLoss(given(weights)), lambda *batch: xrv.multitask_loss(*batch, given(weights))):
        assert loss(outputs, targets).item() == pytest.approx(expected, rel=1e-6)


def test_weights_follow_the_module():
    assert xrv.MultiTaskLoss(torch.ones(3)).to("meta").weights.is_meta
    assert not xrv.MultiTaskLoss(torch.ones(3)).state_dict()
