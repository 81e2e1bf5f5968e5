"""Checks of what a user passes in, and the one layout that operators take.

Every message names the argument, its value and what is allowed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .contract import CountInput, RegionInput, Scored, changed
from .labels import MissingPolicy, Smooth, uncertain_values

ClassWeight = Tensor | Sequence[float] | float | None
Threshold = Tensor | Sequence[float] | float
BinaryWeight = ClassWeight | Literal["balanced"]

ACTIVATIONS = ("softmax", "sigmoid", None)
REDUCTIONS = ("mean", "sum", "none")
POOLS = ("sample", "batch")
BALANCES = ("balanced",)
NORMALIZATIONS = ("task", "valid", "total")

_LABEL_DTYPES = frozenset(
    {torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64}
)
_FLOAT_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_NUMBER_DTYPES = _LABEL_DTYPES | _FLOAT_DTYPES


def choice(argument: str, value: object, allowed: Sequence[object]) -> None:
    """Raises `ValueError` unless the value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{argument}: got {value!r}, allowed are {', '.join(map(repr, allowed))}")


def tensor(argument: str, value: object) -> None:
    """Raises `TypeError` for anything but a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument}: got {type(value).__name__}, allowed is a tensor")


# Tuples, and no unions of types: the compilers of torch 2.6 and 2.7 take none.
_WHOLE = (int, np.integer, torch.SymInt)
_NUMBERS = (float, int, np.number, torch.SymFloat, torch.SymInt)


def whole(argument: str, value: object) -> None:
    """Raises `TypeError` for anything but a whole number."""
    if not isinstance(value, _WHOLE):
        raise TypeError(f"{argument}: got {value!r}, allowed is a whole number")


def is_number(value: object) -> bool:
    """Whether the value is a real number of Python's, NumPy's or a compiler's."""
    return isinstance(value, _NUMBERS)


def finite(argument: str, value: Any) -> None:
    """Raises `ValueError` unless the value is a finite number."""
    # Compilers trace comparisons of numbers, and no math.isfinite.
    if not is_number(value) or not -math.inf < value < math.inf:
        raise ValueError(f"{argument}: got {value!r}, allowed is a finite number")


def non_negative(argument: str, value: float) -> None:
    """Raises `ValueError` unless the number is finite and at least 0."""
    if not 0.0 <= value < float("inf"):
        raise ValueError(f"{argument}: got {value!r}, allowed is a finite number, 0 or more")


def smoothing(argument: str, value: float) -> None:
    """Raises `ValueError` unless a target keeps some of itself."""
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{argument}: got {value!r}, allowed is 0 or more, and less than 1")


def missing_policy(missing: MissingPolicy) -> None:
    """Raises `ValueError` unless each policy is one that there is; how many tasks there are, the labels tell."""
    is_one = isinstance(missing, (str, Smooth)) or not isinstance(missing, Sequence)
    uncertain_values(missing, 1 if is_one else len(missing))


def labels(argument: str, value: Tensor) -> None:
    """Raises `TypeError` unless the tensor holds labels of an integer dtype."""
    if value.dtype not in _LABEL_DTYPES:
        raise TypeError(
            f"{argument}: got {value.dtype}, allowed is an integer or bool dtype; take argmax or a threshold first"
        )


def class_weights(argument: str, value: ClassWeight, like: Tensor) -> Tensor | None:
    """Weights as a float tensor (C,) on the device of `like` (N, C, ...), or None."""
    if value is None:
        return None
    classes = like.shape[1]
    if isinstance(value, (int, float)):
        # Filled where it is used: a copy from the host would make a GPU wait.
        return torch.full((classes,), float(value), dtype=torch.float32, device=like.device)
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise ValueError(f"{argument}: requires a gradient, but none flows to weights; pass {argument}.detach()")
        weights = value.to(like.device, torch.float32)
    else:
        weights = (_cached_weights if is_real(like) else _weights)(tuple(value), like.device)
    if weights.ndim == 0:
        return weights.expand(classes)
    if weights.shape != (classes,):
        raise ValueError(f"{argument}: got shape {tuple(weights.shape)}, allowed is one weight or ({classes},)")
    return weights


def _weights(values: tuple[float, ...], device: torch.device) -> Tensor:
    return _made_of_numbers(lambda: torch.tensor(values, dtype=torch.float32), device)


def _made_of_numbers(make: Callable[[], Tensor], device: torch.device) -> Tensor:
    # Validation often comes first, in inference mode, whose tensors no later training step may save.
    with torch.inference_mode(False):
        return make().to(device)


def is_real(tensor: Tensor) -> bool:
    """Whether nothing looks on for which this tensor stands: what is made then must not outlive it."""
    is_looked_at = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return not is_looked_at and type(tensor) in (Tensor, torch.nn.Parameter)


