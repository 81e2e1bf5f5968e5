"""Processes of a group, kept alive so that many tests share what it costs to start them."""

from __future__ import annotations

import contextlib
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, multiprocessing

WAIT = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def join_group(rank: int, size: int, port: int, timeout: float = WAIT) -> None:
    """Make this process a rank of a group of processes on this machine."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=size, timeout=timedelta(seconds=timeout))


def _serve(rank: int, size: int, port: int, tasks: Any, results: Any) -> None:
    join_group(rank, size, port)
    while True:
        task, arguments = tasks.get()
        if task is None:
            break
        try:
            results.put((rank, task(rank, *arguments), None))
        except BaseException:
            results.put((rank, None, traceback.format_exc()))
    distributed.destroy_process_group()


class Ranks:
    """A group of processes that run one function after another, each as `function(rank, *arguments)`."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.size, port = size, free_port()
        self._tasks, self._results = [context.Queue() for _ in range(size)], context.Queue()
        self._processes = [
            context.Process(target=_serve, args=(rank, size, port, tasks, self._results), daemon=True)
            for rank, tasks in enumerate(self._tasks)
        ]
        for process in self._processes:
            process.start()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What the function returns on each rank; numbers and arrays, which outlive the process that made them."""
        for tasks in self._tasks:
            tasks.put((function, arguments))
        answers = sorted((self._results.get(timeout=WAIT) for _ in range(self.size)), key=lambda answer: answer[0])
        failed = [error for _, _, error in answers if error is not None]
        if failed:
            raise AssertionError("\n".join(failed))
        return [value for _, value, _ in answers]

    def stop(self) -> None:
        for tasks in self._tasks:
            tasks.put((None, ()))
        for process in self._processes:
            process.join(WAIT)


@contextlib.contextmanager
def ranks_of(size: int) -> Iterator[Ranks]:
    group = Ranks(size)
    try:
        yield group
    finally:
        group.stop()
