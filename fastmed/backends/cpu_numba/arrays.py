"""Scored labels as NumPy arrays, in types that Numba has and in the order in which they lie in memory."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def axes_in_memory_order(scores: Tensor) -> tuple[tuple[int, int, int], bool]:
    """Axes of scores (N, T, V) with the denser one of tasks and voxels last, and whether that is the tasks."""
    tasks_inner = scores.stride(1) < scores.stride(2)
    return ((0, 2, 1) if tasks_inner else (0, 1, 2)), tasks_inner


def score_array(scores: Tensor) -> NDArray[Any]:
    """Scores as float32 or float64."""
    return (scores.to(torch.float32) if scores.dtype in _HALF else scores).numpy()


def label_array(labels: Tensor) -> NDArray[Any]:
    """Labels or a mask, bools as bytes."""
    return labels.view(torch.uint8).numpy() if labels.dtype == torch.bool else score_array(labels)
