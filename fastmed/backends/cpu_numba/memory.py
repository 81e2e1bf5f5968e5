"""Tensors as memory at an address, to compiled code."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from .compilation import compiled

# What the elements at an address are like.
F32, F64, I32 = np.empty(0, np.float32), np.empty(0, np.float64), np.empty(0, np.int32)

# Bytes of a line of the cache.
_LINE = 64

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


@intrinsic
def pointer(_context: Any, address: Any, like: Any) -> Any:
    """An address as that of elements like those of an array."""
    if not (isinstance(address, types.Integer) and isinstance(like, types.Array)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), generate


@intrinsic
def _prefetch(_context: Any, address: Any) -> Any:
    """Asks for the line of the cache that an address is in; it may be none of ours."""
    if not isinstance(address, types.Integer):
        return None

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(prefetch, [pointer, number(0), number(2), number(1)])
        return None

    return types.void(types.int64), generate


@compiled
def prefetch(tile: Any, start: int, size: int) -> None:
    """Asks for float32 elements that are read next, from `start` on, which may lie behind the tile.

    A processor looks ahead by itself, but not into another page. It helps a loop that reads one stretch of memory or
    two, and is in the way of one that reads many.
    """
    first = np.int64(tile.ctypes.data) + start * F32.itemsize
    for line in range(first, first + size * F32.itemsize, _LINE):
        _prefetch(line)


@compiled
def flat(address: int, like: Any, start: int, size: int) -> Any:
    """Elements from `start` on of the memory at an address, as an array."""
    return carray(pointer(address + start * like.itemsize, like), (size,))


@intrinsic
def borrow(_context: Any, owned: Any) -> Any:
    """Arrays without their counts of references, which cost two atomic operations for each slice of one.

    Compiled code lets go of an array after its last mention: `keep` the tuple of those owned until then.
    """
    if not isinstance(owned, types.BaseTuple):
        return None

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        borrowed = []
        for kind, value in zip(owned, cgutils.unpack_tuple(builder, arguments[0]), strict=True):
            array = context.make_array(kind)(context, builder, value)
            array.meminfo = cgutils.get_null_value(array.meminfo.type)
            array.parent = cgutils.get_null_value(array.parent.type)
            borrowed.append(array._getvalue())
        return context.make_tuple(builder, owned, borrowed)

    return owned(owned), generate


@compiled
def keep(_owned: Any) -> None:
    """Mentions arrays that are borrowed until here."""


@intrinsic
def call(_context: Any, function: Any, numbers: Any) -> Any:
    """Calls a C function of some int64 by its address."""
    if not (isinstance(function, types.Integer) and isinstance(numbers, types.UniTuple)):
        return None

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, values = arguments
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * numbers.count)
        builder.call(builder.inttoptr(address, kind.as_pointer()), cgutils.unpack_tuple(builder, values))

    return types.void(types.int64, types.UniTuple(types.int64, numbers.count)), generate


@compiled
def in_place(converter: int, stride: int) -> bool:
    """Whether a tile of a memory is the memory itself: float32, side by side."""
    return converter == 0 and stride == 1


@compiled
def view(scratch: Any, address: int, converter: int, start: int, stride: int) -> Any:
    """The tile of a memory from `start` on: itself where it is `in_place`, else the scratch tile."""
    return flat(address, F32, start, scratch.size) if in_place(converter, stride) else scratch


@compiled
def copy(source: Any, destination: Any) -> None:
    """Element by element: compiling an assignment takes seconds, for it may fail and then formats a message."""
    for i in range(destination.size):
        destination[i] = source[i]


@compiled
def load(tile: Any, address: int, reader: int, start: int, stride: int) -> None:
    """Fills a tile with the elements `start + i * stride` of a memory; float32 has no reader."""
    if reader != 0:
        call(reader, (np.int64(tile.ctypes.data), tile.size, address, start, stride))
    else:
        source = flat(address, F32, start, tile.size * max(stride, 1))
        if stride == 1:
            copy(source, tile)
        else:
            for i in range(tile.size):
                tile[i] = source[i * stride]


@compiled
def store(tile: Any, address: int, writer: int, start: int, stride: int) -> None:
    """Writes a tile to the elements `start + i * stride` of a memory; float32 has no writer."""
    if writer != 0:
        call(writer, (np.int64(tile.ctypes.data), tile.size, address, start, stride))
    else:
        destination = flat(address, F32, start, tile.size * stride)
        if stride == 1:
            copy(tile, destination)
        else:
            for i in range(tile.size):
                destination[i * stride] = tile[i]
