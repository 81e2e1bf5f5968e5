"""The tensors of a generated case."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from cases import FLOATS, Case, CountCase, HistogramCase, RegionCase, dtype, holds
from torch import Tensor

# Seeding devices that are not there takes longer than most cases.
_seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed


class Tensors(NamedTuple):
    """What a case calls its operator with."""

    input: Tensor
    target: Tensor
    mask: Tensor | None


def _poison(of_type: torch.dtype) -> float:
    """What lies around a view: nobody may read it."""
    return math.nan if of_type.is_floating_point else int(torch.iinfo(of_type).max) if of_type != torch.bool else True


def _crop(tensor: Tensor) -> Tensor:
    around = torch.full([size + 2 for size in tensor.shape], _poison(tensor.dtype), dtype=tensor.dtype)
    inside = around[tuple(slice(1, size + 1) for size in tensor.shape)]
    return inside.copy_(tensor)


def _every_other(tensor: Tensor) -> Tensor:
    around = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), _poison(tensor.dtype), dtype=tensor.dtype)
    return around[..., ::2].copy_(tensor)


def _storage_offset(tensor: Tensor) -> Tensor:
    around = torch.full((tensor.numel() + 5,), _poison(tensor.dtype), dtype=tensor.dtype)
    return around[3 : 3 + tensor.numel()].view(tensor.shape).copy_(tensor)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if tensor.ndim > 1 else tensor


_LAYOUTS = {
    "contiguous": lambda tensor: tensor,
    "channels last": _channels_last,
    "transposed": lambda tensor: (
        tensor.permute(*reversed(range(tensor.ndim))).contiguous().permute(*reversed(range(tensor.ndim)))
    ),
    "crop": _crop,
    "every other": _every_other,
    "storage offset": _storage_offset,
    "one sample expanded": lambda tensor: tensor[:1].expand_as(tensor),
    "one voxel expanded": lambda tensor: tensor[..., :1].expand_as(tensor),
}


def _values(kind: str, shape: tuple[int, ...], of_type: torch.dtype, probabilities: bool) -> Tensor:
    """Floating scores (N, C, *spatial); probabilities lie in [0, 1] but for NaN."""
    limits = torch.finfo(of_type)
    values = torch.rand(shape) if probabilities else torch.randn(shape) * 3
    values = values.to(torch.float64)
    if kind == "uniform":
        values = torch.rand(shape, dtype=torch.float64)
    elif kind == "constant":
        values = values.flatten()[:1].expand(values.numel()).reshape(shape).clone()
    elif kind == "ties":
        values = (values * 4).round() / 4
    elif kind == "zero":
        values = torch.zeros_like(values)
    elif kind == "huge":
        values = values.sign() * min(limits.max, 1e30)
    elif kind == "tiny":
        values = (torch.randint(1, 9, shape) * limits.smallest_normal / 16).to(torch.float64)
    elif kind == "infinite":
        values[:1] = torch.where(torch.rand_like(values[:1]) < 0.1, values[:1].sign() * math.inf, values[:1])
    elif kind == "one class -inf":
        values[:, -1:] = -math.inf
    elif kind == "nan":
        values[-1:] = torch.where(torch.rand_like(values[-1:]) < 0.1, math.nan, values[-1:])
    return values.to(of_type)


def _with(values: Tensor, share: float, replacements: list[float]) -> Tensor:
    """The values, a share of them replaced."""
    for value in replacements:
        values = torch.where(torch.rand(values.shape) < share, torch.as_tensor(value, dtype=values.dtype), values)
    return values


def _labels(case: Case, shape: tuple[int, ...], name: str) -> Tensor:
    """A label map."""
    of_type = dtype(name)
    most = 2 if of_type == torch.bool else min(case.classes, torch.iinfo(of_type).max + 1)
    content = case.content
    labels = torch.randint(most, shape)
    if content == "background":
        labels = torch.zeros_like(labels)
    elif content == "a class missing":
        labels = labels % max(most - 1, 1)
    elif content == "out of range" and of_type != torch.bool:
        limits = torch.iinfo(of_type)
        labels = _with(labels, 0.05, [v for v in (case.classes, -1, -2, limits.max, limits.min) if holds(name, v)])
    return _with_ignored(labels, case, name).to(of_type)


def _with_ignored(target: Tensor, case: Case, name: str) -> Tensor:
    ignored = None if isinstance(case, HistogramCase) else case.ignore_index
    if ignored is None or not holds(name, ignored):
        return target
    if case.content == "all ignored":
        return torch.full_like(target, ignored)
    return _with(target, 0.2, [ignored])


def _channels(case: Case, shape: tuple[int, ...], name: str) -> Tensor:
    """A target with a channel for each class: soft where the operator takes such labels, else 0 and 1."""
    soft = isinstance(case, RegionCase) and name in FLOATS
    target = torch.rand(shape, dtype=torch.float64)
    if not soft or case.seed % 2:
        target = (target < 0.4).double()
    if case.content == "background":
        target = torch.zeros_like(target)
    elif case.content == "a class missing":
        target[:, -1:] = 0.0
    elif case.content == "out of range":
        target = _with(target, 0.03, [2.0, 1.5, -3.0] if name in FLOATS else [2, *([-7] if holds(name, -7) else [])])
    elif case.content == "missing":
        target = _with(target, 0.2, [-1.0] if _has_policy(case) else [])
        if name in FLOATS:
            target = _with(target, 0.1, [math.nan])
    if isinstance(case, RegionCase) and case.ignored_class is not None:
        if case.content == "all ignored":
            target[:, case.ignored_class] = 1.0
        return target.to(dtype(name))
    return _with_ignored(target, case, name).to(dtype(name))


def _has_policy(case: Case) -> bool:
    """Whether -1 stands for a label that is missing or uncertain."""
    return not isinstance(case, RegionCase) or case.target == "uncertain"


def _mask(case: Case) -> Tensor | None:
    samples, classes, spatial, name = case.samples, case.classes, case.spatial, case.types[2]
    shapes = {
        "voxels": (samples, *spatial),
        "one channel": (samples, 1, *spatial),
        "classes": (samples, classes, *spatial),
        "table": (samples, classes),
        "nothing": (samples, *spatial),
    }
    if case.mask == "none":
        return None
    shape = shapes[case.mask]
    kept = (torch.rand(shape) < 0.7) & (case.mask != "nothing")
    weights = torch.rand(shape) * 2 if name in FLOATS else torch.ones(shape)
    return (kept * weights).to(dtype(name))


def _target(case: Case) -> Tensor:
    map_shape, full = (case.samples, *case.spatial), (case.samples, case.classes, *case.spatial)
    if isinstance(case, RegionCase):
        kind = case.target
    else:
        kind = "labels" if isinstance(case, CountCase) and case.kind != "threshold" else "dense"
    if kind == "labels":
        return _labels(case, map_shape, case.types[1])
    if kind == "labels with a channel":
        return _labels(case, (case.samples, 1, *case.spatial), case.types[1])
    return _channels(case, full, case.types[1])


def _input(case: Case) -> Tensor:
    shape = (case.samples, case.classes, *case.spatial)
    if isinstance(case, CountCase) and case.kind == "labels":
        return _labels(case, (case.samples, *case.spatial), case.types[0])
    if case.types[0] not in FLOATS:
        return torch.randint(-3, 4, shape).to(dtype(case.types[0]))
    probabilities = not isinstance(case, CountCase) and case.activation is None
    return _values(case.values, shape, dtype(case.types[0]), probabilities)


def _laid_out(tensor: Tensor, layout: str, spatial: tuple[int, ...]) -> Tensor:
    if layout == "one voxel expanded" and tensor.shape[2:] != spatial and tensor.shape[1:] != spatial:
        return tensor
    return _LAYOUTS[layout](tensor)


def make(case: Case) -> Tensors:
    """The tensors that the case describes, the same at each call."""
    _seed(case.seed)
    input, target, mask = _input(case), _target(case), _mask(case)
    of_input, of_target, of_mask = case.layouts
    return Tensors(
        _laid_out(input, of_input, case.spatial),
        _laid_out(target, of_target, case.spatial),
        None if mask is None else _laid_out(mask, of_mask, case.spatial),
    )
