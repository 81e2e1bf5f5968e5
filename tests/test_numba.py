"""The Numba backend's own parts: elementary functions, conversions, vectorisation, threads, scratch memory."""

from __future__ import annotations

import ast
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from fastmed.backends import cpu_numba
from fastmed.backends.cpu_numba import (
    channels_last,
    conversion,
    few_classes,
    label_map,
    memory,
    optional,
    pointwise,
    softmax,
    step,
    threads,
    tiles,
)
from fastmed.backends.cpu_numba.compilation import elementwise
from fastmed.backends.cpu_numba.vector_math import exp_non_positive, log1p_unit, log_positive
from fastmed.contract import STATISTICS
from fastmed.functional import multitask_bce_loss, region_sums


@elementwise
def _map(function: Any, x: Any, result: Any) -> None:
    for i in range(x.size):
        result[i] = function(x[i])


def ulps(function: Any, exact: Callable[[Any], Any], x: np.ndarray) -> float:
    """Largest error in units of the last place of the exact result."""
    x = x.astype(np.float32)
    result = np.empty_like(x)
    _map(function, x, result)
    expected = exact(x.astype(np.float64))
    return float(np.max(np.abs(result - expected) / np.spacing(np.abs(expected).astype(np.float32))))


def test_elementary_functions_are_accurate_to_three_ulp() -> None:
    unit = np.random.default_rng(0).random(200_000)
    assert ulps(exp_non_positive, np.exp, -87.0 * unit) <= 3
    assert ulps(exp_non_positive, np.exp, -unit) <= 3
    assert ulps(log_positive, np.log, 1.0 + 999.0 * unit) <= 3
    assert ulps(log_positive, np.log, 1.0 + 0.5 * unit) <= 3
    assert ulps(log1p_unit, np.log1p, unit) <= 3
    assert ulps(log1p_unit, np.log1p, np.exp(-80.0 * unit)) <= 3


def test_elementary_functions_at_their_ends() -> None:
    result = np.empty(4, np.float32)
    _map(exp_non_positive, np.array([np.nan, -np.inf, -0.0, -200.0], np.float32), result)
    assert np.array_equal(result, [np.nan, 0.0, 1.0, 0.0], equal_nan=True)
    _map(log_positive, np.array([np.nan, np.inf, 1.0, 1.0], np.float32), result)
    assert np.array_equal(result, [np.nan, np.inf, 0.0, 0.0], equal_nan=True)
    _map(log1p_unit, np.array([np.nan, 0.0, 1e-38, 0.0], np.float32), result)
    assert np.array_equal(result, np.array([np.nan, 0.0, 1e-38, 0.0], np.float32), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_formats_convert_as_torch_does(dtype: torch.dtype) -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype)
    tile = np.empty(1 << 16, np.float32)
    memory.load(tile, every.data_ptr(), conversion.reader(dtype), 0, 1)
    assert np.array_equal(tile, every.float().numpy(), equal_nan=True)
    values = torch.randn(100_000) * 10.0 ** torch.randint(-10, 6, (100_000,))
    edges = [torch.inf, -torch.inf, torch.nan, 65519.0, 65520.0, 2.0**-25, 2.0**-24, 0.0, -0.0]
    values = torch.cat([values, torch.tensor(edges)])
    rounded = torch.empty(values.numel(), dtype=dtype)
    memory.store(values.numpy(), rounded.data_ptr(), conversion.writer(dtype), 0, 1)
    torch.testing.assert_close(rounded, values.to(dtype), rtol=0, atol=0, equal_nan=True)


