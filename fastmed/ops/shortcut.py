"""The way to an operator past the dispatcher, where nobody stands on the way through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_PLAIN = (Tensor, torch.nn.Parameter)


def is_undisturbed(input: Tensor, *others: Any) -> bool:
    """Whether nothing looks at the operators that tensors pass: no compiler, mode, transform, trace or subclass."""
    if torch.compiler.is_compiling() or type(input) not in _PLAIN or forward_ad._current_level >= 0:
        return False
    for other in others:
        if isinstance(other, Tensor) and type(other) not in _PLAIN:
            return False
    if torch._C._are_functorch_transforms_active() or not (input.is_cpu or input.is_cuda):
        return False
    return torch._C._get_tracing_state() is None and not torch._C._dispatch_isTensorSubclassLike(input)


def call(op: Any, body: Callable[..., Any], function: Any, *arguments: Any) -> Any:
    """An operator; straight to its body where that is all the dispatcher would come to, and no profile is taken.

    The way over the dispatcher takes longer than the arithmetic on a small batch, most of all where other work has
    taken the processor's caches since the last call, as a network does. `function` differentiates it, an autograd
    function or None.
    """
    input = arguments[0]
    if not is_undisturbed(*arguments) or torch._C._autograd._profiler_enabled():
        return op(*arguments)

    def run(*arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return body(*arguments)

    if function is not None and torch.is_grad_enabled() and input.requires_grad:
        return function.apply(input, run, arguments)
    return run(*arguments)
