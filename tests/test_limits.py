"""Beyond the ordinary: sizes past 2^31, an interrupt, no memory left, many callers, the same bits every time."""

from __future__ import annotations

import mmap
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

import fastmed
from fastmed.functional import confusion_counts, region_sums, score_histogram

PAST = 2**31 + 3
# The backends that take no minutes: Triton's interpreter would.
COMPILED = ["numba", "reference"]


def _free_memory() -> int:
    """Bytes that can be had without swapping; 0 where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 0


def _needs(size: int) -> None:
    if _free_memory() < 1.5 * size:
        pytest.skip(f"needs {size / 1e9:.0f} GB of free memory, and room beside it")


def _untouched(elements: int, dtype: torch.dtype) -> Tensor:
    """A stretch of address space that becomes memory where it is written."""
    try:
        return torch.frombuffer(mmap.mmap(-1, elements * dtype.itemsize), dtype=dtype)
    except (OSError, ValueError):
        pytest.skip("this machine gives out no more address space than it has memory")


class TestSizes:
    @pytest.mark.slow
    def test_a_label_map_of_more_than_2_to_31_voxels(self) -> None:
        _needs(PAST)
        labels = torch.zeros((1, PAST), dtype=torch.uint8)
        labels[0, -3:] = torch.tensor([1, 2, 1], dtype=torch.uint8)
        counts = confusion_counts(labels, labels, 3)
        assert counts.tolist() == [[[PAST - 3, 0, 0], [0, 2, 0], [0, 0, 1]]]

    @pytest.mark.slow
    def test_a_volume_of_more_than_2_to_31_voxels(self) -> None:
        _needs(3 * PAST)
        logits = torch.full((1, 1, PAST), -100.0, dtype=torch.float16)
        labels = torch.zeros((1, PAST), dtype=torch.uint8)
        logits[0, 0, -3:], labels[0, -2:] = 100.0, 1
        sums = region_sums(logits, labels, activation="sigmoid", nll=False)
        assert (sums.pred.item(), sums.tp.item(), sums.target.item()) == (3.0, 2.0, 2.0)
        assert sums.weight.item() == float(np.float32(PAST))

    def test_offsets_past_2_to_31_elements(self, region_backend: str) -> None:
        """A few pages of a stretch of address space, of which the rest is never touched."""
        shape, strides = (2, 3, 70), (2**31 + 5, 2**30, 2**23 + 1)
        reach = sum(stride * (size - 1) for stride, size in zip(strides, shape, strict=True)) + 1
        far = _untouched(reach, torch.float32).as_strided(shape, strides)
        near = far.copy_(torch.randn(shape)).contiguous()
        labels = torch.randint(3, (2, 70))
        for activation in ("softmax", "sigmoid"):
            found, expected = (
                region_sums(each, labels, activation=activation, backend=region_backend) for each in (far, near)
            )
            for mine, theirs in zip(found, expected, strict=True):
                assert (mine is None) == (theirs is None)
                assert mine is None or torch.equal(mine, theirs)

    def test_counts_at_offsets_past_2_to_31_elements(self, counting_backend: str) -> None:
        shape, strides = (3, 1000), (2**31 + 5, 2**20 + 1)
        far = _untouched(2 * strides[0] + 999 * strides[1] + 1, torch.uint8).as_strided(shape, strides)
        near = far.copy_(torch.randint(4, shape)).contiguous()
        target = torch.randint(4, shape)
        assert torch.equal(
            confusion_counts(far, target, 4, backend=counting_backend),
            confusion_counts(near, target, 4, backend=counting_backend),
        )


def _alone(code: str, *, timeout: float = 120) -> str:
    """What a program prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


_CALLS = """
    import os, signal, threading, torch, fastmed
    from fastmed.functional import confusion_counts

    torch.manual_seed(0)
    logits = torch.randn(2, 4, 64, 64, 64)
    labels = torch.randint(4, (2, 64, 64, 64), dtype=torch.uint8)
    loss = fastmed.DiceCELoss(backend="{backend}")

    def compute():
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, labels)
        value.backward()
        return value.detach(), leaf.grad, confusion_counts(logits, labels, 4)
"""


