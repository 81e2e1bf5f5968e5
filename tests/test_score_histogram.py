"""Score histograms of every backend against NumPy, and against one another."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scored import LABEL_DTYPES, SCORE_DTYPES, STRIDED, labelled, name, of_dtype, scores_and_labels
from torch import Tensor

from fastmed.functional import ScoreHistogram, score_histogram

NAN, INF = float("nan"), float("inf")
TRANSFORMS = [(None, "uniform"), ("sigmoid", "uniform"), (None, "logit"), ("sigmoid", "logit")]


def by_numpy(scores: Tensor, target: Tensor, edges: Tensor) -> Tensor:
    """Counts (T, 2, bins) by numpy.histogram of each task and label."""
    counts = []
    for task in range(scores.shape[1]):
        of_task, label = labelled(scores.double(), target, task)
        for value in (0, 1):
            counts.append(np.histogram(of_task[label == value].numpy(), edges.numpy())[0])
    return torch.from_numpy(np.stack(counts)).view(scores.shape[1], 2, -1)


def total(histogram: ScoreHistogram) -> int:
    return sum(int(field.sum()) for field in histogram[:4])


def assert_same(got: ScoreHistogram, expected: ScoreHistogram) -> None:
    for field, a, b in zip(ScoreHistogram._fields, got, expected, strict=True):
        assert torch.equal(a, b), field


def assert_counted_at(values: Tensor, target: Tensor, histogram: ScoreHistogram, edges: Tensor) -> None:
    """Values (N, T) in float64 were counted, where float32 rounds those next to an edge to either of its sides."""
    near = 2.0**-22 * (edges[-1] - edges[0])
    for task in range(values.shape[1]):
        of_task, labels = labelled(values, target, task)
        for label in (0, 1):
            column = of_task[labels == label].unsqueeze(1)
            under = torch.cat([histogram.below[task, label, None], histogram.counts[task, label]]).cumsum(0)
            assert ((column < edges - near).sum(0) <= under).all()
            assert (under <= (column < edges + near).sum(0)).all()
            assert under[-1] + histogram.above[task, label] == len(column)


@pytest.mark.parametrize("bins", [1, 2, 64, 1024, 65536])
def test_matches_numpy(histogram_backend: str, bins: int) -> None:
    scores, target = scores_and_labels((5000, 3))
    histogram = score_histogram(scores, target, bins, backend=histogram_backend)
    assert histogram.counts.dtype == torch.int64
    # Powers of two make edges that are exact in float32.
    assert torch.equal(histogram.counts, by_numpy(scores, target, histogram.edges))
    assert torch.equal(histogram.edges, torch.linspace(0, 1, bins + 1, dtype=torch.float64))
    assert total(histogram) == ((target == 0) | (target == 1)).sum()


@pytest.mark.parametrize(("bins", "limits"), [(10, None), (1000, (-1.7, 3.3)), (77, (0.2, 0.7)), (3, (-2e9, 1e9))])
@pytest.mark.parametrize("dtype", SCORE_DTYPES, ids=name)
def test_scores_as_they_are_count_the_same_in_every_backend(
    histogram_backend: str, bins: int, limits: tuple[float, float] | None, dtype: torch.dtype
) -> None:
    low, high = limits or (0.0, 1.0)
    scores, target = scores_and_labels((4000, 3))
    scores = scores * (high - low) * 1.2 + low - 0.1 * (high - low)
    # Edges themselves, and what float32 has next to them.
    edges = torch.linspace(low, high, bins + 1)
    scores[: bins + 1, 0] = edges
    scores[: bins + 1, 1] = torch.nextafter(edges, torch.tensor(INF))
    scores[: bins + 1, 2] = torch.nextafter(edges, torch.tensor(-INF))
    scores = scores.to(dtype)
    arguments = (scores, target, bins)
    histogram = score_histogram(*arguments, limits=limits, backend=histogram_backend)
    assert_same(histogram, score_histogram(*arguments, limits=limits, backend="reference"))
    assert histogram.below.sum() > 0
    assert histogram.above.sum() > 0


@pytest.mark.parametrize(("activation", "spacing"), TRANSFORMS)
@pytest.mark.parametrize("dtype", SCORE_DTYPES, ids=name)
@pytest.mark.parametrize("bins", [16, 1000])
def test_transforms(
    histogram_backend: str, activation: str | None, spacing: str, dtype: torch.dtype, bins: int
) -> None:
    probabilities, target = scores_and_labels((5000, 2))
    scores = (probabilities if activation is None else probabilities.logit() * 3).to(dtype)
    histogram = score_histogram(scores, target, bins, activation=activation, spacing=spacing, backend=histogram_backend)
    values = scores.float().double()
    if (activation, spacing) == ("sigmoid", "uniform"):
        values = values.sigmoid()
    if (activation, spacing) == (None, "logit"):
        values = values.logit()
    low, high = (0.0, 1.0) if spacing == "uniform" else (-16.0, 16.0)
    assert_counted_at(values, target, histogram, torch.linspace(low, high, bins + 1, dtype=torch.float64))
    assert histogram.nan.sum() == 0


@pytest.mark.parametrize(("activation", "spacing"), TRANSFORMS)
def test_special_scores(histogram_backend: str, activation: str | None, spacing: str) -> None:
    # -1e-30 is as good as 0 next to a limit of -16.
    scores = torch.tensor([-INF, -3e38, -100.0, -1e-30, 0.0, 1e-45, 1.0, 1.0 + 1e-6, 100.0, 3e38, INF, NAN])
    histogram = score_histogram(
        scores.unsqueeze(1),
        torch.ones(12, 1),
        8,
        activation=activation,
        spacing=spacing,
        backend=histogram_backend,
    )
    columns = [histogram.below[0, 1], *histogram.counts[0, 1], histogram.above[0, 1], histogram.nan[0, 1]]
    expected = {
        (None, "uniform"): [4, 2, 0, 0, 0, 0, 0, 0, 1, 4, 1],
        ("sigmoid", "uniform"): [0, 3, 0, 0, 0, 3, 2, 0, 3, 0, 1],
        (None, "logit"): [6, 0, 0, 0, 0, 0, 0, 0, 0, 5, 1],
        ("sigmoid", "logit"): [3, 0, 0, 0, 0, 5, 0, 0, 0, 3, 1],
    }
    assert [int(column) for column in columns] == expected[activation, spacing]
    assert histogram.counts[0, 0].sum() == 0


def test_the_upper_limit_belongs_to_the_last_bin(histogram_backend: str) -> None:
    scores = torch.tensor([[0.3], [0.7]])
    histogram = score_histogram(scores, torch.ones(2, 1), 3, limits=(0.3, 0.7), backend=histogram_backend)
    assert histogram.counts[0, 1].tolist() == [1, 0, 1]


def test_edges_of_logit_bins_are_probabilities() -> None:
    for activation in (None, "sigmoid"):
        edges = score_histogram(
            torch.rand(3, 1), torch.ones(3, 1), 8, activation=activation, spacing="logit", limits=(-2.0, 2.0)
        ).edges
        torch.testing.assert_close(edges, torch.linspace(-2, 2, 9, dtype=torch.float64).sigmoid())


@pytest.mark.parametrize("dtype", LABEL_DTYPES, ids=name)
@pytest.mark.parametrize("shape", [(700, 3), (2, 3, 700)])
def test_label_dtypes(histogram_backend: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    scores, target = scores_and_labels(shape)
    target = of_dtype(target, dtype)
    histogram = score_histogram(scores, target, 64, backend=histogram_backend)
    assert torch.equal(histogram.counts, by_numpy(scores, target, histogram.edges))


@pytest.mark.parametrize("view", STRIDED.values(), ids=STRIDED.keys())
@pytest.mark.parametrize("both", [True, False], ids=["both", "scores_only"])
@pytest.mark.parametrize("masked", [True, False])
def test_strides(histogram_backend: str, view, both: bool, masked: bool) -> None:  # type: ignore[no-untyped-def]
    scores, target = (view(tensor) for tensor in scores_and_labels((4, 5, 6, 7)))
    target = target if both else target.contiguous()
    mask = torch.rand(scores.shape) < 0.7 if masked else None
    histogram = score_histogram(scores, target, 16, mask=mask, backend=histogram_backend)
    kept = target if mask is None else target.masked_fill(~mask, NAN)
    assert torch.equal(histogram.counts, by_numpy(scores, kept, histogram.edges))


@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 14, 1023, 1024, 1025, 3000])
@pytest.mark.parametrize("rows", [1, 5, 150])
def test_number_of_tasks(histogram_backend: str, tasks: int, rows: int) -> None:
    scores, target = scores_and_labels((rows, tasks))
    histogram = score_histogram(scores, target, 4, backend=histogram_backend)
    cell = (torch.arange(tasks) * 2 + (target == 1)) * 4 + (scores * 4).long()
    kept = (target == 0) | (target == 1)
    assert torch.equal(histogram.counts.flatten(), torch.bincount(cell[kept], minlength=tasks * 8))


@pytest.mark.parametrize("shape", [(3, 2, 1), (1, 2, 1023), (2, 3, 1025), (2, 2, 5000), (300, 2, 3, 2)])
def test_number_of_voxels(histogram_backend: str, shape: tuple[int, ...]) -> None:
    scores, target = scores_and_labels(shape)
    histogram = score_histogram(scores, target, 32, backend=histogram_backend)
    assert torch.equal(histogram.counts, by_numpy(scores, target, histogram.edges))


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (0, 2, 4), (2, 2, 0)])
def test_nothing_to_count(histogram_backend: str, shape: tuple[int, ...]) -> None:
    histogram = score_histogram(torch.zeros(shape), torch.zeros(shape), 8, backend=histogram_backend)
    assert histogram.counts.shape == (shape[1], 2, 8)
    assert total(histogram) == 0


def test_masks(histogram_backend: str) -> None:
    scores, target = scores_and_labels((3, 4, 5, 6))
    for shape in ((3, 5, 6), (3, 1, 5, 6), (3, 4, 5, 6), (3, 4)):
        for dtype in (torch.bool, torch.uint8, torch.int64):
            mask = torch.rand(shape) < 0.5
            full = {2: lambda m: m[..., None, None], 3: lambda m: m.unsqueeze(1), 4: lambda m: m}[len(shape)](mask)
            histogram = score_histogram(scores, target, 8, mask=mask.to(dtype), backend=histogram_backend)
            kept = target.masked_fill(~full, NAN)
            assert torch.equal(histogram.counts, by_numpy(scores, kept, histogram.edges))


def test_counts_add(histogram_backend: str) -> None:
    scores, target = scores_and_labels((300, 3))
    whole = score_histogram(scores, target, 16, backend=histogram_backend)
    parts = [
        score_histogram(*part, 16, backend=histogram_backend)
        for part in zip(scores.split(70), target.split(70), strict=True)
    ]
    for whole_field, *fields in zip(whole[:4], *(part[:4] for part in parts), strict=True):
        assert torch.equal(whole_field, sum(fields))


@pytest.mark.parametrize("shape", [(100_000, 3), (2, 3, 50_000)])
def test_constant_scores(histogram_backend: str, shape: tuple[int, ...]) -> None:
    histogram = score_histogram(torch.full(shape, 0.5), torch.ones(shape), 2, backend=histogram_backend)
    assert histogram.counts.tolist() == [[[0, 0], [0, 100_000]]] * 3


def test_counts_exactly_beyond_float32(histogram_backend: str) -> None:
    scores = torch.full((1, 1, 1), 0.25).expand(1, 1, 2**24 + 1)
    histogram = score_histogram(
        scores, torch.ones_like(scores[..., :1]).expand_as(scores), 2, backend=histogram_backend
    )
    assert histogram.counts.tolist() == [[[0, 0], [2**24 + 1, 0]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=name)
@pytest.mark.parametrize("value", [0.5, 2.0, -2.0, INF])
def test_unknown_labels_are_an_error(histogram_backend: str, dtype: torch.dtype, value: float) -> None:
    target = torch.zeros(10, 3, dtype=dtype)
    target[4:6, 2] = value
    with pytest.raises(ValueError, match=rf"target: got {value:g} for task 2 \(2 such values in all\)"):
        score_histogram(torch.rand(10, 3), target, backend=histogram_backend)
    mask = torch.ones(10, 3, dtype=torch.bool)
    mask[4:6, 2] = False
    assert total(score_histogram(torch.rand(10, 3), target, mask=mask, backend=histogram_backend)) == 28
    # Not looked at, they are left out.
    assert total(score_histogram(torch.rand(10, 3), target, validate=False, backend=histogram_backend)) == 28


@pytest.mark.parametrize("dtype", LABEL_DTYPES[1:8], ids=name)
def test_unknown_integer_labels_are_an_error(histogram_backend: str, dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    wrong = {2, limits.max, limits.min} - {0}
    for value in wrong:
        with pytest.raises(ValueError, match=r"target: got \S+ for task 1 \(1 such values in all\)"):
            score_histogram(torch.rand(2, 2), torch.tensor([[0, 1], [1, value]]).to(dtype), backend=histogram_backend)


def test_several_threads_count_the_same(histogram_backend: str) -> None:
    scores, target = scores_and_labels((100_003, 3))
    expected = by_numpy(scores, target, torch.linspace(0, 1, 65, dtype=torch.float64))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            for view in (lambda tensor: tensor, lambda tensor: tensor.t().reshape(1, 3, -1)):
                histogram = score_histogram(view(scores), view(target), 64, backend=histogram_backend)
                assert torch.equal(histogram.counts, expected)
    finally:
        torch.set_num_threads(before)


def test_is_safe_from_several_python_threads(histogram_backend: str) -> None:
    scores, target = scores_and_labels((30_000, 3))
    expected = score_histogram(scores, target, backend=histogram_backend)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(score_histogram, scores, target, backend=histogram_backend) for _ in range(16)]
    for future in futures:
        assert_same(future.result(), expected)


def _count_in_child(scores: Tensor, target: Tensor, backend: str, queue) -> None:  # type: ignore[no-untyped-def]
    queue.put(score_histogram(scores, target, 16, backend=backend).counts.tolist())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this platform")
def test_is_safe_in_a_forked_child(histogram_backend: str) -> None:
    if histogram_backend == "reference":
        pytest.skip("torch's own threads do not survive a fork")
    scores, target = scores_and_labels((100_000, 3))
    expected = score_histogram(scores, target, 16, backend=histogram_backend).counts.tolist()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_count_in_child, args=(scores, target, histogram_backend, queue))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert queue.get() == expected


@pytest.mark.parametrize("shape", [(40, 3), (2, 3, 20)])
def test_operator(histogram_backend: str, shape: tuple[int, ...]) -> None:
    scores, target = scores_and_labels(shape)
    for mask in (None, torch.rand(shape) < 0.5):
        arguments = (scores, target, mask, "sigmoid", 16, 0.0, 1.0, None, histogram_backend)
        torch.library.opcheck(torch.ops.fastmed.score_histogram, arguments)


def test_compiles_without_a_graph_break() -> None:
    def count(scores: Tensor, target: Tensor) -> ScoreHistogram:
        return score_histogram(scores * 2.0, target, 16, activation="sigmoid", spacing="logit")

    scores, target = scores_and_labels((50, 3))
    scores.requires_grad_()
    compiled = torch.compile(count, fullgraph=True, backend="aot_eager")
    assert_same(compiled(scores, target), count(scores, target))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": 0}, r"bins: got 0, allowed are 1 to 65536"),
        ({"bins": 65537}, r"bins: got 65537, allowed are 1 to 65536"),
        ({"activation": "softmax"}, r"activation: got 'softmax', allowed are None, 'sigmoid'"),
        ({"spacing": "log"}, r"spacing: got 'log', allowed are 'uniform', 'logit'"),
        ({"limits": (1.0, 0.0)}, r"limits: got \(1.0, 0.0\), allowed are two numbers"),
        ({"limits": (0.0, NAN)}, r"limits: got \(0.0, nan\), allowed are two numbers"),
        ({"limits": (0.0, INF)}, r"limits: got \(0.0, inf\), allowed are two numbers"),
        ({"limits": (0.0, 40.0), "spacing": "logit"}, r"limits: got \(0.0, 40.0\), allowed are .* -36 to 36"),
        ({"limits": (1.0, 1.00001)}, r"limits: got \(1.0, 1.00001\) for 1024 bins"),
        ({"mask": torch.ones(4, 4, dtype=torch.bool)}, r"mask: got shape \(4, 4\)"),
        ({"target": torch.zeros(4, 2)}, r"target: got shape \(4, 2\), allowed is that of the scores, \(4, 3\)"),
        ({"scores": torch.zeros(4), "target": torch.zeros(4)}, r"scores: got shape \(4,\), allowed is \(N, T\)"),
    ],
)
def test_refusals(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_histogram(**{"scores": torch.rand(4, 3), "target": torch.zeros(4, 3), **arguments})


def test_refused_dtypes() -> None:
    labels = torch.zeros(4, 3)
    with pytest.raises(TypeError, match=r"scores: got torch.int64, allowed are float16"):
        score_histogram(labels.long(), labels)
    with pytest.raises(TypeError, match=r"target: got torch.complex64, allowed are bool, integer and floating"):
        score_histogram(labels, labels.to(torch.complex64))
    with pytest.raises(TypeError, match=r"mask: got torch.float32, allowed are bool and integer dtypes"):
        score_histogram(labels, labels, mask=labels)


def test_more_cells_than_memory_is_an_error() -> None:
    scores = torch.zeros(1, 1).expand(1, 1 << 13)
    with pytest.raises(ValueError, match=r"bins: got 65536 for 8192 tasks, allowed are at most 32768"):
        score_histogram(scores, scores, 65536)


@pytest.mark.gpu
@pytest.mark.parametrize("bins", [10, 1024, 20_000])
@pytest.mark.parametrize("dtype", SCORE_DTYPES, ids=name)
@pytest.mark.parametrize("target_dtype", [torch.bool, torch.int64, torch.float32, torch.bfloat16], ids=name)
def test_cuda_counts_as_the_cpu_does(bins: int, dtype: torch.dtype, target_dtype: torch.dtype) -> None:
    scores, target = (tensor.cpu() for tensor in scores_and_labels((4, 5, 60, 70)))
    scores, target = scores.to(dtype), of_dtype(target, target_dtype)
    for view in STRIDED.values():
        for masked in (False, True):
            a, b = view(scores), view(target)
            mask = torch.rand(a.shape, device="cpu") < 0.5 if masked else None
            expected = score_histogram(a, b, bins, mask=mask, backend="reference")
            on_gpu = view(scores.cuda()), view(target.cuda())
            got = score_histogram(*on_gpu, bins, mask=None if mask is None else mask.cuda(), backend="native")
            for field, ours, theirs in zip(ScoreHistogram._fields, got[:4], expected[:4], strict=False):
                assert torch.equal(ours.cpu(), theirs), field


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(2**21 + 1, 14), (1, 1, 2**25 + 3)])
def test_cuda_counts_constant_scores_exactly(shape: tuple[int, ...]) -> None:
    scores = torch.full(shape, 0.5, device="cuda")
    histogram = score_histogram(scores, torch.ones_like(scores), 1024, backend="native")
    assert torch.equal(histogram.counts[:, 1, 512], torch.full((shape[1],), scores[:, 0].numel(), device="cuda"))
    assert total(histogram) == scores.numel()


def test_histograms_add() -> None:
    scores, target = scores_and_labels((40, 3))
    scores[0], scores[1:3], scores[-1] = NAN, 1.5, -0.5
    whole, parts = (
        score_histogram(scores, target),
        [score_histogram(*batch) for batch in zip(scores.split(7), target.split(7), strict=True)],
    )
    summed = sum(parts[1:], parts[0])
    assert isinstance(summed, ScoreHistogram)
    assert_same(summed, whole)


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (lambda scores, target: (scores,), TypeError, "unsupported operand"),
        (lambda scores, target: score_histogram(scores, target, 8), ValueError, r"got counts \(2, 2, 8\) to add"),
        (
            lambda scores, target: score_histogram(scores[:, :1], target[:, :1]),
            ValueError,
            r"got counts \(1, 2, 1024\)",
        ),
        (
            lambda scores, target: score_histogram(scores, target, limits=(0, 2)),
            ValueError,
            "got 1024 bins from 0 to 2 to add, allowed are the same bins, 1024 bins from 0 to 1",
        ),
    ],
)
def test_other_bins_do_not_add(other, error, message) -> None:  # type: ignore[no-untyped-def]
    scores, target = scores_and_labels((10, 2))
    with pytest.raises(error, match=message):
        score_histogram(scores, target) + other(scores, target)
