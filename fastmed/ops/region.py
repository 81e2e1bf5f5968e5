"""The operators of the fused pass: sums over regions, losses known from them, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..contract import BASIC, STATISTICS, LossWeights, RatioLinear, RegionInput, RegionSums, Wanted, changed
from . import passes
from .autograd import (
    Differentiable,
    DifferentiablePasses,
    GradientAtHand,
    OnceDifferentiable,
    register_autograd,
)
from .library import define
from .passes import as_volume, raise_invalid, select, sums_dtype, unstack
from .shortcut import call, is_undisturbed

_OPERANDS = (
    "Tensor input, Tensor target, Tensor? mask, str activation, int? ignore_index, Tensor? uncertain, "
    "float label_smoothing, float gamma"
)
_PASSES = (
    "Tensor input, Tensor target, Tensor? mask, str[] activation, int? ignore_index, Tensor? uncertain, "
    "float[] label_smoothing, float[] gamma"
)
define(
    f"region_sums({_OPERANDS}, bool nll, bool soft, bool hard, bool? validate, str backend) -> (Tensor, Tensor)",
    passes.region_sums,
)
define(
    f"region_sums_backward({_OPERANDS}, Tensor gradient, Tensor? scale, str backend) -> Tensor",
    passes.region_sums_backward,
)
define(
    f"region_passes({_PASSES}, bool[] nll, bool[] soft, bool hard, bool? validate, str backend) -> (Tensor, Tensor)",
    passes.region_passes,
)
define(
    f"region_passes_backward({_PASSES}, Tensor gradient, bool[] soft, str backend) -> Tensor",
    passes.region_passes_backward,
)
define(
    f"region_loss({_OPERANDS}, Tensor? region_weight, Tensor? nll_pos_weight, Tensor? nll_neg_weight, "
    "float[] loss, bool? validate, str backend) -> (Tensor, Tensor)",
    passes.region_loss,
)


def _stacked(input: Tensor, rows: int) -> Tensor:
    samples = input.shape[0] if input.ndim == 3 else 1
    return input.new_empty((rows, samples, input.shape[1]), dtype=sums_dtype(input.dtype))


@torch.library.register_fake("fastmed::region_sums")
def _(input: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    stacked, hard = _stacked(input, STATISTICS), arguments[-3]
    return stacked, input.new_empty((*stacked.shape[1:], 4) if hard else (0,), dtype=torch.int64)


@torch.library.register_fake("fastmed::region_passes")
def _(input: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    stacked, hard = _stacked(input, STATISTICS), arguments[-3]
    counts = input.new_empty((*stacked.shape[1:], 4) if hard else (0,), dtype=torch.int64)
    return stacked.new_empty((len(arguments[2]), *stacked.shape)), counts


@torch.library.register_fake("fastmed::region_sums_backward")
@torch.library.register_fake("fastmed::region_passes_backward")
def _(input: Tensor, *_arguments: Any) -> Tensor:
    return torch.empty_like(input)


@torch.library.register_fake("fastmed::region_loss")
def _(input: Tensor, *_arguments: Any) -> tuple[Tensor, Tensor]:
    return input.new_empty((), dtype=sums_dtype(input.dtype)), _stacked(input, BASIC)


register_autograd("region_sums", passes.region_sums, Differentiable)
register_autograd("region_passes", passes.region_passes, DifferentiablePasses)
register_autograd("region_loss", passes.region_loss, Differentiable)
register_autograd("region_sums_backward", passes.region_sums_backward, OnceDifferentiable)
register_autograd("region_passes_backward", passes.region_passes_backward, OnceDifferentiable)


def region_sums(operands: RegionInput, wanted: Wanted, validate: bool | None, backend: str) -> RegionSums:
    """The sums of one pass; the optional ones are None unless wanted and defined."""
    op = torch.ops.fastmed.region_sums.default
    stacked, counts = call(op, passes.region_sums, Differentiable, *operands, *wanted, validate, backend)
    return unstack(stacked, counts, operands.activation, wanted)


def region_passes(
    operands: Sequence[RegionInput], wanted: Sequence[Wanted], validate: bool | None, backend: str
) -> list[RegionSums]:
    """The sums of several passes over the tensors of the first, whose gradients are added up in one.

    The passes differ in activation, label smoothing and gamma, and in what is wanted but for hard counts, which are
    those of the first.
    """
    if len(operands) == 1:
        return [region_sums(operands[0], wanted[0], validate, backend)]
    input, target, mask, _, ignore_index, uncertain, *_ = operands[0]
    nll, soft, (hard, *_) = zip(*wanted, strict=True)
    stacked, counts = call(
        torch.ops.fastmed.region_passes.default,
        passes.region_passes,
        DifferentiablePasses,
        input,
        target,
        mask,
        [each.activation for each in operands],
        ignore_index,
        uncertain,
        [each.label_smoothing for each in operands],
        [each.gamma for each in operands],
        nll,
        soft,
        hard,
        validate,
        backend,
    )
    sums: list[RegionSums] = []
    for of_pass, each, wants in zip(stacked.unbind(0), operands, wanted, strict=True):
        sums.append(unstack(of_pass, counts, each.activation, changed(wants, hard=hard and not sums)))
    return sums


def region_loss(
    operands: RegionInput, loss: RatioLinear, weights: LossWeights, validate: bool | None, backend: str
) -> Tensor:
    """The loss, a scalar; that of a table or a small volume comes with its gradient, and without the dispatcher."""
    input = operands.input
    if input.requires_grad and torch.is_grad_enabled() and is_undisturbed(*operands[:3]):
        step = getattr(select(operands, backend), "region_step", None)
        done = step and step(operands, loss, weights)
        if done:
            value, gradient, invalid = done
            if invalid and validate is not False:
                raise_invalid(as_volume(operands), invalid)
            differentiable: Tensor = GradientAtHand.apply(input, (value, gradient))
            return differentiable
    op, numbers = torch.ops.fastmed.region_loss.default, loss.numbers()
    arguments = (*operands, *weights, numbers, validate, backend)
    loss_value: Tensor = call(op, passes.region_loss, Differentiable, *arguments)[0]
    return loss_value
