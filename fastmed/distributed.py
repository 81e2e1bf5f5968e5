"""Sums over the ranks of a process group."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from .contract import RegionSums, changed


def _add_over_ranks(tensor: Tensor, group: Any) -> None:
    """Adds in place; a collective that fails says what that means for a loss."""
    try:
        distributed.all_reduce(tensor, group=group)
    except RuntimeError as error:
        raise RuntimeError(
            f"the sums of {distributed.get_world_size(group)} ranks could not be added: a rank has stopped, or did not "
            f"come to the same loss within the group's timeout ({error})"
        ) from error


class _AllReduce(torch.autograd.Function):
    """Sum over the ranks; so is the gradient, hence the mean that data-parallel training takes is exact."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = tensor.clone()
        _add_over_ranks(total, group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone()
        _add_over_ranks(total, ctx.group)
        return total, None


def all_reduce_sums(sums: RegionSums, group: object) -> RegionSums:
    """The sums of all ranks together, by one all-reduce of a few hundred bytes."""
    fields = changed(sums, counts=None)
    present = [field for field in fields if field is not None]
    total = iter(_AllReduce.apply(torch.stack(present), group).unbind(0))
    added: list[Any] = [None if field is None else next(total) for field in fields]
    of_all = RegionSums(*added)
    if sums.counts is None:
        return of_all
    counts = sums.counts.clone()
    _add_over_ranks(counts, group)
    return changed(of_all, counts=counts)


def all_reduce_count(count: int, group: object, like: Tensor) -> Tensor:
    """The sum of a number over all ranks, left on the device of `like`: nothing waits for it."""
    total = torch.full((), count, dtype=torch.int64, device=like.device)
    _add_over_ranks(total, group)
    return total