# One copy to a GPU for all calls of a training run, which do not wait for it.
_cached_weights = functools.lru_cache(maxsize=64)(_weights)


def weight_of_classes(argument: str, value: BinaryWeight) -> None:
    """Raises `ValueError` unless weights are finite numbers from 0 on; those on a GPU are not looked at.

    Raises:
        TypeError: for something that is neither a number, nor a sequence or tensor of numbers.
    """
    try:
        weights = torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{argument}: got {value!r}, allowed are None, a number, or one number for each class"
        ) from error
    if weights.is_cpu and not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError(f"{argument}: got {value!r}, allowed are finite numbers, 0 or more")


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a * b


def binary_weights(
    pos_weight: BinaryWeight, neg_weight: BinaryWeight, task_weight: ClassWeight, like: Tensor
) -> tuple[bool, bool, Tensor | None, Tensor | None]:
    """Whether positives and negatives take their weight from the batch, and the weight of each besides."""
    if pos_weight is None and neg_weight is None and task_weight is None:
        return False, False, None, None
    of_task = class_weights("task_weight", task_weight, like)
    balanced = []
    weights = []
    for name, value in (("pos_weight", pos_weight), ("neg_weight", neg_weight)):
        if isinstance(value, str):
            choice(name, value, BALANCES)
        balanced.append(isinstance(value, str))
        weights.append(_product(of_task, None if isinstance(value, str) else class_weights(name, value, like)))
    return balanced[0], balanced[1], weights[0], weights[1]


def _has_shape(tensor: Tensor, *shapes: tuple[int, ...]) -> bool:
    """Whether the tensor has one of the shapes.

    Of shapes of other lengths no size is compared: a compiler would take the result for a property of the sizes.
    """
    return any(tensor.ndim == len(shape) and tuple(tensor.shape) == shape for shape in shapes)


def _mask(mask: Tensor, input: Tensor) -> Tensor:
    n, c, *spatial = input.shape
    if _has_shape(mask, (n, *spatial)):
        mask = mask.unsqueeze(1)
    elif _has_shape(mask, (n, c)):
        mask = mask.reshape(n, c, *[1] * len(spatial)).expand(n, c, *spatial)
    elif not _has_shape(mask, (n, 1, *spatial), (n, c, *spatial)):
        allowed = f"{(n, *spatial)}, {(n, 1, *spatial)}, {(n, c, *spatial)} and {(n, c)}"
        raise ValueError(f"mask: got shape {tuple(mask.shape)}, allowed are {allowed}")
    if mask.dtype not in _NUMBER_DTYPES:
        raise TypeError(f"mask: got {mask.dtype}, allowed are bool, integer and floating dtypes")
    if mask.requires_grad:
        raise ValueError("mask: requires a gradient, but none flows to voxel weights; pass mask.detach()")
    return mask


def _target(target: Tensor, input: Tensor) -> Tensor:
    """Labels (N, *spatial), or a dense target of the input's shape."""
    if target.requires_grad:
        raise ValueError("target: requires a gradient, but none flows to targets; pass target.detach()")
    if target.dtype not in _NUMBER_DTYPES:
        raise TypeError(f"target: got {target.dtype}, allowed are bool, integer and floating dtypes")
    if target.ndim == input.ndim and target.shape == input.shape:
        return target
    n, c, *spatial = input.shape
    if c == 1 and _has_shape(target, (n, *spatial)):
        return target.unsqueeze(1)
    if not _has_shape(target, (n, *spatial), (n, 1, *spatial)):
        raise ValueError(
            f"target: got shape {tuple(target.shape)}, allowed are labels {(n, *spatial)} or {(n, 1, *spatial)}, "
            f"or a channel per class {tuple(input.shape)}"
        )
    labels("target", target)
    return target.squeeze(1) if target.ndim == input.ndim else target


def voxels(tensor: Tensor, start: int) -> Tensor:
    """Spatial dimensions from `start` on as one; a view where the strides allow, else the one copy we make."""
    return tensor.unsqueeze(-1) if tensor.ndim == start else tensor.flatten(start)


