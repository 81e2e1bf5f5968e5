"""One logit against one target: the sigmoid, its cross entropy, plain and focal, and their derivatives.

All take t = exp(-|x|), so that nothing overflows and nothing cancels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from .compilation import elementwise
from .vector_math import exp_non_positive, log1p_unit

_F = np.float32


@elementwise
def sigmoids(x: Any, t: Any) -> Any:
    """The sigmoids p of x and 1 - p of -x, without cancellation and with one comparison."""
    larger = _F(1.0) / (_F(1.0) + t)
    smaller = t * larger
    return (larger, smaller) if x >= _F(0.0) else (smaller, larger)


@elementwise
def sigmoid(x: Any, t: Any) -> Any:
    """The sigmoid p of x alone."""
    return sigmoids(x, t)[0]


@elementwise
def softplus(x: Any, log_sum: Any) -> Any:
    """log(1 + exp(x)) from log(1 + t): -log p is the softplus of -x, and -log(1 - p) that of x."""
    return max(x, _F(0.0)) + log_sum


def power(q: Any, minus_log: Any, gamma: Any) -> Any:
    """q^gamma of a probability, from it or from its logarithm; a whole number for gamma stands for 2, the usual one."""
    raise NotImplementedError("compiled code only")


@overload(power, inline="always")
def _overload_power(q: Any, minus_log: Any, gamma: Any) -> Any:
    def square(q: Any, minus_log: Any, gamma: Any) -> Any:
        return q * q

    def of_logarithm(q: Any, minus_log: Any, gamma: Any) -> Any:
        return exp_non_positive(-gamma * minus_log)

    return square if isinstance(gamma, types.Integer) else of_logarithm


@elementwise
def focal(x: Any, t: Any, gamma: Any) -> Any:
    """`(1 - p)^gamma (-log p)` and its derivative by x, `-(1 - p)^gamma (gamma p (-log p) + 1 - p)`.

    Those of -x are `p^gamma (-log(1 - p))` and its derivative by -x. For gamma see `power`.
    """
    log_sum, (p, other) = log1p_unit(t), sigmoids(x, t)
    factor, minus_log = power(other, softplus(x, log_sum), gamma), softplus(-x, log_sum)
    return factor * minus_log, -factor * (_F(gamma) * p * minus_log + other)


@elementwise
def focal_nll(x: Any, t: Any, gamma: Any) -> Any:
    """The value of `focal`."""
    return focal(x, t, gamma)[0]


@elementwise
def focal_slope(x: Any, t: Any, gamma: Any) -> Any:
    """The derivative of `focal`; at gamma 0, p - 1."""
    return focal(x, t, gamma)[1]
