"""How much memory a call takes beyond what was there before it, and what it keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile


def _allocations(function: Callable[[], Any]) -> Iterator[tuple[int, int]]:
    """Address and size of each allocation of PyTorch on the CPU, in order of time; a negative size frees."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    assert profiler.profiler is not None
    waiting, found = list(profiler.profiler.kineto_results.experimental_event_tree()), []
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.tag == _EventType.Allocation:
            found.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    for _, address, size in sorted(found, key=lambda event: event[0]):
        yield address, size


def peak_extra(function: Callable[[], Any], device: torch.device) -> int:
    """Bytes beyond those held before, at the peak of one call; on the CPU those that PyTorch allocates."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    live: dict[int, int] = {}
    now = peak = 0
    for address, size in _allocations(function):
        if size > 0:
            live[address] = size
            now += size
            peak = max(peak, now)
        else:
            # What was there before the call is not its memory.
            now -= live.pop(address, 0)
    return peak


def kept_for_backward(function: Callable[[], Any]) -> int:
    """Bytes of the tensors that a forward pass keeps, each storage once, the operands among them."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(kept.values())
