"""Between tensors of any dtype and stride and the float32 tiles that the kernels compute on."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np
import torch
from numba import carray, njit, types
from numba.extending import intrinsic, overload
from torch import Tensor

from .vector_math import bits_of_float, elementwise, float_of_bits

# How the elements of a flat array are read.
PLAIN, BFLOAT16, FLOAT16 = range(3)

_F = np.float32
_I = np.int32


# The type of each operand's elements, as an array without any: a compiled function is specialised by it. Half
# formats are read as their bits, booleans as bytes.
ELEMENTS = {
    torch.bfloat16: np.empty(0, np.uint16),
    torch.float16: np.empty(0, np.uint16),
    torch.float32: np.empty(0, np.float32),
    torch.float64: np.empty(0, np.float64),
    torch.bool: np.empty(0, np.uint8),
    torch.uint8: np.empty(0, np.uint8),
    torch.int8: np.empty(0, np.int8),
    torch.int16: np.empty(0, np.int16),
    torch.uint16: np.empty(0, np.uint16),
    torch.int32: np.empty(0, np.int32),
    torch.uint32: np.empty(0, np.uint32),
    torch.int64: np.empty(0, np.int64),
}


def kind(dtype: torch.dtype) -> int:
    """How the elements are read."""
    return {torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}.get(dtype, PLAIN)


def span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements between the first and the last of a tensor, both included."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


@intrinsic
def _pointer(_context: Any, address: Any, like: Any) -> Any:
    if not (isinstance(address, types.Integer) and isinstance(like, types.Array)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), generate


@njit(cache=True, nogil=True, error_model="numpy")
def flat(address: int, like: Any, span: int) -> Any:
    """The memory of a tensor as an array; to a caller an address costs less than an array."""
    return carray(_pointer(address, like), (span,))


# From here on an allocation is fresh memory from the system, and its page faults cost more than the kernel.
_LARGE = 32 << 20
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def empty_like(tensor: Tensor) -> Tensor:
    """Memory of the tensor's shape and strides; large memory in huge pages where Linux offers them on request."""
    result = torch.empty_like(tensor)
    if _libc is not None and result.nbytes >= _LARGE:
        start = -(-result.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = result.data_ptr() + result.nbytes - start
        # Only advice: a kernel without huge pages refuses it, and all is as before.
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    return result


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
    bits = bits_of_float(value)
    sign = (bits >> _I(16)) & _I(0x8000)
    magnitude = bits & _I(0x7FFFFFFF)
    # Subnormal results: adding 0.5 aligns the mantissa so that the addition itself rounds.
    small = bits_of_float(float_of_bits(magnitude) + _F(0.5)) - _I(0x3F000000)
    normal = (magnitude - _I(0x38000000) + _I(0xFFF) + ((magnitude >> _I(13)) & _I(1))) >> _I(13)
    half = small if magnitude < _I(0x38800000) else normal
    half = _I(0x7C00) if magnitude >= _I(0x47800000) else half
    half = _I(0x7E00) if magnitude > _I(0x7F800000) else half
    return np.uint16(sign | half)


def _read(source: Any, kind: int, position: int) -> float:
    raise NotImplementedError("compiled code only")


@overload(_read, inline="always")
def _overload_read(source: Any, kind: int, position: int) -> Any:
    if source.dtype == types.uint16:

        def read_bits(source: Any, kind: int, position: int) -> Any:
            if kind == BFLOAT16:
                return _from_bfloat16(source[position])
            if kind == FLOAT16:
                return _from_float16(source[position])
            return _F(source[position])

        return read_bits

    def read(source: Any, kind: int, position: int) -> Any:
        return _F(source[position])

    return read


@njit(cache=True, nogil=True, error_model="numpy")
def load(tile: Any, source: Any, kind: int, start: int, stride: int) -> None:
    """Fills a float32 tile with elements `start + i * stride` of a flat array."""
    if stride == 1:
        run = source[start : start + tile.size]
        for i in range(tile.size):
            tile[i] = _read(run, kind, i)
    elif stride == 0:
        tile[:] = _read(source, kind, start)
    else:
        for i in range(tile.size):
            tile[i] = _read(source, kind, start + i * stride)


@njit(cache=True, nogil=True, error_model="numpy")
def store(tile: Any, destination: Any, kind: int, start: int, stride: int) -> None:
    """Writes a float32 tile to elements `start + i * stride` of a flat array, rounded to nearest even."""
    _write(tile, destination, kind, start, stride)


def _write(tile: Any, destination: Any, kind: int, start: int, stride: int) -> None:
    raise NotImplementedError("compiled code only")


@overload(_write, inline="always")
def _overload_write(tile: Any, destination: Any, kind: int, start: int, stride: int) -> Any:
    if destination.dtype == types.uint16:

        def write_bits(tile: Any, destination: Any, kind: int, start: int, stride: int) -> Any:
            if stride == 1 and kind == BFLOAT16:
                run = destination[start : start + tile.size]
                for i in range(tile.size):
                    run[i] = _to_bfloat16(tile[i])
            elif stride == 1:
                run = destination[start : start + tile.size]
                for i in range(tile.size):
                    run[i] = _to_float16(tile[i])
            else:
                for i in range(tile.size):
                    half = _to_bfloat16(tile[i]) if kind == BFLOAT16 else _to_float16(tile[i])
                    destination[start + i * stride] = half

        return write_bits

    def write(tile: Any, destination: Any, kind: int, start: int, stride: int) -> Any:
        if stride == 1:
            run = destination[start : start + tile.size]
            for i in range(tile.size):
                run[i] = tile[i]
        else:
            for i in range(tile.size):
                destination[start + i * stride] = tile[i]

    return write
