"""One logit against one target: the sigmoid, its cross entropy, plain and focal, and their derivatives.

All take t = exp(-|x|), so that nothing overflows and nothing cancels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compilation import elementwise
from .vector_math import exp_non_positive, log1p_unit

_F = np.float32


@elementwise
def sigmoid(x: Any, t: Any) -> Any:
    """The sigmoid p of x; that of -x is 1 - p without cancellation."""
    reciprocal = _F(1.0) / (_F(1.0) + t)
    return reciprocal if x >= _F(0.0) else t * reciprocal


@elementwise
def softplus(x: Any, log_sum: Any) -> Any:
    """log(1 + exp(x)) from log(1 + t): -log p is the softplus of -x, and -log(1 - p) that of x."""
    return max(x, _F(0.0)) + log_sum


@elementwise
def focal_nll(x: Any, t: Any, gamma: Any) -> Any:
    """`(1 - p)^gamma (-log p)`; that of -x is `p^gamma (-log(1 - p))`."""
    log_sum = log1p_unit(t)
    return exp_non_positive(-gamma * softplus(x, log_sum)) * softplus(-x, log_sum)


@elementwise
def focal_slope(x: Any, t: Any, gamma: Any) -> Any:
    """The derivative of `focal_nll` by x, `-(1 - p)^gamma (gamma p (-log p) + 1 - p)`; at gamma 0, p - 1."""
    log_sum = log1p_unit(t)
    factor = exp_non_positive(-gamma * softplus(x, log_sum))
    return -factor * (gamma * sigmoid(x, t) * softplus(-x, log_sum) + sigmoid(-x, t))