def _checked(input: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Target (N, *spatial) or of the input's shape, and mask (N, 1 or C, *spatial), if they belong to the input."""
    if input.dtype not in _FLOAT_DTYPES:
        raise TypeError(f"input: got {input.dtype}, allowed are float16, bfloat16, float32 and float64")
    if input.ndim < 2:
        raise ValueError(f"input: got shape {tuple(input.shape)}, allowed is (N, C, *spatial)")
    for name, tensor in (("target", target), ("mask", mask)):
        if tensor is not None and tensor.device != input.device:
            raise ValueError(f"{name}: got device {tensor.device}, allowed is that of the input, {input.device}")
    return _target(target, input), None if mask is None else _mask(mask, input)


def _laid_out(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    activation: str,
    ignore_index: int | None,
    uncertain: Tensor | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
) -> RegionInput:
    dense = target.ndim == input.ndim
    mask = None if mask is None else voxels(mask, 2)
    options = (activation, ignore_index, uncertain, label_smoothing, gamma)
    return RegionInput(voxels(input, 2), voxels(target, 2 if dense else 1), mask, *options)


def region_input(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    activation: str | None,
    ignore_index: int | None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
) -> RegionInput:
    """The operands of a region pass, checked and laid out as (N, C, V).

    Raises:
        TypeError: for a dtype that has no meaning here.
        ValueError: for shapes that do not belong together, an unknown activation, softmax over one class, or a
            target or mask that requires a gradient.
    """
    choice("activation", activation, ACTIVATIONS)
    non_negative("gamma", gamma)
    smoothing("label_smoothing", label_smoothing)
    target, mask = _checked(input, target, mask)
    if activation == "softmax" and input.shape[1] == 1:
        raise ValueError(
            "activation: got 'softmax' with one class, whose probability is always 1; "
            "use activation='sigmoid', or give the input a channel for the background"
        )
    classes = input.shape[1]
    if ignore_index is not None and 0 <= ignore_index < classes != 1 and target.ndim == input.ndim:
        kept = target[:, ignore_index : ignore_index + 1] != 1
        mask, ignore_index = kept if mask is None else mask * kept, None
    options = (activation or "none", ignore_index, None, label_smoothing, gamma)
    return _laid_out(input, target, mask, *options)


def binary_input(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    *,
    ignore_index: int | None = None,
    missing: MissingPolicy = "ignore",
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    pool_batch: bool = False,
) -> RegionInput:
    """The operands of a pass over one binary task a class: (N, C, V), or a table (N, C) as it is if pooled.

    Raises:
        TypeError: for a dtype that has no meaning here.
        ValueError: for shapes that do not belong together, or an option out of its range.
    """
    target, mask = _checked(input, target, mask)
    non_negative("gamma", gamma)
    smoothing("label_smoothing", label_smoothing)
    if target.ndim != input.ndim:
        raise ValueError(
            f"missing: got {missing!r} with a label map of shape {tuple(target.shape)}; "
            f"allowed is a target with a channel for each class, {tuple(input.shape)}"
        )
    # Hashable, for the cache.
    policy = tuple(missing) if isinstance(missing, list) else missing
    uncertain = (_cached_uncertain if is_real(input) else _uncertain)(policy, input.shape[1], input.device)
    laid_out = RegionInput if pool_batch and input.ndim == 2 else _laid_out
    return laid_out(input, target, mask, "sigmoid", ignore_index, uncertain, label_smoothing, gamma)


def _uncertain(policy: MissingPolicy, tasks: int, device: torch.device) -> Tensor:
    return _made_of_numbers(lambda: uncertain_values(policy, tasks), device)


_cached_uncertain = functools.lru_cache(maxsize=64)(_uncertain)


def scored(scores: Tensor, target: Tensor, mask: Tensor | None) -> Scored:
    """Scores and binary labels of T tasks, checked: (N, T, V), or tables (N, T) as they are.

    Raises:
        TypeError: for a dtype that has no meaning here.
        ValueError: for shapes or devices that do not belong together.
    """
    for name, operand in (("scores", scores), ("target", target), ("mask", mask)):
        if operand is not None:
            tensor(name, operand)
    if scores.dtype not in _FLOAT_DTYPES:
        raise TypeError(f"scores: got {scores.dtype}, allowed are float16, bfloat16, float32 and float64")
    if target.dtype not in _LABEL_DTYPES | _FLOAT_DTYPES:
        raise TypeError(f"target: got {target.dtype}, allowed are bool, integer and floating dtypes")
    if scores.ndim < 2:
        raise ValueError(f"scores: got shape {tuple(scores.shape)}, allowed is (N, T) or (N, T, *spatial)")
    if not _has_shape(target, tuple(scores.shape)):
        raise ValueError(
            f"target: got shape {tuple(target.shape)}, allowed is that of the scores, {tuple(scores.shape)}"
        )
    for name, operand in (("target", target), ("mask", mask)):
        if operand is not None and operand.device != scores.device:
            raise ValueError(f"{name}: got device {operand.device}, allowed is that of the scores, {scores.device}")
    if mask is not None:
        if mask.dtype not in _LABEL_DTYPES:
            raise TypeError(f"mask: got {mask.dtype}, allowed are bool and integer dtypes: a label counts or does not")
        mask = _mask(mask, scores).to(torch.bool).expand(scores.shape)
    scores, target = scores.detach(), target.detach()
    if scores.ndim == 2:
        return Scored(scores, target, mask)
    return Scored(voxels(scores, 2), voxels(target, 2), None if mask is None else voxels(mask, 2))


def _readable_numbers(value: Threshold) -> Sequence[object]:
    """The numbers of a threshold that can be looked at without a device synchronisation, or a compiler's guard."""
    if not isinstance(value, Tensor):
        return value if isinstance(value, Sequence) else (value,)
    numbers: list[object] = value.flatten().tolist() if value.is_cpu and is_real(value) else []
    return numbers


def _threshold(value: Threshold, input: Tensor) -> Tensor:
    """Thresholds (C,) in float64, to compare with the input as it is."""
    classes = input.shape[1]
    for number in _readable_numbers(value):
        finite("threshold", number)
    threshold = torch.as_tensor(value, dtype=torch.float64, device=input.device).detach()
    if threshold.ndim and threshold.shape != (classes,):
        raise ValueError(f"threshold: got shape {tuple(threshold.shape)}, allowed is one number or {(classes,)}")
    # torch compares a tensor with a number in the tensor's precision.
    rounded = threshold.to(input.dtype).double() if input.is_floating_point() else threshold.floor()
    return rounded.expand(classes).contiguous()


def _one_of(argument: str, value: Tensor, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raises `ValueError` unless the tensor has one of the shapes."""
    if not _has_shape(value, *shapes):
        raise ValueError(f"{argument}: got shape {tuple(value.shape)}, allowed is {' or '.join(map(str, shapes))}")


def _scores_shape(input: Tensor, num_classes: int) -> tuple[int, list[int]]:
    """Samples and spatial dimensions of scores (N, C, *spatial)."""
    if input.ndim < 2 or input.shape[1] != num_classes:
        raise ValueError(
            f"input: got shape {tuple(input.shape)}, allowed is (N, {num_classes}, *spatial): a channel for each of "
            "the num_classes classes"
        )
    samples, _, *spatial = input.shape
    return samples, spatial


def count_input(
    input: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    ignore_index: int | None,
    mask: Tensor | None,
    threshold: Threshold | None,
    pool: str,
) -> CountInput:
    """The operands of a counting pass, checked and laid out as (N, V) and (N, C, V).

    Raises:
        TypeError: for a dtype that has no meaning here.
        ValueError: for shapes or devices that do not belong together, or an option out of its range.
    """
    choice("pool", pool, POOLS)
    whole("num_classes", num_classes)
    if ignore_index is not None:
        whole("ignore_index", ignore_index)
    fewest = 2 if threshold is None else 1
    if num_classes < fewest:
        raise ValueError(f"num_classes: got {num_classes}, allowed is {fewest} or more")
    for name, operand in (("input", input), ("target", target), ("mask", mask)):
        if operand is None:
            continue
        tensor(name, operand)
        if operand.device != input.device:
            raise ValueError(f"{name}: got device {operand.device}, allowed is that of the input, {input.device}")
        if operand.dtype not in _NUMBER_DTYPES:
            raise TypeError(f"{name}: got {operand.dtype}, allowed are bool, integer and floating dtypes")
    are_scores = threshold is not None or input.is_floating_point()
    if are_scores:
        samples, spatial = _scores_shape(input, num_classes)
    elif input.ndim:
        samples, *spatial = input.shape
    else:
        raise ValueError("input: got a single label, allowed is (N, *spatial)")
    of_map, of_channel = (samples, *spatial), (samples, 1, *spatial)

    if threshold is not None:
        _one_of("target", target, [tuple(input.shape)])
        target = voxels(target, 2)
    else:
        labels("target", target)
        _one_of("target", target, [of_map, of_channel] if are_scores else [of_map])
        target = voxels(target.squeeze(1) if target.ndim == len(of_channel) else target, 1)
    if mask is not None:
        _one_of("mask", mask, [of_map, of_channel] if threshold is None else [of_map, of_channel, tuple(input.shape)])
        mask = mask if mask.dtype == torch.bool else mask != 0
        if _has_shape(mask, of_map):
            mask = mask.unsqueeze(1)
        mask = voxels(mask, 2)
        mask = mask.squeeze(1) if threshold is None else mask.expand(target.shape)
    operands = CountInput(
        voxels(input.detach(), 2 if are_scores else 1),
        target,
        mask,
        num_classes,
        None if threshold is None else _threshold(threshold, input),
        ignore_index,
        pool == "batch",
    )
    return _samples_as_voxels(operands) if operands.pooled and operands.target.shape[-1] == 1 else operands


def _samples_as_voxels(operands: CountInput) -> CountInput:
    """A table (N, C) to be pooled: its rows are the voxels of one sample."""
    mask = None if operands.mask is None else operands.mask.transpose(0, -1)
    return changed(operands, input=operands.input.transpose(0, -1), target=operands.target.transpose(0, -1), mask=mask)
