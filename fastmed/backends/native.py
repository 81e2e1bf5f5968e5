"""Wraps the C++ and CUDA extension, where it was built."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import EXTRA_COLUMNS, Bins, CountInput, Request, Scored
from . import fork

_missing: str | None = None
try:
    from .. import _native
except ImportError as error:
    _missing = (
        f"the extension fastmed._native was not built ({error}): install a C++ compiler (and nvcc for CUDA), "
        "then fastmed again with `pip install --force-reinstall --no-deps --no-cache-dir --verbose`"
    )
else:
    _DTYPES = {
        torch.bool: _native.Dtype.UINT8,
        torch.uint8: _native.Dtype.UINT8,
        torch.int8: _native.Dtype.INT8,
        torch.int16: _native.Dtype.INT16,
        torch.uint16: _native.Dtype.UINT16,
        torch.int32: _native.Dtype.INT32,
        torch.uint32: _native.Dtype.UINT32,
        torch.int64: _native.Dtype.INT64,
        torch.float16: _native.Dtype.FLOAT16,
        torch.bfloat16: _native.Dtype.BFLOAT16,
        torch.float32: _native.Dtype.FLOAT32,
        torch.float64: _native.Dtype.FLOAT64,
    }
    _TRANSFORMS = {
        "identity": _native.Transform.IDENTITY,
        "sigmoid": _native.Transform.SIGMOID,
        "logit": _native.Transform.LOGIT,
    }


def unavailable_reason() -> str | None:
    """Why the extension cannot be used, and how to build it."""
    return _missing


def build_info() -> _native.BuildInfo | None:
    """Compiler, CUDA version (or None) and architectures of the extension; None if it is missing."""
    return None if _missing else _native.build_info()


def unsupported_reasons(request: Request) -> list[str]:
    """See `Backend.unsupported_reasons`."""
    reasons = []
    if request.device == "cuda" and not hasattr(_native, "confusion_counts_cuda"):
        reasons.append("built without CUDA: install it again where nvcc is on PATH or under CUDA_HOME")
    reasons += [
        f"tensors of {dtype} are not supported"
        for dtype in {request.dtype, request.target_dtype}
        if dtype not in _DTYPES
    ]
    if request.op == "confusion_counts" and request.classes > _native.MAX_CLASSES:
        reasons.append(f"counts at most {_native.MAX_CLASSES} classes, not {request.classes}")
    return reasons


def _operand(tensor: Tensor) -> _native.Operand:
    """Any tensor (N, C, V), or (N, V) with all channels at one place."""
    by_sample, *by_channel, by_voxel = tensor.stride()
    return _native.Operand(tensor.data_ptr(), _DTYPES[tensor.dtype], by_sample, sum(by_channel), by_voxel)


def _kind(operands: CountInput) -> _native.Input:
    if operands.threshold is not None:
        return _native.Input.MULTI_LABEL
    return _native.Input.SCORES if operands.input.ndim == 3 else _native.Input.LABELS


def _threads() -> int:
    return 1 if fork.happened() else torch.get_num_threads()


def confusion_counts(operands: CountInput) -> tuple[Tensor, Tensor]:
    """See `Backend.confusion_counts`."""
    input, target, mask, num_classes, threshold, ignore_index, pooled = operands
    device = target.device
    counts = torch.zeros(operands.counts_shape, dtype=torch.int64, device=device)
    invalid = torch.zeros(1 if pooled else target.shape[0], dtype=torch.int64, device=device)
    problem = _native.ConfusionProblem(
        kind=_kind(operands),
        input=_operand(input),
        target=_operand(target),
        mask=None if mask is None else _operand(mask),
        samples=target.shape[0],
        voxels=target.shape[-1],
        classes=num_classes,
        thresholds=0 if threshold is None else threshold.data_ptr(),
        ignore_index=ignore_index,
        pooled=pooled,
        counts=counts.data_ptr(),
        invalid=invalid.data_ptr(),
    )
    if device.type == "cpu":
        _native.confusion_counts_cpu(problem, _threads())
    else:
        # The extension makes the device current in this thread; the guard restores the one before.
        with torch.cuda.device(device):
            stream = torch.cuda.current_stream(device).cuda_stream
            _native.confusion_counts_cuda(problem, target.get_device(), stream)
    return counts, invalid


def score_histogram(operands: Scored, bins: Bins) -> tuple[Tensor, Tensor]:
    """See `Backend.score_histogram`."""
    scores, target, mask = operands
    samples, tasks, voxels = scores.shape
    device = scores.device
    counts = torch.zeros((tasks, 2, bins.number + EXTRA_COLUMNS), dtype=torch.int64, device=device)
    invalid = torch.zeros(tasks, dtype=torch.int64, device=device)
    problem = _native.HistogramProblem(
        scores=_operand(scores),
        target=_operand(target),
        mask=None if mask is None else _operand(mask),
        samples=samples,
        tasks=tasks,
        voxels=voxels,
        bins=_native.Bins(_TRANSFORMS[bins.transform], bins.number, *bins.in_float32()),
        counts=counts.data_ptr(),
        invalid=invalid.data_ptr(),
    )
    if device.type == "cpu":
        _native.score_histogram_cpu(problem, _threads())
    else:
        # As for `confusion_counts`: the guard restores the current device of this thread.
        with torch.cuda.device(device):
            stream = torch.cuda.current_stream(device).cuda_stream
            _native.score_histogram_cuda(problem, scores.get_device(), stream)
    return counts, invalid
