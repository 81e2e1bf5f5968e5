"""Scores and binary labels for the tests of histograms and ranks."""

from __future__ import annotations

import torch
from torch import Tensor

LABEL_DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.uint16,
    torch.int32,
    torch.uint32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)
SCORE_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

# Views of a tensor (4, 5, 6, 7) that are still (N, T, *spatial).
STRIDED = {
    "contiguous": lambda tensor: tensor,
    "sliced": lambda tensor: tensor[1:, ::2, 1:-1, 3:],
    "channels_last": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "table": lambda tensor: tensor.reshape(-1, 7),
    "table_of_columns": lambda tensor: tensor.reshape(7, -1).t(),
    "every_other_row": lambda tensor: tensor.reshape(-1, 7)[::2, 1:-1],
    "expanded": lambda tensor: tensor[:1, :, :1].expand(3, -1, 20, -1),
    "one_task": lambda tensor: tensor[:, 1:2],
    "many_tasks": lambda tensor: tensor.reshape(2, -1),
}


def name(value: object) -> str | None:
    """Readable test id of a dtype."""
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


def scores_and_labels(shape: tuple[int, ...], missing: float = 0.2) -> tuple[Tensor, Tensor]:
    """Probabilities, and labels that follow them, 0, 1, NaN or -1."""
    scores = torch.rand(shape)
    target = (torch.rand(shape) < scores).float()
    draw = torch.rand(shape)
    target[draw < missing / 2] = torch.nan
    target[(draw >= missing / 2) & (draw < missing)] = -1.0
    return scores, target


def of_dtype(target: Tensor, dtype: torch.dtype) -> Tensor:
    """Labels in a dtype, which may not have all ways to say that one is missing."""
    if dtype.is_floating_point:
        return target.to(dtype)
    if not dtype.is_signed:
        return (target == 1).to(dtype)
    return target.nan_to_num(-1.0).to(dtype)


def labelled(scores: Tensor, target: Tensor, task: int) -> tuple[Tensor, Tensor]:
    """Scores and labels of one task that are not missing, as scikit-learn takes them."""
    scores, target = scores.transpose(0, 1)[task].flatten(), target.transpose(0, 1)[task].flatten().double()
    kept = (target == 0) | (target == 1)
    return scores[kept], target[kept].long()
