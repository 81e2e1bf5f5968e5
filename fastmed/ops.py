"""The operators a compiler sees: torch.library schemas, fakes and autograd around the backends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import dispatch, formulas
from .contract import STATISTICS, Backend, LossWeights, RatioLinear, RegionInput, RegionSums, Request

_OPERANDS = "Tensor input, Tensor target, Tensor? mask, str activation, int? ignore_index"
_RATIO_LINEAR = (
    "float numerator_tp, float denominator_tp, float denominator_pred, float denominator_target, "
    "float smooth_numerator, float smooth_denominator, bool squared, int first_class, bool pool_batch, "
    "float lambda_ratio, float lambda_nll, str nll_mean, bool mean"
)

_library = torch.library.Library("fastmed", "DEF")
_library.define(f"region_sums({_OPERANDS}, bool nll, bool? validate, str backend) -> Tensor")
_library.define(
    f"region_sums_backward({_OPERANDS}, Tensor gradient, Tensor? scale, str backend) -> Tensor",
)
_library.define(
    f"region_loss({_OPERANDS}, Tensor? region_weight, Tensor? nll_pos_weight, Tensor? nll_neg_weight, "
    f"{_RATIO_LINEAR}, bool? validate, str backend) -> (Tensor, Tensor)"
)
_library.define(
    "confusion_counts(Tensor prediction, Tensor target, int num_classes, int? ignore_index, bool? validate, "
    "str backend) -> Tensor"
)


def sums_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type of the sums and losses for logits of this type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def unstack(stacked: Tensor, activation: str, nll: bool) -> RegionSums:
    """The stacked sums by name; statistics that were not computed become None."""
    tp, pred, pred_sq, target, target_sq, nll_pos, nll_neg, weight = stacked.unbind(0)
    has_nll = nll and activation != "none"
    return RegionSums(
        tp,
        pred,
        pred_sq,
        target,
        target_sq,
        nll_pos if has_nll else None,
        nll_neg if has_nll and activation == "sigmoid" else None,
        weight,
    )


def _select(operands: RegionInput, backend: str) -> Backend:
    input, target = operands.input, operands.target
    return dispatch.select(
        Request("region_sums", input.device.type, input.dtype, target.dtype, input.shape[1]), backend
    )


def _raise_on_invalid(invalid: Tensor, validate: bool | None, num_classes: int, ignore_index: int | None) -> None:
    """Labels out of range are an error at once where looking costs no device synchronisation, or if asked."""
    if validate is False or (validate is None and invalid.device.type != "cpu"):
        return
    if (count := int(invalid.sum())) > 0:
        extra = "" if ignore_index is None else f", or {ignore_index} (ignore_index)"
        raise ValueError(f"target: {count} labels are out of range, allowed are 0 to {num_classes - 1}{extra}")


def _region_sums(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    activation: str,
    ignore_index: int | None,
    nll: bool,
    validate: bool | None,
    backend: str,
) -> Tensor:
    operands = RegionInput(input, target, mask, activation, ignore_index)
    stacked, invalid = _select(operands, backend).region_sums(operands, nll)
    _raise_on_invalid(invalid, validate, input.shape[1], ignore_index)
    return stacked.to(sums_dtype(input.dtype))


def _region_sums_backward(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    activation: str,
    ignore_index: int | None,
    gradient: Tensor,
    scale: Tensor | None,
    backend: str,
) -> Tensor:
    operands = RegionInput(input, target, mask, activation, ignore_index)
    return _select(operands, backend).region_sums_backward(operands, gradient, scale)


def _region_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    activation: str,
    ignore_index: int | None,
    region_weight: Tensor | None,
    nll_pos_weight: Tensor | None,
    nll_neg_weight: Tensor | None,
    *arguments: Any,
) -> tuple[Tensor, Tensor]:
    *fields, validate, backend = arguments
    loss = RatioLinear(*fields)
    weights = LossWeights(region_weight, nll_pos_weight, nll_neg_weight)
    operands = RegionInput(input, target, mask, activation, ignore_index)
    chosen = _select(operands, backend)
    fused = getattr(chosen, "region_loss", None)
    if fused is not None:
        value, gradient, invalid = fused(operands, loss, weights)
    else:
        nll = loss.lambda_nll != 0
        stacked, invalid = chosen.region_sums(operands, nll)
        sums = unstack(stacked, activation, nll)
        value = formulas.ratio_linear(sums, loss, weights)
        gradient = formulas.ratio_linear_gradient(sums, loss, weights)
    _raise_on_invalid(invalid, validate, input.shape[1], ignore_index)
    dtype = sums_dtype(input.dtype)
    return value.to(dtype), gradient.to(dtype)


def _confusion_counts(
    prediction: Tensor,
    target: Tensor,
    num_classes: int,
    ignore_index: int | None,
    validate: bool | None,
    backend: str,
) -> Tensor:
    request = Request("confusion_counts", target.device.type, prediction.dtype, target.dtype, num_classes)
    counts, invalid = dispatch.select(request, backend).confusion_counts(prediction, target, num_classes, ignore_index)
    _raise_on_invalid(invalid, validate, num_classes, ignore_index)
    return counts


for _name, _body in {
    "region_sums": _region_sums,
    "region_sums_backward": _region_sums_backward,
    "region_loss": _region_loss,
    "confusion_counts": _confusion_counts,
}.items():
    _library.impl(_name, _body, "CompositeExplicitAutograd")


@torch.library.register_fake("fastmed::region_sums")
def _(input: Tensor, *_arguments: Any) -> Tensor:
    return input.new_empty((STATISTICS, *input.shape[:2]), dtype=sums_dtype(input.dtype))


@torch.library.register_fake("fastmed::region_sums_backward")
def _(input: Tensor, *_arguments: Any) -> Tensor:
    return torch.empty_like(input)


@torch.library.register_fake("fastmed::region_loss")
def _(input: Tensor, *_arguments: Any) -> tuple[Tensor, Tensor]:
    dtype = sums_dtype(input.dtype)
    return input.new_empty((), dtype=dtype), input.new_empty((STATISTICS, *input.shape[:2]), dtype=dtype)


@torch.library.register_fake("fastmed::confusion_counts")
def _(prediction: Tensor, target: Tensor, num_classes: int, *_arguments: Any) -> Tensor:
    return target.new_empty((target.shape[0], num_classes, num_classes), dtype=torch.int64)


def _save_operands(ctx: Any, inputs: tuple[Any, ...], *saved: Tensor) -> None:
    input, target, mask, ctx.activation, ctx.ignore_index, *_, ctx.backend = inputs
    ctx.save_for_backward(input, target, mask, *saved)


def _setup_region_sums(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _save_operands(ctx, inputs)
    ctx.arguments = len(inputs)


def _setup_region_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _save_operands(ctx, inputs, output[1])
    ctx.arguments = len(inputs)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, saved: tuple[Tensor, ...], gradient: Tensor, scale: Tensor | None) -> tuple[Any, ...]:
    input, target, mask, *_ = saved
    grad_input = torch.ops.fastmed.region_sums_backward(
        input, target, mask, ctx.activation, ctx.ignore_index, gradient, scale, ctx.backend
    )
    return (grad_input, *[None] * (ctx.arguments - 1))


def _backward_region_sums(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    return _backward(ctx, ctx.saved_tensors, gradient, None)


def _backward_region_loss(ctx: Any, scale: Tensor, _gradient: Tensor | None) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    return _backward(ctx, saved, saved[-1], scale)


def _refuse_double_backward(ctx: Any, *_gradients: Tensor) -> None:
    raise NotImplementedError("fastmed losses are differentiable once; the gradient itself has no backward pass")


torch.library.register_autograd(
    "fastmed::region_sums", _backward_region_sums, setup_context=_setup_region_sums, lib=_library
)
torch.library.register_autograd(
    "fastmed::region_loss", _backward_region_loss, setup_context=_setup_region_loss, lib=_library
)
torch.library.register_autograd("fastmed::region_sums_backward", _refuse_double_backward, lib=_library)
