"""Between tensors of any type and tiles: one small C function for each type, compiled at its first use.

A kernel calls them by their addresses. So there is one kernel for all types, and not one for each combination.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numba import cfunc, types

from .compilation import elementwise
from .memory import F32, I32, flat
from .vector_math import bits_of_float, float_of_bits

_F = np.float32
_I = np.int32

PLAIN, BFLOAT16, FLOAT16 = range(3)
# An array of each type's elements, and how these are read: half formats as their bits, booleans as bytes.
_ELEMENTS = {
    torch.float32: (F32, PLAIN),
    torch.float64: (np.empty(0, np.float64), PLAIN),
    torch.bfloat16: (np.empty(0, np.uint16), BFLOAT16),
    torch.float16: (np.empty(0, np.uint16), FLOAT16),
    torch.bool: (np.empty(0, np.uint8), PLAIN),
    torch.uint8: (np.empty(0, np.uint8), PLAIN),
    torch.int8: (np.empty(0, np.int8), PLAIN),
    torch.uint16: (np.empty(0, np.uint16), PLAIN),
    torch.int16: (np.empty(0, np.int16), PLAIN),
    torch.uint32: (np.empty(0, np.uint32), PLAIN),
    torch.int32: (I32, PLAIN),
    torch.int64: (np.empty(0, np.int64), PLAIN),
}


def half(dtype: torch.dtype) -> int:
    """How a half format is read, or that it is none."""
    return _ELEMENTS[dtype][1]


# What a label tile holds of the ignored label, and of those that 32 bits do not hold: neither is a class.
IGNORED, _OTHER = _I(-(2**31)), _I(-(2**31) + 1)

# Address of a tile and its size; address of a memory, the first element and the stride; the ignored label.
_VALUES = types.void(*[types.int64] * 5)
_LABELS = types.void(*[types.int64] * 6)


@elementwise
def _from_bfloat16(bits: Any) -> Any:
    return float_of_bits(_I(bits) << _I(16))


@elementwise
def _from_float16(bits: Any) -> Any:
    magnitude = _I(bits) & _I(0x7FFF)
    # 2^112 moves the exponent bias from 15 to 127, subnormals included.
    value = float_of_bits(magnitude << _I(13)) * _F(2.0**112)
    special = float_of_bits((magnitude << _I(13)) | _I(0x7F800000))
    value = special if magnitude >= _I(0x7C00) else value
    return -value if _I(bits) >= _I(0x8000) else value


@elementwise
def _to_bfloat16(value: Any) -> Any:
    bits = bits_of_float(value)
    rounded = (bits + _I(0x7FFF) + ((bits >> _I(16)) & _I(1))) >> _I(16)
    return np.uint16((rounded if value == value else _I(0x7FC0)) & _I(0xFFFF))


@elementwise
def _to_float16(value: Any) -> Any:
    # Numba computes in 64 bits, and what is compared stays so: cut back to 32 at once.
    bits = bits_of_float(value)
    sign = _I(_I(bits >> _I(16)) & _I(0x8000))
    magnitude = _I(bits & _I(0x7FFFFFFF))
    # Subnormal results: adding 0.5 aligns the mantissa so that the addition itself rounds.
    small = _I(bits_of_float(float_of_bits(magnitude) + _F(0.5)) - _I(0x3F000000))
    odd = _I(_I(magnitude >> _I(13)) & _I(1))
    normal = _I(_I(_I(magnitude - _I(0x38000000 - 0xFFF)) + odd) >> _I(13))
    half = small if magnitude < _I(0x38800000) else normal
    half = _I(0x7C00) if magnitude >= _I(0x47800000) else half
    half = _I(0x7E00) if magnitude > _I(0x7F800000) else half
    return np.uint16(sign | half)


@elementwise
def value_of(element: Any, half: int) -> Any:
    if half == BFLOAT16:
        return _from_bfloat16(element)
    if half == FLOAT16:
        return _from_float16(element)
    return _F(element)


@elementwise
def _label(element: Any, ignored: int) -> Any:
    label, exact = _I(element), np.int64(element)
    label = label if np.int64(label) == exact else _OTHER
    return label if exact != ignored else IGNORED


def _make_reader(like: Any, half: int) -> Any:
    def read(tile: int, size: int, address: int, start: int, stride: int) -> None:
        values, source = flat(tile, F32, 0, size), flat(address, like, start, size * max(stride, 1))
        if stride == 1:
            for i in range(size):
                values[i] = value_of(source[i], half)
        else:
            for i in range(size):
                values[i] = value_of(source[i * stride], half)

    return cfunc(_VALUES, cache=True, error_model="numpy")(read)


def _make_label_reader(like: Any) -> Any:
    def read_labels(tile: int, size: int, address: int, start: int, stride: int, ignored: int) -> None:
        labels, source = flat(tile, I32, 0, size), flat(address, like, start, size * max(stride, 1))
        if stride == 1:
            for i in range(size):
                labels[i] = _label(source[i], ignored)
        else:
            for i in range(size):
                labels[i] = _label(source[i * stride], ignored)

    return cfunc(_LABELS, cache=True, error_model="numpy")(read_labels)


def _make_writer(like: Any, half: int) -> Any:
    def write(tile: int, size: int, address: int, start: int, stride: int) -> None:
        values, destination = flat(tile, F32, 0, size), flat(address, like, start, size * stride)
        if stride == 1:
            for i in range(size):
                destination[i] = _to_bfloat16(values[i]) if half == BFLOAT16 else _to_float16(values[i])
        else:
            for i in range(size):
                destination[i * stride] = _to_bfloat16(values[i]) if half == BFLOAT16 else _to_float16(values[i])

    return cfunc(_VALUES, cache=True, error_model="numpy")(write)


@functools.cache
def _compiled(purpose: str, dtype: torch.dtype) -> Any:
    like, half = _ELEMENTS[dtype]
    if purpose == "labels":
        return _make_label_reader(like)
    return _make_reader(like, half) if purpose == "read" else _make_writer(like, half)


def reader(dtype: torch.dtype) -> int:
    """The address of what fills a float32 tile; 0 for float32, which needs none."""
    return 0 if dtype == torch.float32 else int(_compiled("read", dtype).address)


def label_reader(dtype: torch.dtype) -> int:
    """The address of what fills an int32 tile with labels, and `IGNORED` for those to ignore."""
    return int(_compiled("labels", dtype).address)


def writer(dtype: torch.dtype) -> int:
    """The address of what writes a float32 tile, rounded to nearest even; 0 for float32, which needs none."""
    return 0 if dtype == torch.float32 else int(_compiled("write", dtype).address)
