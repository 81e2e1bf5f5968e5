"""Checks of what a user passes in, and the one layout that operators take.

Every message names the argument, its value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .contract import RegionInput

ACTIVATIONS = ("softmax", "sigmoid", None)
REDUCTIONS = ("mean", "sum", "none")
POOLS = ("sample", "batch")

_LABEL_DTYPES = frozenset(
    {torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64}
)
_FLOAT_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def choice(argument: str, value: object, allowed: Sequence[object]) -> None:
    """Raises `ValueError` unless the value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{argument}: got {value!r}, allowed are {', '.join(map(repr, allowed))}")


def non_negative(argument: str, value: float) -> None:
    """Raises `ValueError` unless the number is finite and at least 0."""
    if not 0.0 <= value < float("inf"):
        raise ValueError(f"{argument}: got {value!r}, allowed is a finite number, 0 or more")


def labels(argument: str, value: Tensor) -> None:
    """Raises `TypeError` unless the tensor holds labels of an integer dtype."""
    if value.dtype not in _LABEL_DTYPES:
        raise TypeError(
            f"{argument}: got {value.dtype}, allowed is an integer or bool dtype; take argmax or a threshold first"
        )


def class_weights(argument: str, value: Tensor | Sequence[float] | float | None, like: Tensor) -> Tensor | None:
    """Weights as a float tensor (C,) on the device of `like` (N, C, ...), or None."""
    if value is None:
        return None
    weights = torch.as_tensor(value, dtype=torch.float32, device=like.device)
    classes = like.shape[1]
    if weights.ndim == 0:
        return weights.expand(classes)
    if weights.shape != (classes,):
        raise ValueError(f"{argument}: got shape {tuple(weights.shape)}, allowed is one weight or ({classes},)")
    return weights


def _mask(mask: Tensor, input: Tensor) -> Tensor:
    n, c, *spatial = input.shape
    shape = tuple(mask.shape)
    if shape == (n, *spatial):
        mask = mask.unsqueeze(1)
    elif shape not in ((n, 1, *spatial), (n, c, *spatial)):
        raise ValueError(
            f"mask: got shape {shape}, allowed are {(n, *spatial)}, {(n, 1, *spatial)} and {(n, c, *spatial)}"
        )
    if mask.dtype not in _LABEL_DTYPES | _FLOAT_DTYPES:
        raise TypeError(f"mask: got {mask.dtype}, allowed are bool, integer and floating dtypes")
    if mask.requires_grad:
        raise ValueError("mask: requires a gradient, but none flows to voxel weights; pass mask.detach()")
    return mask


def _target(target: Tensor, input: Tensor) -> Tensor:
    """Labels (N, *spatial), or a dense target of the input's shape."""
    n, c, *spatial = input.shape
    shape = tuple(target.shape)
    if target.requires_grad:
        raise ValueError("target: requires a gradient, but none flows to targets; pass target.detach()")
    if target.dtype not in _LABEL_DTYPES | _FLOAT_DTYPES:
        raise TypeError(f"target: got {target.dtype}, allowed are bool, integer and floating dtypes")
    if shape == tuple(input.shape):
        return target
    if c == 1 and shape == (n, *spatial):
        return target.unsqueeze(1)
    is_label_map = shape in ((n, *spatial), (n, 1, *spatial))
    if not is_label_map:
        raise ValueError(
            f"target: got shape {shape}, allowed are labels {(n, *spatial)} or {(n, 1, *spatial)}, "
            f"or a channel per class {tuple(input.shape)}"
        )
    labels("target", target)
    return target.squeeze(1) if target.ndim == input.ndim else target


def voxels(tensor: Tensor, start: int) -> Tensor:
    """Spatial dimensions from `start` on as one; a view where the strides allow, else the one copy we make."""
    return tensor.unsqueeze(-1) if tensor.ndim == start else tensor.flatten(start)


def region_input(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    activation: str | None,
    ignore_index: int | None,
) -> RegionInput:
    """The operands of a region pass, checked and laid out as (N, C, V).

    Raises:
        TypeError: for a dtype that has no meaning here.
        ValueError: for shapes that do not belong together, an unknown activation, softmax over one class, or a
            target or mask that requires a gradient.
    """
    choice("activation", activation, ACTIVATIONS)
    if input.dtype not in _FLOAT_DTYPES:
        raise TypeError(f"input: got {input.dtype}, allowed are float16, bfloat16, float32 and float64")
    if input.ndim < 2:
        raise ValueError(f"input: got shape {tuple(input.shape)}, allowed is (N, C, *spatial)")
    if activation == "softmax" and input.shape[1] == 1:
        raise ValueError(
            "activation: got 'softmax' with one class, whose probability is always 1; "
            "use activation='sigmoid', or give the input a channel for the background"
        )
    for name, tensor in (("target", target), ("mask", mask)):
        if tensor is not None and tensor.device != input.device:
            raise ValueError(f"{name}: got device {tensor.device}, allowed is that of the input, {input.device}")
    target = _target(target, input)
    dense = target.shape == input.shape
    return RegionInput(
        voxels(input, 2),
        voxels(target, 2 if dense else 1),
        None if mask is None else voxels(_mask(mask, input), 2),
        activation or "none",
        ignore_index,
    )
