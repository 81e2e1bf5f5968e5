"""How much memory a call takes beyond what was there before it, and what it keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# What makes Linux forget the highest use of memory so far.
_FORGET_PEAK = "5"


def _resident(line: str) -> int:
    """Bytes of the process, "VmRSS" now or "VmHWM" at most so far."""
    for entry in _STATUS.read_text().splitlines():
        if entry.startswith(line):
            return int(entry.split()[1]) * 1024
    raise RuntimeError(f"{_STATUS} has no line {line}")


def peak_extra(function: Callable[[], Any], device: torch.device) -> int | None:
    """Bytes beyond those held before, at the peak of one call; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    if not _CLEAR.exists():
        return None
    _CLEAR.write_text(_FORGET_PEAK)
    before = _resident("VmRSS")
    function()
    return max(_resident("VmHWM") - before, 0)


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
