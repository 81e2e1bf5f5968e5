"""Where operators are registered, and what those that read labels have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

library = torch.library.Library("fastmed", "DEF")


def define(schema: str, body: Callable[..., Any]) -> None:
    """Registers an operator whose body takes tensors of any device."""
    library.define(schema)
    library.impl(schema.split("(")[0], body, "CompositeExplicitAutograd")


def is_reported(invalid: Tensor, validate: bool | None) -> bool:
    """Whether labels out of range raise: at once where looking costs no device synchronisation, or if asked."""
    looked_at = invalid.is_cpu if validate is None else validate
    return looked_at and any(invalid.tolist())


def raise_out_of_range(argument: str, count: int, num_classes: int, ignore_index: int | None) -> NoReturn:
    """Says which labels are allowed."""
    extra = "" if ignore_index is None else f", or {ignore_index} (ignore_index)"
    raise ValueError(f"{argument}: {count} labels are out of range, allowed are 0 to {num_classes - 1}{extra}")


def raise_unknown(target: Tensor, known: Tensor, count: int, allowed: str) -> NoReturn:
    """Names task and value of the first label (N, T, V) that is not known."""
    sample, task, voxel = (~known).nonzero()[0].tolist()
    value = target[sample, task, voxel].item()
    raise ValueError(f"target: got {value:g} for task {task} ({count} such values in all), allowed are {allowed}")


def as_table(tensor: Tensor) -> Tensor:
    """The rows of a table (N, C) as the voxels of one sample, (1, C, N)."""
    rows, columns = tensor.shape
    by_row, by_column = tensor.stride()
    # One view instead of the two of a transposition and a new dimension: this is the path of small batches.
    return tensor.as_strided((1, columns, rows), (rows * by_row, by_column, by_row))
