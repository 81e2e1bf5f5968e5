"""The operators a compiler sees: torch.library schemas, fakes and autograd around the backends."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from . import dispatch, formulas
from .contract import STATISTICS, Backend, LossWeights, RatioLinear, RegionInput, RegionSums, Request

_OPERANDS = (
    "Tensor input, Tensor target, Tensor? mask, str activation, int? ignore_index, Tensor? uncertain, "
    "float label_smoothing, float gamma"
)
_library = torch.library.Library("fastmed", "DEF")
_library.define(f"region_sums({_OPERANDS}, bool nll, bool? validate, str backend) -> Tensor")
_library.define(
    f"region_sums_backward({_OPERANDS}, Tensor gradient, Tensor? scale, str backend) -> Tensor",
)
_library.define(
    f"region_loss({_OPERANDS}, Tensor? region_weight, Tensor? nll_pos_weight, Tensor? nll_neg_weight, "
    "float[] loss, bool? validate, str backend) -> (Tensor, Tensor)"
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


def _is_reported(invalid: Tensor, validate: bool | None) -> bool:
    """Whether labels out of range raise: at once where looking costs no device synchronisation, or if asked."""
    looked_at = invalid.is_cpu if validate is None else validate
    return looked_at and any(invalid.tolist())


def _raise_out_of_range(count: int, num_classes: int, ignore_index: int | None) -> NoReturn:
    extra = "" if ignore_index is None else f", or {ignore_index} (ignore_index)"
    raise ValueError(f"target: {count} labels are out of range, allowed are 0 to {num_classes - 1}{extra}")


def _raise_unknown(operands: RegionInput, count: int) -> NoReturn:
    """Names task and value of the first label that is neither in [0, 1] nor missing nor uncertain."""
    target = operands.target.to(torch.float64)
    known = ((target >= 0) & (target <= 1)) | target.isnan() | (target == -1)
    if operands.ignore_index is not None:
        known |= target == operands.ignore_index
    if operands.mask is not None:
        known |= operands.mask == 0
    sample, task, voxel = (~known).nonzero()[0].tolist()
    raise ValueError(
        f"target: got {target[sample, task, voxel].item():g} for task {task} ({count} such values in all), "
        "allowed are 0 to 1, NaN (missing) and -1 (uncertain)"
    )


def _raise_invalid(operands: RegionInput, count: int) -> NoReturn:
    if operands.uncertain is not None:
        _raise_unknown(operands, count)
    _raise_out_of_range(count, operands.input.shape[1], operands.ignore_index)


def _as_table(tensor: Tensor) -> Tensor:
    rows, columns = tensor.shape
    by_row, by_column = tensor.stride()
    # One view instead of the two of a transposition and a new dimension: this is the path of small batches.
    return tensor.as_strided((1, columns, rows), (rows * by_row, by_column, by_row))


def _as_volume(operands: RegionInput) -> RegionInput:
    """The operands as kernels see them: the rows of a table (N, C) are the voxels of one sample."""
    input, target, mask, *options = operands
    if input.ndim == 2:
        input, target, mask = _as_table(input), _as_table(target), None if mask is None else _as_table(mask)
    return RegionInput(input, target, mask, *options)


def _operands(arguments: Sequence[Any]) -> RegionInput:
    return _as_volume(RegionInput(*arguments))


def _of_table(gradient: Tensor, input: Tensor) -> Tensor:
    """The gradient of an input in its shape, from that of the input as backends see it."""
    if input.ndim == 3:
        return gradient
    _, by_column, by_row = gradient.stride()
    return gradient.as_strided(input.shape, (by_row, by_column))


_FIELDS = len(RegionInput._fields)


def _region_sums(*arguments: Any) -> Tensor:
    *fields, nll, validate, backend = arguments
    operands = _operands(fields)
    stacked, invalid = _select(operands, backend).region_sums(operands, nll)
    if _is_reported(invalid, validate):
        _raise_invalid(operands, int(invalid.sum()))
    return stacked.to(sums_dtype(operands.input.dtype))


def _region_sums_backward(*arguments: Any) -> Tensor:
    *fields, gradient, scale, backend = arguments
    operands = _operands(fields)
    return _of_table(_select(operands, backend).region_sums_backward(operands, gradient, scale), arguments[0])


def _region_loss(*arguments: Any) -> tuple[Tensor, Tensor]:
    operands = _operands(arguments[:_FIELDS])
    region, pos, neg, numbers, validate, backend = arguments[_FIELDS:]
    loss, weights = RatioLinear.of_numbers(tuple(numbers)), LossWeights(region, pos, neg)
    chosen = _select(operands, backend)
    fused = getattr(chosen, "region_loss", None)
    if fused is not None:
        value, gradient, invalid = fused(operands, loss, weights)
    else:
        nll = loss.lambda_nll != 0
        stacked, invalid = chosen.region_sums(operands, nll)
        sums = unstack(stacked, operands.activation, nll)
        value = formulas.ratio_linear(sums, loss, weights)
        gradient = formulas.ratio_linear_gradient(sums, loss, weights)
    if _is_reported(invalid, validate):
        _raise_invalid(operands, int(invalid.sum()))
    dtype = sums_dtype(operands.input.dtype)
    return (value, gradient) if value.dtype == gradient.dtype == dtype else (value.to(dtype), gradient.to(dtype))


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
    if _is_reported(invalid, validate):
        _raise_out_of_range(int(invalid.sum()), num_classes, ignore_index)
    return counts


for _name, _body in {
    "region_sums": _region_sums,
    "region_sums_backward": _region_sums_backward,
    "region_loss": _region_loss,
    "confusion_counts": _confusion_counts,
}.items():
    _library.impl(_name, _body, "CompositeExplicitAutograd")


def _stacked(input: Tensor) -> Tensor:
    samples = input.shape[0] if input.ndim == 3 else 1
    return input.new_empty((STATISTICS, samples, input.shape[1]), dtype=sums_dtype(input.dtype))


@torch.library.register_fake("fastmed::region_sums")
def _(input: Tensor, *_arguments: Any) -> Tensor:
    return _stacked(input)


@torch.library.register_fake("fastmed::region_sums_backward")
def _(input: Tensor, *_arguments: Any) -> Tensor:
    return torch.empty_like(input)


@torch.library.register_fake("fastmed::region_loss")
def _(input: Tensor, *_arguments: Any) -> tuple[Tensor, Tensor]:
    return input.new_empty((), dtype=sums_dtype(input.dtype)), _stacked(input)


@torch.library.register_fake("fastmed::confusion_counts")
def _(prediction: Tensor, target: Tensor, num_classes: int, *_arguments: Any) -> Tensor:
    return target.new_empty((target.shape[0], num_classes, num_classes), dtype=torch.int64)


# What an ordinary tensor passes on its way through the dispatcher without being changed.
_ORDINARY = functools.reduce(
    operator.or_,
    (
        torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name))
        for name in ("AutogradCPU", "AutogradCUDA", "ADInplaceOrView", "BackendSelect", "AutocastCPU", "AutocastCUDA")
    ),
)
_DEVICES = (torch._C.DispatchKey.CPU, torch._C.DispatchKey.CUDA)


def _is_undisturbed(input: Tensor, target: Tensor, mask: Tensor | None) -> bool:
    """Whether the dispatcher would lead from these tensors straight to autograd and the body of an operator.

    It leads elsewhere for a compiler, fake tensors, tracing, transforms and tensor subclasses.
    """
    if torch.compiler.is_compiling() or type(input) not in _PLAIN or type(target) not in _PLAIN:
        return False
    if mask is not None and type(mask) not in _PLAIN:
        return False
    keys = torch._C._dispatch_keys(input) | torch._C._dispatch_tls_local_include_set()
    keys = keys - torch._C._dispatch_tls_local_exclude_set() - _ORDINARY
    return keys.highestPriorityTypeId() in _DEVICES


_PLAIN = (Tensor, torch.nn.Parameter)


class _Operator:
    """An operator with its autograd; called straight where the dispatcher would only come back to it.

    On a small batch the way over the dispatcher takes longer than the arithmetic.
    """

    def __init__(self, name: str, body: Callable[..., Any], function: type[torch.autograd.Function]) -> None:
        self._op = getattr(torch.ops.fastmed, name).default
        self._body = body
        self._function = function
        _library.impl(name, self._dispatched, "Autograd")

    def __call__(self, *arguments: Any) -> Any:
        if _is_undisturbed(*arguments[:3]):
            return self._differentiable(self._body, arguments)
        return self._op(*arguments)

    def _dispatched(self, *arguments: Any) -> Any:
        return self._differentiable(self._op, arguments)

    def _differentiable(self, below: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if torch.is_grad_enabled() and arguments[0].requires_grad:
            return self._function.apply(arguments[0], below, arguments)
        return _below_autograd(below, arguments)


def _below_autograd(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return function(*arguments)


class _OnceDifferentiable(torch.autograd.Function):
    """Runs what computes a gradient, and refuses to be differentiated in its turn."""

    @staticmethod
    def forward(ctx: Any, _input: Tensor, below: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return _below_autograd(below, arguments)

    @staticmethod
    def backward(ctx: Any, *_by_output: Tensor) -> Any:
        raise NotImplementedError("fastmed losses are differentiable once; the gradient itself has no backward pass")


class _Differentiable(torch.autograd.Function):
    """Runs an operator; its backward pass is `region_sums_backward`."""

    @staticmethod
    def forward(ctx: Any, _input: Tensor, below: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        output = _below_autograd(below, arguments)
        input, target, mask, activation, ignore_index, uncertain, *nll_options = arguments[:_FIELDS]
        by_sums = None
        if isinstance(output, tuple):
            by_sums = output[1]
            ctx.mark_non_differentiable(by_sums)
        ctx.save_for_backward(input, target, mask, uncertain, by_sums)
        ctx.options, ctx.nll_options, ctx.backend = (activation, ignore_index), nll_options, arguments[-1]
        return output

    @staticmethod
    def backward(ctx: Any, *by_output: Tensor) -> tuple[Any, ...]:
        input, target, mask, uncertain, by_sums = ctx.saved_tensors
        gradient = (by_output[0], None) if by_sums is None else (by_sums, by_output[0])
        operands = (input, target, mask, *ctx.options, uncertain, *ctx.nll_options)
        return _sums_backward(*operands, *gradient, ctx.backend), None, None


class _GradientAtHand(torch.autograd.Function):
    """A loss whose gradient was computed along with it."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, value_and_gradient: tuple[Tensor, Tensor]) -> Tensor:
        value, gradient = value_and_gradient
        ctx.save_for_backward(input, gradient)
        return value

    @staticmethod
    def backward(ctx: Any, by_value: Tensor) -> tuple[Any, ...]:
        input, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _OnceDifferentiable.apply(input, torch.mul, (gradient, by_value)), None
        return gradient * by_value, None


_sums = _Operator("region_sums", _region_sums, _Differentiable)
_sums_backward = _Operator("region_sums_backward", _region_sums_backward, _OnceDifferentiable)
_loss = _Operator("region_loss", _region_loss, _Differentiable)


def region_sums(operands: RegionInput, nll: bool, validate: bool | None, backend: str) -> RegionSums:
    """The sums of one pass; those of the nll are None unless asked for and defined."""
    return unstack(_sums(*operands, nll, validate, backend), operands.activation, nll)


def region_loss(
    operands: RegionInput, loss: RatioLinear, weights: LossWeights, validate: bool | None, backend: str
) -> Tensor:
    """The loss, a scalar; that of a small batch comes with its gradient."""
    input = operands.input
    if input.requires_grad and torch.is_grad_enabled() and _is_undisturbed(*operands[:3]):
        step = getattr(_select(operands, backend), "region_step", None)
        done = step and _below_autograd(step, (operands, loss, weights))
        if done:
            value, gradient, invalid = done
            if invalid and validate is not False:
                _raise_invalid(_as_volume(operands), invalid)
            return cast(Tensor, _GradientAtHand.apply(input, (value, gradient)))
    return cast(Tensor, _loss(*operands, *weights, loss.numbers(), validate, backend)[0])