def test_inner_loops_use_wide_registers() -> None:
    """Compiled anew, since assembly is not kept with cached code: no loop may have fallen back to scalars."""
    tile, by, one = np.ones(64, np.float32), np.ones(STATISTICS, np.float32), np.float32(1.0)
    sums, labels = np.zeros(STATISTICS), np.ones(64, np.int32)
    of_classes = np.ones((STATISTICS, 4), np.float32)
    calls = {
        tiles.remove: (tile, tile.copy()),
        tiles.remove_value: (tile, tile.copy(), one),
        tiles.replace_uncertain: (tile, tile.copy(), tile.copy()),
        pointwise._add_sigmoid: (tile, tile, tile, sums),
        pointwise._add_sigmoid_and_nll: (tile, tile, tile, one, sums),
        pointwise._add_focal_nll: (tile, tile, tile, one, one, sums),
        pointwise._sigmoid_gradient: (tile, tile, tile, one, by, tile.copy()),
        pointwise._focal_gradient: (tile, tile, tile, one, one, by, tile.copy()),
        channels_last._add_nll: (tile, tile, tile, one, tile.copy(), tile.copy()),
        channels_last._add_focal_nll: (tile, tile, tile, one, one, tile.copy(), tile.copy()),
        channels_last._probabilities: (tile, tile, tile.copy(), tile.copy()),
        channels_last._nll_gradient: (tile, tile, tile, one, tile, tile, tile.copy()),
        channels_last._focal_gradient: (tile, tile, tile, one, one, tile, tile, tile.copy()),
        channels_last._add_overlap_gradient: (tile, tile, tile, tile, tile, tile, tile.copy()),
        step._count_known: (tile, tile, tile.copy(), tile.copy()),
        step._of_known: (tile, tile, tile, one, None, tile, tile, tile.copy()),
        step._of_weighted: (tile, tile, tile, one, one, tile, tile, tile.copy()),
        few_classes._probabilities_of_two: (tile, tile, labels, tile, *(tile.copy() for _ in range(4))),
        few_classes._probabilities_of_four: (*[tile] * 4, labels, tile, *(tile.copy() for _ in range(6))),
        few_classes._nll: (tile, tile.copy()),
        few_classes._add: (tile, labels, np.int32(1), sums),
        few_classes._add_with_nll: (tile, labels, np.int32(1), tile, sums),
        few_classes._gradient_of_two: (tile, tile, labels, tile, of_classes, tile.copy(), tile.copy()),
        few_classes._gradient_of_four: (*[tile] * 4, labels, tile, of_classes, *(tile.copy() for _ in range(4))),
        label_map._highest_of_three: (tile, tile, tile, tile.copy()),
        label_map._exponentials: (tile, tile, tile.copy(), tile.copy()),
        label_map._add: (tile, tile, labels, np.int32(1), sums),
        label_map._add_with_nll: (tile, tile, labels, np.int32(1), tile, tile, tile, sums),
        label_map._products: (tile.copy(), tile, labels, np.int32(1), by, tile.copy()),
        label_map._gradient: (tile, labels, np.int32(1), by, tile, tile.copy()),
        softmax._exponentials: (tile, tile.copy(), tile.copy(), tile.copy()),
        softmax._add: (tile, tile, tile, sums),
        softmax._add_nll: (tile, tile, tile, tile, one, one, sums),
        softmax._add_focal_nll: (tile, tile, tile, tile, tile, one, one, one, sums),
        softmax._products: (tile, tile, tile, one, one, by, tile.copy(), tile.copy()),
        softmax._focal_products: (tile, tile.copy(), tile, tile, tile, one, one, one, by, tile.copy()),
        softmax._add_soft_products: (tile, tile, tile, by, tile.copy(), tile.copy()),
        pointwise._add_soft_gradient: (tile, tile, tile, True, by, tile.copy()),
        optional.add_soft: (tile, tile, tile, sums),
        optional.add_hard: (tile, one, tile, tile, sums),
    }
    wide = r"(vmulp|vaddp|vmaxp|fmaxnm|vfmadd\w*p|fmla|fmul|fadd)s?\s.*(ymm|zmm|v\d+\.4s)"
    for function, arguments in calls.items():
        fresh = function.__class__(function.py_func, targetoptions={**function.targetoptions})
        fresh(*arguments)
        assembly = "\n".join(fresh.inspect_asm().values())
        assert len(re.findall(wide, assembly)) >= 2, function.py_func.__name__
        assert not re.search(r"vmaskmovp[sd]\s+%.*\)$", assembly, re.MULTILINE), function.py_func.__name__


COMPILE = """
import torch, fastmed
from numba.core import event

strings = set()

class Compiled(event.Listener):
    def on_start(self, begun):
        function = begun.data["dispatcher"].py_func
        if "unicode" in function.__module__:
            strings.add(function.__qualname__)

    def on_end(self, ended):
        pass

event.register("numba:compile", Compiled())
logits = torch.randn(1, 3, 8, 8, 8, requires_grad=True)
fastmed.DiceCELoss()(logits, torch.randint(3, (1, 1, 8, 8, 8))).backward()
fastmed.MultiTaskBCELoss()(logits[0, :, 0, 0], torch.ones(3, 8)).backward()
print(sorted(strings))
"""


