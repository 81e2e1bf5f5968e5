"""Autograd around the operators: what is kept for a backward pass, and when the dispatcher may be left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from ..contract import BASIC, HARD_TP, Wanted
from . import passes
from .library import library
from .passes import FIELDS
from .shortcut import call, is_undisturbed


class _Below(NamedTuple):
    """An operator below autograd: where the dispatcher would go on to."""

    op: Any
    body: Callable[..., Any]
    keys: Any

    def run(self, *arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            # The dispatcher leads elsewhere than to the body only under fake tensors, tracing, tensor subclasses,
            # function transforms and the like.
            is_last = (self.keys & _BELOW_AUTOGRAD).highestPriorityTypeId() in _DEVICES
            if is_last and not torch._C._are_functorch_transforms_active():
                return self.body(*arguments)
            return self.op(*arguments)


_BELOW_AUTOGRAD = torch._C._after_ADInplaceOrView_keyset
_DEVICES = (torch._C.DispatchKey.CPU, torch._C.DispatchKey.CUDA)


class _Function(_SingleLevelFunction):
    """`torch.autograd.Function` below the dispatcher, which has taken the transforms of torch.func apart already."""

    apply: ClassVar[Any]


class OnceDifferentiable(_Function):
    """Runs what computes a gradient, and refuses to be differentiated in its turn."""

    @staticmethod
    def forward(ctx: Any, _input: Tensor, run: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return run(*arguments)

    @staticmethod
    def backward(ctx: Any, *_by_output: Tensor) -> Any:
        raise NotImplementedError("fastmed losses are differentiable once; the gradient itself has no backward pass")


class Differentiable(_Function):
    """Runs an operator whose first output is differentiable; its backward pass is `region_sums_backward`."""

    @staticmethod
    def forward(ctx: Any, _input: Tensor, run: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        first, second = run(*arguments)
        input, target, mask, activation, ignore_index, uncertain, *nll_options = arguments[:FIELDS]
        ctx.mark_non_differentiable(second)
        # What comes with a loss is its gradient by the sums; what comes with sums are counts.
        by_sums = second if first.ndim == 0 else None
        ctx.rows = HARD_TP if by_sums is None and Wanted(*arguments[FIELDS:-2]).soft else BASIC
        ctx.save_for_backward(input, target, mask, uncertain, by_sums)
        ctx.options, ctx.nll_options, ctx.backend = (activation, ignore_index), nll_options, arguments[-1]
        return first, second

    @staticmethod
    def backward(ctx: Any, *by_output: Tensor) -> tuple[Any, ...]:
        input, target, mask, uncertain, by_sums = ctx.saved_tensors
        gradient = (by_output[0][: ctx.rows], None) if by_sums is None else (by_sums, by_output[0])
        operands = (input, target, mask, *ctx.options, uncertain, *ctx.nll_options)
        op, body = torch.ops.fastmed.region_sums_backward.default, passes.region_sums_backward
        return call(op, body, OnceDifferentiable, *operands, *gradient, ctx.backend), None, None


class DifferentiablePasses(_Function):
    """Runs `region_passes`; the gradients of all passes go into one tensor."""

    @staticmethod
    def forward(ctx: Any, _input: Tensor, run: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        stacked, counts = run(*arguments)
        input, target, mask, activations, ignore_index, uncertain, *nll_options = arguments[:FIELDS]
        ctx.mark_non_differentiable(counts)
        ctx.save_for_backward(input, target, mask, uncertain)
        ctx.options, ctx.nll_options = (activations, ignore_index), nll_options
        ctx.soft, ctx.backend = arguments[FIELDS + 1], arguments[-1]
        return stacked, counts

    @staticmethod
    def backward(ctx: Any, *by_output: Tensor) -> tuple[Any, ...]:
        input, target, mask, uncertain = ctx.saved_tensors
        operands = (input, target, mask, *ctx.options, uncertain, *ctx.nll_options)
        op, body = torch.ops.fastmed.region_passes_backward.default, passes.region_passes_backward
        return call(op, body, OnceDifferentiable, *operands, by_output[0], ctx.soft, ctx.backend), None, None


class GradientAtHand(_Function):
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
            return OnceDifferentiable.apply(input, torch.mul, (gradient, by_value)), None
        is_one = by_value.is_cpu and is_undisturbed(by_value) and by_value.item() == 1.0
        return gradient if is_one else gradient * by_value, None


def _apply_at_one_level(function: type[_Function], below: _Below, arguments: tuple[Any, ...]) -> Any:
    """Differentiates for one of the transforms of torch.func; the operator goes on to those below, if there are any."""

    def run(*arguments: Any) -> Any:
        # A function's own forward runs without gradients, which the transforms below may be asked for.
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            return below.run(*arguments)

    with enable_single_level_autograd_function():
        return function.apply(arguments[0], run, arguments)


def register_autograd(name: str, body: Callable[..., Any], function: type[_Function]) -> None:
    """What `torch.library.register_autograd` does, without rebuilding the schema once per argument on each call."""
    op = getattr(torch.ops.fastmed, name).default

    def run(keys: Any, *arguments: Any) -> Any:
        below = _Below(op, body, keys)
        if forward_ad._current_level >= 0 and forward_ad.unpack_dual(arguments[0]).tangent is not None:
            raise NotImplementedError(
                "fastmed losses have no forward-mode derivative; differentiate in reverse: backward(), "
                "torch.func.grad, torch.func.vjp or torch.func.jacrev"
            )
        if not (torch.is_grad_enabled() and arguments[0].requires_grad):
            return below.run(*arguments)
        if torch._C._are_functorch_transforms_active():
            return _apply_at_one_level(function, below, arguments)
        return function.apply(arguments[0], below.run, arguments)

    library.impl(name, run, "Autograd", with_keyset=True)
