"""The operators of the fused pass: sums over regions, losses known from them, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from .. import dispatch, formulas
from ..contract import (
    BASIC,
    HARD_TP,
    STATISTICS,
    Backend,
    LossWeights,
    RatioLinear,
    RegionInput,
    RegionSums,
    Request,
    Wanted,
    changed,
)
from .autograd import (
    Differentiable,
    DifferentiablePasses,
    GradientAtHand,
    OnceDifferentiable,
    is_undisturbed,
    register_autograd,
)
from .library import as_table, define, is_reported, raise_out_of_range, raise_unknown


def sums_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type of the sums and losses for logits of this type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def unstack(stacked: Tensor, counts: Tensor | None, activation: str, wanted: Wanted) -> RegionSums:
    """The stacked sums by name; statistics that were not computed become None."""
    tp, pred, pred_sq, target, target_sq, nll_pos, nll_neg, weight, tp_sq, difference = stacked[:HARD_TP].unbind(0)
    has_nll = wanted.nll and activation != "none"
    return RegionSums(
        tp,
        pred,
        pred_sq,
        target,
        target_sq,
        nll_pos if has_nll else None,
        nll_neg if has_nll and activation == "sigmoid" else None,
        weight,
        tp_sq if wanted.soft else None,
        difference if wanted.soft else None,
        counts if wanted.hard else None,
    )


def _hard_counts(stacked: Tensor) -> Tensor:
    """Hard counts (N, C, 4) = tn, fp, fn, tp; -1 in a sample with labels out of range."""
    tp, pred, target, total = stacked[HARD_TP:].unbind(0)
    counts = torch.stack([total - pred - target + tp, pred - tp, target - tp, tp], dim=-1)
    return counts.nan_to_num(-1.0).to(torch.int64)


def _select(operands: RegionInput, backend: str) -> Backend:
    input, target = operands.input, operands.target
    return dispatch.select(
        Request("region_sums", input.device.type, input.dtype, target.dtype, input.shape[1]), backend
    )


def _raise_not_soft(operands: RegionInput, count: int) -> NoReturn:
    target = operands.target.to(torch.float64)
    known = ((target >= 0) & (target <= 1)) | target.isnan() | (target == -1)
    if operands.ignore_index is not None:
        known |= target == operands.ignore_index
    if operands.mask is not None:
        known |= operands.mask == 0
    raise_unknown(target, known, count, "0 to 1, NaN (missing) and -1 (uncertain)")


def _raise_invalid(operands: RegionInput, count: int) -> NoReturn:
    if operands.uncertain is not None:
        _raise_not_soft(operands, count)
    raise_out_of_range("target", count, operands.input.shape[1], operands.ignore_index)


def _as_volume(operands: RegionInput) -> RegionInput:
    """The operands as kernels see them: the rows of a table (N, C) are the voxels of one sample."""
    if operands.input.ndim > 2:
        return operands
    input, target, mask = operands[:3]
    mask = mask if mask is None else as_table(mask)
    return operands._replace(input=as_table(input), target=as_table(target), mask=mask)


def _operands(arguments: Sequence[Any]) -> RegionInput:
    return _as_volume(RegionInput(*arguments))


def _of_table(gradient: Tensor, input: Tensor) -> Tensor:
    """The gradient of an input in its shape, from that of the input as backends see it."""
    if input.ndim == 3:
        return gradient
    _, by_column, by_row = gradient.stride()
    return gradient.as_strided(input.shape, (by_row, by_column))


_FIELDS = len(RegionInput._fields)


def _region_sums(*arguments: Any) -> tuple[Tensor, Tensor]:
    *fields, nll, soft, hard, validate, backend = arguments
    operands = _operands(fields)
    stacked, invalid = _select(operands, backend).region_sums(operands, Wanted(nll, soft, hard))
    if is_reported(invalid, validate):
        _raise_invalid(operands, int(invalid.sum()))
    counts = _hard_counts(stacked) if hard else stacked.new_empty(0, dtype=torch.int64)
    return stacked.to(sums_dtype(operands.input.dtype)), counts


def _region_sums_backward(*arguments: Any) -> Tensor:
    *fields, gradient, scale, backend = arguments
    operands = _operands(fields)
    return _of_table(_select(operands, backend).region_sums_backward(operands, gradient, scale), arguments[0])


def _each_pass(arguments: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The operands of each of several passes over the same tensors."""
    input, target, mask, activations, ignore_index, uncertain, smoothings, gammas = arguments[:_FIELDS]
    return [
        (input, target, mask, activation, ignore_index, uncertain, smoothing, gamma)
        for activation, smoothing, gamma in zip(activations, smoothings, gammas, strict=True)
    ]


