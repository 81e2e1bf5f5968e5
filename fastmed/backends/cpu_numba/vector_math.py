"""Elementary functions that LLVM vectorises.

Numba's LLVM carries no vector mathematics library, so `math.exp` and `math.log1p` are scalar calls, ten times
slower than these polynomials. Each is accurate to 3 ulp of float32 on its stated range; NaN stays NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compilation import elementwise

_F = np.float32


@intrinsic
def float_of_bits(_context: Any, bits: Any) -> Any:
    """The float32 with these low 32 bits; Numba widens integer arithmetic, hence any integer type."""
    if not isinstance(bits, types.Integer):
        return None

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        value = builder.trunc(arguments[0], word) if bits.bitwidth > 32 else builder.zext(arguments[0], word)
        return builder.bitcast(value, ir.FloatType())

    return types.float32(bits), generate


@intrinsic
def bits_of_float(_context: Any, value: Any) -> Any:
    """The bits of a float32 as int32."""
    if value != types.float32:
        return None

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(value), generate


_LOG2_E = _F(1.44269504)
# A sum with it has no bits for a fraction: it is rounded to the nearest integer, and its last eight bits are that
# integer with the bias of an exponent.
_ROUNDER = _F(1.5 * 2.0**23 + 127.0)
_LN2_HIGH = _F(0.693359375)
_LN2_LOW = _F(-2.12194440e-4)


@elementwise
def exp_non_positive(x: Any) -> Any:
    """exp(x) for x <= 0; 0 below -87.7, where float32 turns subnormal."""
    x = _F(-88.0) if x < _F(-88.0) else x
    rounded = x * _LOG2_E + _ROUNDER
    k = rounded - _ROUNDER
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    # exp(r) = 1 + r + r^2 q(r) on [-ln 2 / 2, ln 2 / 2], q fitted for the least relative error, 3.1e-9.
    q = _F(1.3814537893e-3) * r + _F(8.3687453201e-3)
    q = (q * r + _F(4.1668390831e-2)) * r + _F(1.6666520397e-1)
    q = q * r + _F(4.9999993432e-1)
    p = (q * r + _F(1.0)) * r + _F(1.0)
    return p * float_of_bits(bits_of_float(rounded) << np.int32(23))


@elementwise
def log_positive(x: Any) -> Any:
    """log(x) for finite x in [1, 2^127]; NaN and infinity propagate."""
    # Numba computes in 64 bits, for which there is no vector shift: cut back to 32 at once.
    bits = np.int32(bits_of_float(x) - np.int32(0x3F3504F3))
    k = _F(np.int32(bits >> np.int32(23)))
    # The mantissa in [sqrt(1/2), sqrt(2)], less one: Cephes' logf.
    f = float_of_bits((bits & np.int32(0x007FFFFF)) + np.int32(0x3F3504F3)) - _F(1.0)
    f2 = f * f
    f3 = f2 * f
    low = (_F(2.0000714765e-1) * f + _F(-2.4999993993e-1)) * f + _F(3.3333331174e-1)
    middle = (_F(-1.2420140846e-1) * f + _F(1.4249322787e-1)) * f + _F(-1.6668057665e-1)
    high = (_F(7.0376836292e-2) * f + _F(-1.1514610310e-1)) * f + _F(1.1676998740e-1)
    p = (high * f3 + middle) * f3 + low
    value = f + (f3 * p - _F(0.5) * f2) + k * _LN2_LOW + k * _LN2_HIGH
    return value if x < _F(np.inf) else x


@elementwise
def log1p_unit(t: Any) -> Any:
    """log(1 + t) for t in [0, 1], to relative accuracy also for small t."""
    # log(1 + t) / t interpolated at the Chebyshev nodes of [0, 1] (1.4e-8), in Estrin's order.
    t2 = t * t
    t4 = t2 * t2
    a = _F(-4.999989271e-1) * t + _F(1.0)
    b = _F(-2.495161593e-1) * t + _F(3.332971036e-1)
    c = _F(-1.526966691e-1) * t + _F(1.966327429e-1)
    d = _F(-5.637361109e-2) * t + _F(1.054362357e-1)
    e = _F(-3.176057013e-3) * t + _F(1.954252645e-2)
    return t * ((e * t4 + (d * t2 + c)) * t4 + (b * t2 + a))
