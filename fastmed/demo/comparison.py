"""Losses side by side on the same tensors: value, gradient, time and memory."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..losses import DiceCELoss
from .training import Loss


class Measurement(NamedTuple):
    """What one loss did.

    Attributes:
        name: of the loss.
        value: of the loss.
        gradient_difference: largest difference of the gradient from that of the first loss, relative to the latter's
            largest element.
        seconds: median time of forward and backward.
        kept_bytes: memory kept from forward to backward, besides logits and labels.
    """

    name: str
    value: float
    gradient_difference: float
    seconds: float
    kept_bytes: int


def _run(loss: Loss, logits: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Value and gradient of the logits."""
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, labels)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.item(), gradient


def _seconds(loss: Loss, logits: Tensor, labels: Tensor) -> float:
    start = time.perf_counter()
    _run(loss, logits, labels)  # reading the value waits for the device
    if logits.is_cuda:
        torch.cuda.synchronize(logits.device)
    return time.perf_counter() - start


def kept_bytes(loss: Loss, logits: Tensor, labels: Tensor) -> int:
    """Bytes of the distinct storages that autograd keeps for backward, without those of logits and labels."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    leaf = logits.detach().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss(leaf, labels)
    for operand in (leaf, labels):
        kept.pop(operand.untyped_storage().data_ptr(), None)
    del value  # it holds the storages, so that none was freed and its address counted anew
    return sum(kept.values())


def compare(losses: Mapping[str, Loss], logits: Tensor, labels: Tensor, rounds: int = 15) -> list[Measurement]:
    """Measure losses in turn, so that a change of the machine's pace meets all of them.

    Args:
        losses: by name; the first is the reference for gradients.
        logits: (N, C, *spatial).
        labels: integer labels (N, 1, *spatial).
        rounds: how many times each is timed.
    """
    results = {name: _run(loss, logits, labels) for name, loss in losses.items()}
    reference = next(iter(results.values()))[1]
    scale = reference.abs().max().item()
    times: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(rounds):
        for name, loss in losses.items():
            times[name].append(_seconds(loss, logits, labels))
    return [
        Measurement(
            name,
            value,
            (gradient - reference).abs().max().item() / scale,
            statistics.median(times[name]),
            kept_bytes(losses[name], logits, labels),
        )
        for name, (value, gradient) in results.items()
    ]


def monai_dice_ce() -> Loss:
    """MONAI's loss, the Dice pooled over the batch: a class that one patch lacks is in another."""
    from monai.losses import DiceCELoss as MonaiDiceCELoss

    loss: Loss = MonaiDiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, batch=True)
    return loss


def fused_dice_ce() -> Loss:
    """The same loss in one pass."""
    return DiceCELoss(pool="batch")


def compiled(loss: Loss, logits: Tensor, labels: Tensor) -> Loss | None:
    """The loss under `torch.compile`, or None where this machine has no compiler for it."""
    # Seconds of imports, which only a caller that compiles should wait for.
    from torch._dynamo.exc import TorchDynamoException

    fast: Loss = torch.compile(loss)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\.")
            _run(fast, logits, labels)
    except TorchDynamoException:
        return None
    return fast
