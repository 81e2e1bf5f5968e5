"""Losses over a process group: ranks with unequal batches against one process with their union."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing

import fastmed
from fastmed.validation import NORMALIZATIONS

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="torch without torch.distributed")

_SPLIT = (1, 3)


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(sum(_SPLIT), 3, 50, generator=generator), torch.randint(
        3, (sum(_SPLIT), 50), generator=generator
    )


def _table() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(2, (sum(_SPLIT), 5), generator=generator).float()
    # One task without a label on the first rank, one without any.
    target[0, 1] = target[:, 2] = torch.nan
    return torch.randn(sum(_SPLIT), 5, generator=generator), target


def _losses(process_group: Any) -> dict[str, tuple[Any, Any]]:
    """Each loss with the batch that it is tried on."""
    options = {"pos_weight": "balanced", "neg_weight": "balanced", "process_group": process_group}
    tables = {name: (fastmed.MultiTaskBCELoss(normalize=name, **options), _table) for name in NORMALIZATIONS}
    return {"dice": (fastmed.DiceCELoss(pool="batch", process_group=process_group), _data), **tables}


def _rank(rank: int, port: int, name: str, queue: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=len(_SPLIT))
    loss, data = _losses(distributed.group.WORLD)[name]
    input, labels = (tensor.split(_SPLIT)[rank] for tensor in data())
    input = input.clone().requires_grad_()
    value = loss(input, labels)
    value.backward()
    queue.put((rank, value.item(), input.grad.numpy()))
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["dice", *NORMALIZATIONS])
def test_two_ranks_of_unequal_batches(name: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, port, name, queue)) for rank in range(len(_SPLIT))]
    for process in ranks:
        process.start()
    results = sorted(queue.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join()
    loss, data = _losses(None)[name]
    input, labels = data()
    whole = loss(input.requires_grad_(), labels)
    whole.backward()
    for (_, value, gradient), expected in zip(results, input.grad.split(_SPLIT), strict=True):
        assert value == pytest.approx(whole.item(), rel=1e-6)
        # Data-parallel training averages over the ranks, so each holds their number times its share.
        torch.testing.assert_close(torch.from_numpy(gradient), expected * len(_SPLIT), rtol=1e-5, atol=1e-8)
