"""Losses over a process group: ranks with unequal batches against one process with their union."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing

import fastmed

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="torch without torch.distributed")

_SPLIT = (1, 3)


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(sum(_SPLIT), 3, 50, generator=generator), torch.randint(
        3, (sum(_SPLIT), 50), generator=generator
    )


def _rank(rank: int, port: int, queue: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=len(_SPLIT))
    input, labels = (tensor.split(_SPLIT)[rank] for tensor in _data())
    input = input.clone().requires_grad_()
    loss = fastmed.DiceCELoss(pool="batch", process_group=distributed.group.WORLD)(input, labels)
    loss.backward()
    queue.put((rank, loss.item(), input.grad.numpy()))
    distributed.destroy_process_group()


def test_batch_dice_over_two_ranks() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, port, queue)) for rank in range(len(_SPLIT))]
    for process in ranks:
        process.start()
    results = sorted(queue.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join()
    input, labels = _data()
    input.requires_grad_()
    whole = fastmed.DiceCELoss(pool="batch")(input, labels)
    whole.backward()
    for (_, loss, gradient), expected in zip(results, input.grad.split(_SPLIT), strict=True):
        assert loss == pytest.approx(whole.item(), rel=1e-6)
        # Data-parallel training averages over the ranks, so each holds their number times its share.
        torch.testing.assert_close(torch.from_numpy(gradient), expected * len(_SPLIT), rtol=1e-5, atol=1e-8)
