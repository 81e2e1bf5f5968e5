"""What the operators of the fused pass compute: operands to a backend, its sums and gradients back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from .. import dispatch, formulas
from ..contract import BASIC, HARD_TP, Backend, LossWeights, RatioLinear, RegionInput, RegionSums, Request, Wanted
from .library import as_table, is_reported, raise_out_of_range, raise_unknown


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


def select(operands: RegionInput, backend: str) -> Backend:
    """The backend that runs a pass over these operands."""
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


def raise_invalid(operands: RegionInput, count: int) -> NoReturn:
    """Says which labels are out of range, or unknown, and what is allowed."""
    if operands.uncertain is not None:
        _raise_not_soft(operands, count)
    raise_out_of_range("target", count, operands.input.shape[1], operands.ignore_index)


def as_volume(operands: RegionInput) -> RegionInput:
    """The operands as kernels see them: the rows of a table (N, C) are the voxels of one sample."""
    if operands.input.ndim > 2:
        return operands
    input, target, mask = operands[:3]
    mask = mask if mask is None else as_table(mask)
    return operands._replace(input=as_table(input), target=as_table(target), mask=mask)


def _operands(arguments: Sequence[Any]) -> RegionInput:
    """The operands as kernels see them, with numbers of the types that the schemas of the operators say."""
    input, target, mask, activation, ignore_index, uncertain, label_smoothing, gamma = arguments
    ignore_index = None if ignore_index is None else int(ignore_index)
    options = (activation, ignore_index, uncertain, float(label_smoothing), float(gamma))
    return as_volume(RegionInput(input, target, mask, *options))


def _of_table(gradient: Tensor, input: Tensor) -> Tensor:
    """The gradient of an input in its shape, from that of the input as backends see it."""
    if input.ndim == 3:
        return gradient
    _, by_column, by_row = gradient.stride()
    return gradient.as_strided(input.shape, (by_row, by_column))


FIELDS = len(RegionInput._fields)


def region_sums(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The stacked sums of one pass, and hard counts or nothing."""
    *fields, nll, soft, hard, validate, backend = arguments
    operands = _operands(fields)
    stacked, invalid = select(operands, backend).region_sums(operands, Wanted(nll, soft, hard))
    if is_reported(invalid, validate):
        raise_invalid(operands, int(invalid.sum()))
    counts = _hard_counts(stacked) if hard else stacked.new_empty(0, dtype=torch.int64)
    return stacked.to(sums_dtype(operands.input.dtype)), counts


def region_sums_backward(*arguments: Any) -> Tensor:
    """The gradient of the input from that of the stacked sums."""
    *fields, gradient, scale, backend = arguments
    operands = _operands(fields)
    return _of_table(select(operands, backend).region_sums_backward(operands, gradient, scale), arguments[0])


def _each_pass(arguments: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The operands of each of several passes over the same tensors."""
    input, target, mask, activations, ignore_index, uncertain, smoothings, gammas = arguments[:FIELDS]
    return [
        (input, target, mask, activation, ignore_index, uncertain, smoothing, gamma)
        for activation, smoothing, gamma in zip(activations, smoothings, gammas, strict=True)
    ]


def region_passes(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The stacked sums of several passes, and the hard counts of the first."""
    nll, soft, hard, validate, backend = arguments[FIELDS:]
    results: list[tuple[Tensor, Tensor]] = []
    for fields, *wanted in zip(_each_pass(arguments), nll, soft, strict=True):
        # All passes have the same hard target, and labels out of range.
        is_first = not results
        results.append(region_sums(*fields, *wanted, hard and is_first, validate if is_first else False, backend))
    return torch.stack([stacked for stacked, _ in results]), results[0][1]


def region_passes_backward(*arguments: Any) -> Tensor:
    """The gradient of the input from those of the sums of all passes, in one tensor."""
    gradient, soft, backend = arguments[FIELDS:]
    total: Tensor | None = None
    for fields, by_sums, has_soft in zip(_each_pass(arguments), gradient, soft, strict=True):
        operands, rows = _operands(fields), HARD_TP if has_soft else BASIC
        total = select(operands, backend).region_sums_backward(operands, by_sums[:rows], None, total)
    assert total is not None
    return _of_table(total, arguments[0])


def region_loss(*arguments: Any) -> tuple[Tensor, Tensor]:
    """A loss of the known family, and its gradient by the stacked sums."""
    operands = _operands(arguments[:FIELDS])
    region, pos, neg, numbers, validate, backend = arguments[FIELDS:]
    loss, weights = RatioLinear.of_numbers(tuple(numbers)), LossWeights(region, pos, neg)
    chosen = select(operands, backend)
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
        raise_invalid(operands, int(invalid.sum()))
    dtype = sums_dtype(operands.input.dtype)
    return (value, gradient) if value.dtype == gradient.dtype == dtype else (value.to(dtype), gradient.to(dtype))