def _region_passes(*arguments: Any) -> tuple[Tensor, Tensor]:
    nll, soft, hard, validate, backend = arguments[_FIELDS:]
    results: list[tuple[Tensor, Tensor]] = []
    for fields, *wanted in zip(_each_pass(arguments), nll, soft, strict=True):
        # All passes have the same hard target, and labels out of range.
        is_first = not results
        results.append(_region_sums(*fields, *wanted, hard and is_first, validate if is_first else False, backend))
    return torch.stack([stacked for stacked, _ in results]), results[0][1]


def _region_passes_backward(*arguments: Any) -> Tensor:
    gradient, soft, backend = arguments[_FIELDS:]
    total: Tensor | None = None
    for fields, by_sums, has_soft in zip(_each_pass(arguments), gradient, soft, strict=True):
        operands, rows = _operands(fields), HARD_TP if has_soft else BASIC
        total = _select(operands, backend).region_sums_backward(operands, by_sums[:rows], None, total)
    assert total is not None
    return _of_table(total, arguments[0])


def _region_loss(*arguments: Any) -> tuple[Tensor, Tensor]:
    operands = _operands(arguments[:_FIELDS])
    region, pos, neg, numbers, validate, backend = arguments[_FIELDS:]
    loss, weights = RatioLinear.of_numbers(tuple(numbers)), LossWeights(region, pos, neg)
    chosen = _select(operands, backend)
    fused = getattr(chosen, "region_loss", None)
    if fused is not None:
        value, gradient, invalid = fused(operands, loss, weights)
    else:
        wanted = Wanted(nll=loss.lambda_nll != 0)
        stacked, invalid = chosen.region_sums(operands, wanted)
        sums = unstack(stacked, None, operands.activation, wanted)
        value = formulas.ratio_linear(sums, loss, weights)
        gradient = formulas.ratio_linear_gradient(sums, loss, weights)
    if is_reported(invalid, validate):
        _raise_invalid(operands, int(invalid.sum()))
    dtype = sums_dtype(operands.input.dtype)
    return (value, gradient) if value.dtype == gradient.dtype == dtype else (value.to(dtype), gradient.to(dtype))


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
    _region_sums,
)
define(
    f"region_sums_backward({_OPERANDS}, Tensor gradient, Tensor? scale, str backend) -> Tensor", _region_sums_backward
)
define(
    f"region_passes({_PASSES}, bool[] nll, bool[] soft, bool hard, bool? validate, str backend) -> (Tensor, Tensor)",
    _region_passes,
)
define(
    f"region_passes_backward({_PASSES}, Tensor gradient, bool[] soft, str backend) -> Tensor", _region_passes_backward
)
define(
    f"region_loss({_OPERANDS}, Tensor? region_weight, Tensor? nll_pos_weight, Tensor? nll_neg_weight, "
    "float[] loss, bool? validate, str backend) -> (Tensor, Tensor)",
    _region_loss,
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


register_autograd("region_sums", _region_sums, Differentiable)
register_autograd("region_passes", _region_passes, DifferentiablePasses)
register_autograd("region_loss", _region_loss, Differentiable)
register_autograd("region_sums_backward", _region_sums_backward, OnceDifferentiable)
register_autograd("region_passes_backward", _region_passes_backward, OnceDifferentiable)


def region_sums(operands: RegionInput, wanted: Wanted, validate: bool | None, backend: str) -> RegionSums:
    """The sums of one pass; the optional ones are None unless wanted and defined."""
    stacked, counts = torch.ops.fastmed.region_sums(*operands, *wanted, validate, backend)
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
    stacked, counts = torch.ops.fastmed.region_passes(
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
    if input.requires_grad and torch.is_grad_enabled() and is_undisturbed(input):
        step = getattr(_select(operands, backend), "region_step", None)
        done = step and step(operands, loss, weights)
        if done:
            value, gradient, invalid = done
            if invalid and validate is not False:
                _raise_invalid(_as_volume(operands), invalid)
            differentiable: Tensor = GradientAtHand.apply(input, (value, gradient))
            return differentiable
    numbers = loss.numbers()
    loss_value: Tensor = torch.ops.fastmed.region_loss(*operands, *weights, numbers, validate, backend)[0]
    return loss_value