def test_kernels_compile_no_strings(tmp_path: Path) -> None:
    """As assignments of arrays do, whose errors have a message: it took a third of the first step of a process."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def compute() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(2, 2, 40_000, generator=generator, requires_grad=True)
    target = torch.randint(2, (2, 40_000), generator=generator)
    sums = region_sums(input, target, activation="softmax", backend="numba")
    (gradient,) = torch.autograd.grad((sums.tp / sums.pred_sq).sum(), input)
    return torch.cat([sums.tp.detach().flatten(), sums.nll_pos.detach().flatten(), gradient.flatten()])


def test_same_bits_at_any_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(compute())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])


def test_several_python_threads_at_once() -> None:
    expected, results = compute(), []
    workers = [threading.Thread(target=lambda: results.append(compute())) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    assert all(torch.equal(expected, result) for result in results)


def _forward_in_child(queue: Any, input: torch.Tensor, target: torch.Tensor) -> None:
    sums = region_sums(input, target, activation="softmax", backend="numba")
    queue.put((threads.count(1 << 30), sums.tp.numpy()))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_runs_serially_and_gets_the_same() -> None:
    """OpenMP kills a child that enters it again; torch's own operators stay below their parallel size here."""
    input, target = torch.randn(2, 2, 40_000), torch.randint(2, (2, 40_000))
    expected = region_sums(input, target, activation="softmax", backend="numba").tp
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_forward_in_child, args=(queue, input, target))
    child.start()
    number, result = queue.get(timeout=60)
    child.join()
    assert number == 1
    assert np.array_equal(expected.numpy(), result)


def test_without_openmp_plain_threads_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = compute()
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    assert torch.equal(expected, compute())


def test_without_openmp_a_table_takes_plain_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its step starts them from compiled code."""
    logits, target = torch.randn(4096, 20, requires_grad=True), (torch.rand(4096, 20) < 0.1).float()
    (expected,) = torch.autograd.grad(multitask_bce_loss(logits, target, backend="numba"), logits)
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    (gradient,) = torch.autograd.grad(multitask_bce_loss(logits, target, backend="numba"), logits)
    assert torch.equal(expected, gradient)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere PyTorch may bring another OpenMP")
def test_threads_are_those_of_torch() -> None:
    """A second pool of threads would have to share the processors with torch's own."""
    torch.randn(1 << 22).exp()
    compute()
    before = len(os.listdir("/proc/self/task"))
    for _ in range(3):
        torch.randn(1 << 22).exp()
        compute()
    assert threads._openmp() is not None
    assert len(os.listdir("/proc/self/task")) <= before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's perturbation of fresh memory")
def test_scratch_is_written_before_it_is_read() -> None:
    """The kernels' own scratch comes from malloc: filled with 3e38, any read of it would show."""
    script = "import torch; torch.use_deterministic_algorithms(True); from test_numba import compute; import sys; "
    script += "sys.stdout.buffer.write(compute().numpy().tobytes())"
    environment = {**os.environ, "MALLOC_PERTURB_": "128", "PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    assert done.stdout == compute().numpy().tobytes()


def names_in_calls(node: ast.AST, function: str) -> set[str]:
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call) and ast.unparse(each.func) == function]
    return {each.id for call in calls for each in ast.walk(call.args[0]) if isinstance(each, ast.Name)}


def test_what_is_borrowed_is_kept_to_the_end() -> None:
    """Compiled code frees an array after its last mention, whoever borrowed it."""
    borrowing = []
    for path in Path(cpu_numba.__file__).parent.glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and names_in_calls(function, "borrow"):
                last = [statement for statement in function.body if not isinstance(statement, ast.Return)][-1]
                borrowing.append(f"{path.name}: {function.name}")
                assert names_in_calls(function, "borrow") == names_in_calls(last, "keep"), borrowing[-1]
    assert "pointwise.py: _chunk_sums" in borrowing


def test_an_old_numba_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.version_info", SimpleNamespace(short=(0, 60)))
    monkeypatch.setattr("numba.__version__", "0.60.0")
    assert (cpu_numba.unavailable_reason() or "").startswith("needs Numba 0.61 or newer, not 0.60.0")
