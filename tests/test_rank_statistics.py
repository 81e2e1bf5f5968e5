"""Rank statistics of every backend against scikit-learn, SciPy and the definition of placements."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scored import LABEL_DTYPES, SCORE_DTYPES, STRIDED, labelled, name, of_dtype, scores_and_labels
from torch import Tensor

from fastmed.functional import RankStatistics, rank_statistics
from fastmed.metrics.functional import auroc

INF = float("inf")


def by_definition(scores: Tensor, target: Tensor) -> RankStatistics:
    """Every pair of a positive and a negative of each task."""
    statistics = []
    for task in range(scores.shape[1]):
        of_task, labels = labelled(scores, target, task)
        ahead = of_task[labels == 1].double().unsqueeze(1), of_task[labels == 0].double()
        ordered = (ahead[0] > ahead[1]).double() + (ahead[0] == ahead[1]).double() / 2
        squares = ordered.sum(1).square().sum(), ordered.sum(0).square().sum()
        statistics.append(torch.stack([*map(torch.tensor, ordered.shape), ordered.sum(), *squares]))
    positives, negatives, *rest = torch.stack(statistics).double().unbind(1)
    return RankStatistics(positives.long(), negatives.long(), *rest)


def assert_same(got: RankStatistics, expected: RankStatistics) -> None:
    for field, a, b in zip(RankStatistics._fields, got, expected, strict=True):
        assert a.dtype == b.dtype
        exact = not field.endswith("squares")
        torch.testing.assert_close(
            a, b, rtol=0.0 if exact else 1e-12, atol=0.0, msg=lambda text, f=field: f"{f}: {text}"
        )


TIES = {
    "none": lambda scores: scores,
    "some": lambda scores: (scores * 20).round() / 20,
    "two_values": lambda scores: scores.round(),
    "all": lambda scores: torch.full_like(scores, 0.3),
    "infinities": lambda scores: torch.where(scores > 0.7, INF, torch.where(scores < 0.2, -INF, scores)),
    "zeros_of_both_signs": lambda scores: torch.where(scores > 0.5, 0.0, -0.0),
}


@pytest.mark.parametrize("ties", TIES.values(), ids=TIES.keys())
@pytest.mark.parametrize("dtype", SCORE_DTYPES, ids=name)
def test_matches_the_definition(ranking_backend: str, ties, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    scores, target = scores_and_labels((701, 3))
    scores = ties(scores).to(dtype)
    assert_same(rank_statistics(scores, target, backend=ranking_backend), by_definition(scores, target))


@pytest.mark.parametrize("ties", ["none", "some", "two_values", "all"])
def test_matches_scikit_learn_and_scipy(ranking_backend: str, ties: str) -> None:
    from scipy.stats import rankdata
    from sklearn.metrics import roc_auc_score

    scores, target = scores_and_labels((20_000, 4))
    scores = TIES[ties](scores)
    ranks = rank_statistics(scores, target, backend=ranking_backend)
    areas = auroc(ranks)
    assert areas.bound.tolist() == [0.0] * 4
    for task in range(4):
        of_task, labels = (tensor.numpy() for tensor in labelled(scores, target, task))
        assert areas.value[task].item() == pytest.approx(roc_auc_score(labels, of_task), abs=1e-12)
        positives = labels.sum()
        ranked = rankdata(of_task.astype(np.float64))
        assert ranks.u[task].item() == ranked[labels == 1].sum() - positives * (positives + 1) / 2


def test_float64_scores_are_not_rounded(ranking_backend: str) -> None:
    scores = torch.tensor([[1.0], [1.0 + 1e-15], [1.0 + 2e-15]], dtype=torch.float64)
    ranks = rank_statistics(scores, torch.tensor([[0], [1], [1]]), backend=ranking_backend)
    assert ranks.u.tolist() == [2.0]


@pytest.mark.parametrize("dtype", LABEL_DTYPES, ids=name)
def test_label_dtypes(ranking_backend: str, dtype: torch.dtype) -> None:
    scores, target = scores_and_labels((3, 2, 50))
    target = of_dtype(target, dtype)
    assert_same(rank_statistics(scores, target, backend=ranking_backend), by_definition(scores, target))


@pytest.mark.parametrize("view", STRIDED.values(), ids=STRIDED.keys())
@pytest.mark.parametrize("masked", [True, False])
def test_strides(ranking_backend: str, view, masked: bool) -> None:  # type: ignore[no-untyped-def]
    scores, target = (view(tensor) for tensor in scores_and_labels((4, 5, 6, 7)))
    mask = torch.rand(scores.shape) < 0.7 if masked else None
    ranks = rank_statistics(scores, target, mask=mask, backend=ranking_backend)
    kept = target if mask is None else target.masked_fill(~mask, torch.nan)
    assert_same(ranks, by_definition(scores, kept))


@pytest.mark.parametrize("labels", [0.0, 1.0, torch.nan, -1.0])
def test_a_task_without_both_labels_has_no_area(ranking_backend: str, labels: float) -> None:
    scores, target = scores_and_labels((50, 2))
    target[:, 1] = labels
    ranks = rank_statistics(scores, target, backend=ranking_backend)
    assert_same(ranks, by_definition(scores, target))
    areas = auroc(ranks)
    assert areas.value.isnan().tolist() == areas.bound.isnan().tolist() == [False, True]


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (2, 2, 0)])
def test_nothing_to_rank(ranking_backend: str, shape: tuple[int, ...]) -> None:
    ranks = rank_statistics(torch.zeros(shape), torch.zeros(shape), backend=ranking_backend)
    for field in ranks:
        assert field.tolist() == [0] * shape[1]
    assert auroc(ranks).value.isnan().all()


def test_nan_scores_are_an_error_where_they_count(ranking_backend: str) -> None:
    scores, target = scores_and_labels((50, 3), missing=0.0)
    scores[7, 1] = torch.nan
    with pytest.raises(ValueError, match=r"scores: got NaN for task 1, allowed are numbers"):
        rank_statistics(scores, target, backend=ranking_backend)
    unseen = rank_statistics(scores, target, validate=False, backend=ranking_backend)
    assert unseen.u.isnan().tolist() == [False, True, False]
    assert auroc(unseen).value.isnan().tolist() == [False, True, False]
    mask = ~scores.isnan()
    kept = target.masked_fill(~mask, torch.nan)
    assert_same(rank_statistics(scores, target, mask=mask, backend=ranking_backend), by_definition(scores, kept))
    assert_same(rank_statistics(scores, kept, backend=ranking_backend), by_definition(scores, kept))


def test_unknown_labels_are_an_error(ranking_backend: str) -> None:
    scores, target = scores_and_labels((50, 3))
    target[7:9, 1] = 0.5
    with pytest.raises(ValueError, match=r"target: got 0.5 for task 1 \(2 such values in all\), allowed are 0, 1"):
        rank_statistics(scores, target, backend=ranking_backend)
    unseen = rank_statistics(scores, target, validate=False, backend=ranking_backend)
    assert_same(unseen, by_definition(scores, target))


def test_several_threads_rank_the_same(ranking_backend: str) -> None:
    scores, target = scores_and_labels((30_000, 5))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = rank_statistics(scores, target, backend=ranking_backend)
        for threads in (2, 8):
            torch.set_num_threads(threads)
            for got, wanted in zip(rank_statistics(scores, target, backend=ranking_backend), expected, strict=True):
                assert torch.equal(got, wanted)
    finally:
        torch.set_num_threads(before)


def test_is_safe_from_several_python_threads(ranking_backend: str) -> None:
    scores, target = scores_and_labels((30_000, 3))
    expected = rank_statistics(scores, target, backend=ranking_backend)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(rank_statistics, scores, target, backend=ranking_backend) for _ in range(8)]
    for future in futures:
        assert_same(future.result(), expected)


def _rank_in_child(scores: Tensor, target: Tensor, backend: str, queue) -> None:  # type: ignore[no-untyped-def]
    queue.put(rank_statistics(scores, target, backend=backend).u.tolist())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this platform")
def test_is_safe_in_a_forked_child(ranking_backend: str) -> None:
    if ranking_backend == "reference":
        pytest.skip("torch's own threads do not survive a fork")
    scores, target = scores_and_labels((30_000, 3))
    expected = rank_statistics(scores, target, backend=ranking_backend).u.tolist()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_rank_in_child, args=(scores, target, ranking_backend, queue))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert queue.get() == expected


def test_inputs_stay_as_they_are(ranking_backend: str) -> None:
    scores, target = scores_and_labels((500, 1))
    before = scores.clone()
    rank_statistics(scores, target, backend=ranking_backend)
    assert torch.equal(scores, before)


@pytest.mark.parametrize("shape", [(40, 3), (2, 3, 20)])
def test_operator(ranking_backend: str, shape: tuple[int, ...]) -> None:
    scores, target = scores_and_labels(shape)
    for mask in (None, torch.rand(shape) < 0.5):
        torch.library.opcheck(torch.ops.fastmed.rank_statistics, (scores, target, mask, None, ranking_backend))


def test_compiles_without_a_graph_break() -> None:
    def area(scores: Tensor, target: Tensor) -> Tensor:
        return auroc(rank_statistics(scores * 2.0, target)).value

    scores, target = scores_and_labels((50, 3))
    scores.requires_grad_()
    compiled = torch.compile(area, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(scores, target), area(scores, target))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", SCORE_DTYPES, ids=name)
def test_cuda_ranks_as_the_cpu_does(dtype: torch.dtype) -> None:
    scores, target = (tensor.cpu() for tensor in scores_and_labels((3000, 5)))
    scores = (scores * 50).round().to(dtype)
    got = rank_statistics(scores.cuda(), target.cuda())
    assert_same(RankStatistics(*(field.cpu() for field in got)), by_definition(scores, target))