class TestFaults:
    @pytest.mark.parametrize("backend", COMPILED)
    def test_an_interrupt_leaves_the_process_usable(self, backend: str) -> None:
        code = (
            _CALLS.format(backend=backend)
            + """
    expected, interrupts = compute(), 0
    for delay in (0.05, 0.2, 0.35):
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            while True:
                compute()
        except KeyboardInterrupt:
            interrupts += 1
    same = all(torch.equal(mine, theirs) for mine, theirs in zip(compute(), expected))
    print(interrupts, same)
"""
        )
        assert _alone(code) == "3 True"

    @pytest.mark.parametrize("backend", COMPILED)
    def test_no_memory_for_the_gradient_is_an_error(self, backend: str) -> None:
        pytest.importorskip("resource")
        code = (
            _CALLS.format(backend=backend)
            + """
    import resource

    expected = compute()
    # Its memory is reserved but not there, so that the gradient alone is what there is no room for.
    large = torch.zeros(1).expand(1, 4, 2**27).requires_grad_()
    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, -1))
    try:
        loss(large, torch.zeros(1, dtype=torch.uint8).expand(1, 2**27)).backward()
    except RuntimeError as error:
        message = str(error)
    # What malloc took for the failed call it may keep, and a stack without room to grow is a crash.
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    print("memory" in message)
    print(all(torch.equal(mine, theirs) for mine, theirs in zip(compute(), expected)))
"""
        )
        assert _alone(code).split() == ["True", "True"]


def _bits(backend: str, threads: int, logits: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """Loss, gradient and counts of one step, on a number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for loss in (fastmed.DiceCELoss(backend=backend), fastmed.DiceBCELoss(backend=backend, pos_weight="balanced")):
            leaf = logits.clone().requires_grad_()
            counts = torch.zeros(logits.shape[1], 4, dtype=torch.int64)
            value = loss(leaf, labels, hard_counts=counts)
            value.backward()
            assert leaf.grad is not None
            yield from (value.detach(), leaf.grad, counts)
    finally:
        torch.set_num_threads(before)


class TestSameBits:
    """Deterministic algorithms are asked for in every test."""

    def test_of_losses_and_gradients(self, region_backend: str) -> None:
        # Triton's interpreter takes a hundred times longer; torch adds up in another order on other threads.
        runs, voxels = (3, 500) if region_backend == "triton" else (100, 70_000)
        threads = (1,) if region_backend in ("triton", "reference") else (1, 2, 3, 5)
        logits, labels = torch.randn(2, 3, voxels), torch.randint(3, (2, voxels), dtype=torch.uint8)
        first = list(_bits(region_backend, 1, logits, labels))
        for run in range(runs):
            again = list(_bits(region_backend, threads[run % len(threads)], logits, labels))
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(again, first, strict=True)), run

    def test_of_tables(self) -> None:
        """Whose loss and gradient come together, a chunk of rows at a time."""
        logits, target = torch.randn(20_000, 20), (torch.rand(20_000, 20) < 0.1).float()
        target[torch.rand(target.shape) < 0.2] = torch.nan
        before, results = torch.get_num_threads(), []
        try:
            for threads in (1, 2, 3, 5) * 5:
                torch.set_num_threads(threads)
                leaf = logits.clone().requires_grad_()
                value = fastmed.MultiTaskBCELoss("balanced", "balanced")(leaf, target)
                value.backward()
                results.append((value.detach(), leaf.grad))
        finally:
            torch.set_num_threads(before)
        for value, gradient in results:
            assert torch.equal(value, results[0][0])
            assert torch.equal(gradient, results[0][1])

    def test_of_counts(self, counting_backend: str) -> None:
        scores, labels = torch.randn(2, 3, 70_000), torch.randint(3, (2, 70_000))
        target = torch.randint(2, scores.shape)

        def counted() -> tuple[Tensor, Tensor]:
            return (
                confusion_counts(scores, labels, 3, backend=counting_backend),
                score_histogram(scores, target, 64, activation="sigmoid", backend=counting_backend).counts,
            )

        first = counted()
        for _ in range(100):
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(counted(), first, strict=True))


@pytest.mark.parametrize("backend", COMPILED)
def test_eight_callers_at_once(backend: str) -> None:
    logits, labels = torch.randn(8, 2, 3, 40_000), torch.randint(3, (8, 2, 40_000), dtype=torch.uint8)

    def step(number: int) -> list[Tensor]:
        leaf = logits[number].clone().requires_grad_()
        value = fastmed.DiceCELoss(backend=backend)(leaf, labels[number])
        value.backward()
        assert leaf.grad is not None
        return [value.detach(), leaf.grad, confusion_counts(logits[number], labels[number], 3)]

    expected = [step(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for found, alone in zip(pool.map(step, range(8)), expected, strict=True):
                # torch's own sums may be split among another number of threads.
                exact = backend != "reference"
                for mine, theirs in zip(found, alone, strict=True):
                    assert torch.equal(mine, theirs) if exact else torch.allclose(mine, theirs, rtol=1e-5, atol=1e-9)
