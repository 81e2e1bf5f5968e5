"""Orders of samples: balance, the split over ranks, restarts, and what an epoch depends on."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import chain
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import fastmed
from fastmed.sampling import BalancedSampler

nan = np.nan

RARE = np.array([0, 0, 1, 0, 0, 1, 0, 0, 0])

# Task 0 has one positive, task 1 two of six. The weights of the samples are 1 + 1/4, 1/5 + 1/2 twice, 1/5 + 1/4 thrice.
TWO_TASKS = np.array([[1, 0], [0, 1], [0, 1], [0, 0], [0, 0], [0, 0]])
WEIGHTS = np.array([1.25, 0.7, 0.7, 0.45, 0.45, 0.45])


def counts(order: list[int], size: int) -> np.ndarray:
    return np.bincount(order, minlength=size)


def mean_counts(sampler: BalancedSampler, size: int, epochs: int = 2000) -> np.ndarray:
    return np.mean([counts(list(sampler), size) for _ in range(epochs)], axis=0)


def test_oversampling_repeats_the_rare_class() -> None:
    sampler = BalancedSampler(RARE)
    drawn = counts(list(sampler), 9)
    assert len(sampler) == 14
    assert drawn[RARE == 0].tolist() == [1] * 7
    assert sorted(drawn[RARE == 1]) == [3, 4]
    extra = {tuple(counts(list(sampler), 9)[RARE == 1]) for _ in range(20)}
    assert extra == {(3, 4), (4, 3)}


def test_undersampling_draws_from_the_common_class() -> None:
    sampler = BalancedSampler(RARE, "undersample")
    assert len(sampler) == 4
    epochs = [sorted(sampler) for _ in range(60)]
    assert all({2, 5} < set(epoch) and len(set(epoch)) == 4 for epoch in epochs)
    # All 21 pairs of 7 negatives would be drawn in the end, and many are within 60 epochs.
    assert len(set(map(tuple, epochs))) > 15
    np.testing.assert_allclose(mean_counts(sampler, 9)[RARE == 0], 2 / 7, atol=0.04)


@pytest.mark.parametrize(
    ("missing", "uncertain", "positive"),
    [("ignore", 0, 3), ("ones", None, 3), ("zeros", 1, 4), (fastmed.Smooth(0.0, 0.3), 1, 4)],
)
def test_samples_without_a_valid_label_are_left_out(missing: Any, uncertain: int | None, positive: int) -> None:
    drawn = counts(list(BalancedSampler(np.array([0, 1, nan, -1, 0, 0]), missing=missing)), 6)
    assert drawn[[0, 2, 4, 5]].tolist() == [1, 0, 1, 1]
    if uncertain is None:
        assert drawn[1] + drawn[3] == positive
    else:
        assert (drawn[3], drawn[1]) == (uncertain, positive)


def test_soft_labels_go_with_the_nearer_class() -> None:
    drawn = counts(list(BalancedSampler(np.array([0.0, 0.49, 0.5, 0.3]))), 4)
    assert drawn.tolist() == [1, 1, 3, 1]


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_more_than_two_classes(dtype: Any) -> None:
    grades = np.array([0, 0, 0, 0, 2, 2, 7, -1], dtype)
    over, under = (counts(list(BalancedSampler(grades, mode)), 8) for mode in ("oversample", "undersample"))
    assert over.tolist() == [1, 1, 1, 1, 2, 2, 4, 0]
    assert [under[:4].sum(), under[4:6].sum(), under[6], under[7]] == [1, 1, 1, 0]


def test_one_task_of_many() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(TWO_TASKS, columns=["Edema", "Mass"])
    orders = [
        list(BalancedSampler(table, task=task))
        for table, task in ((TWO_TASKS[:, 1], None), (TWO_TASKS, 1), (frame, 1), (frame, "Mass"), (frame["Mass"], None))
    ]
    assert all(order == orders[0] for order in orders)
    assert counts(orders[0], 6).tolist() == [1, 2, 2, 1, 1, 1]
    for columns in ([5, 7], [1, 0], [7, "Mass"]):
        numbered = pandas.DataFrame(TWO_TASKS, columns=columns)
        assert list(BalancedSampler(numbered, task=columns[1])) == orders[0]
    with pytest.raises(ValueError, match=r"task: got 1, allowed is the name of a column, one of \[5, 7\]"):
        BalancedSampler(pandas.DataFrame(TWO_TASKS, columns=[5, 7]), task=1)
    with pytest.raises(ValueError, match=r"task: got 'Hernia', allowed is 0 to 1, or one of \['Edema', 'Mass'\]"):
        BalancedSampler(frame, task="Hernia")


def test_a_table_of_one_task_is_balanced_exactly() -> None:
    assert list(BalancedSampler(RARE[:, None])) == list(BalancedSampler(RARE))


def test_many_tasks_oversampled() -> None:
    """Each sample as often as its weight says: rounded down or up in an epoch, exactly on average."""
    sampler = BalancedSampler(TWO_TASKS)
    expected = 6 * WEIGHTS / WEIGHTS.sum()
    assert len(sampler) == 6
    for _ in range(50):
        drawn = counts(list(sampler), 6)
        assert ((np.floor(expected) <= drawn) & (drawn <= np.ceil(expected))).all()
    np.testing.assert_allclose(mean_counts(sampler, 6), expected, atol=0.04)


def test_many_tasks_undersampled() -> None:
    """No sample twice; the rarest positive always. 1 + 2.75 expected samples make an epoch of 3."""
    sampler = BalancedSampler(TWO_TASKS, "undersample")
    assert len(sampler) == 3
    for _ in range(50):
        epoch = list(sampler)
        assert 0 in epoch
        assert len(set(epoch)) == 3
    np.testing.assert_allclose(mean_counts(sampler, 6)[1:], 2 * WEIGHTS[1:] / WEIGHTS[1:].sum(), atol=0.04)


def test_rounding_costs_no_draw() -> None:
    """One sample is certain, and six appear with probability 1/6 + 1/6."""
    table = np.eye(7, dtype=int)[:, [0, 0]]
    assert len(BalancedSampler(table, "undersample")) == 3


def test_many_tasks_with_one_class_in_some() -> None:
    table = np.array([[0, 1, 0], [0, 0, 0], [0, nan, 1], [0, 0, nan], [0, nan, nan]])
    with pytest.warns(UserWarning, match="and so no weight, in task 0$") as record:
        sampler = BalancedSampler(table)
    assert record[0].filename == __file__
    # 1 + 1/2, 1/2 + 1/2, 1, 1/2: the last sample has no valid label where there are two classes.
    np.testing.assert_allclose(mean_counts(sampler, 5), [1.5, 1, 1, 0.5, 0], atol=0.04)
    with pytest.raises(ValueError, match="labels: got no task with both classes, allowed is at least one"):
        BalancedSampler(np.zeros((4, 2)))


MODES = st.sampled_from(["oversample", "undersample"])


@hypothesis.given(st.lists(st.integers(0, 3), min_size=2, max_size=40), MODES, st.integers(1, 5))
@hypothesis.settings(deadline=None)
def test_classes_are_equal_on_each_rank(grades: list[int], mode: str, replicas: int) -> None:
    labels = np.array(grades)
    sizes = Counter(grades)
    # One class, or the classes 0 and 1 without either, is an error that has its own test.
    hypothesis.assume(len(sizes) > 1 and (mode == "oversample" or min(sizes.values()) >= replicas))
    orders = [list(BalancedSampler(labels, mode, num_replicas=replicas, rank=rank)) for rank in range(replicas)]
    for order in orders:
        assert len(set(Counter(grades[index] for index in order).values())) == 1
    drawn = counts(list(chain(*orders)), len(grades))
    for grade in sizes:
        assert np.ptp(drawn[labels == grade]) <= 1
    if mode == "oversample":
        assert drawn.min() >= 1
        assert len(orders[0]) == len(sizes) * -(-max(sizes.values()) // replicas)
    else:
        assert drawn.max() <= 1
        assert len(orders[0]) == len(sizes) * (min(sizes.values()) // replicas)


@hypothesis.given(st.integers(0, 2**32), st.integers(2, 60), st.integers(2, 5), MODES, st.integers(1, 3))
@hypothesis.settings(deadline=None)
def test_any_table_keeps_its_promises(seed: int, rows: int, tasks: int, mode: str, replicas: int) -> None:
    table = np.random.default_rng(seed).choice([0.0, 1.0, nan], (rows, tasks), p=[0.7, 0.2, 0.1])
    hypothesis.assume(all({0, 1} <= set(column) for column in table.T))
    positives, negatives = (table == 1).sum(0), (table == 0).sum(0)
    weights = np.where(table == 1, 1 / positives, np.where(table == 0, 1 / negatives, 0)).sum(1)
    inclusion = np.minimum(1, weights * min(*positives, *negatives))
    hypothesis.assume(mode == "oversample" or inclusion.sum() >= replicas + 1)
    samplers = [BalancedSampler(table, mode, num_replicas=replicas, rank=rank) for rank in range(replicas)]
    drawn = counts(list(chain(*samplers)), rows)
    assert len({len(sampler) for sampler in samplers}) == 1
    if mode == "oversample":
        expected = drawn.sum() * weights / weights.sum()
        assert 0 <= drawn.sum() - (weights > 0).sum() < replicas
        assert ((np.floor(expected - 1e-9) <= drawn) & (drawn <= np.ceil(expected + 1e-9))).all()
    else:
        assert drawn.max() == 1
        assert -1e-5 < inclusion.sum() - drawn.sum() < replicas
        assert replicas > 1 or (drawn[inclusion == 1] == 1).all()


def gradient(weights: torch.Tensor) -> torch.Tensor:
    """Of a logistic regression on RARE, its samples weighted."""
    model = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    features = torch.stack([torch.arange(9.0).cos(), torch.arange(9.0).sin()], 1).double()
    targets = torch.as_tensor(RARE).double()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(features @ model, targets, weights, reduction="sum")
    return torch.autograd.grad(loss, model)[0]


@pytest.mark.parametrize("mode", ["oversample", "undersample"])
def test_the_expected_gradient_is_that_of_weighting(mode: str) -> None:
    """The mean over epochs against `class_balance`, to the error of the mean."""
    w_pos, w_neg = (weight.double() for weight in fastmed.class_balance(RARE))
    sampler = BalancedSampler(RARE, mode)
    drawn = torch.as_tensor(mean_counts(sampler, 9))
    factor = len(sampler) / (2 * 9 * w_pos * w_neg)
    weighted = factor * gradient(torch.where(torch.as_tensor(RARE) == 1, w_pos, w_neg))
    torch.testing.assert_close(gradient(drawn), weighted, rtol=0.02, atol=0.02)


def test_the_gradient_is_that_of_weighting_where_no_rounding_is() -> None:
    """Seven negatives for one positive: every epoch has the gradient of the weighted loss."""
    labels = RARE.astype(float)
    labels[5] = nan
    w_pos, w_neg = (weight.double() for weight in fastmed.class_balance(labels))
    sampler = BalancedSampler(labels)
    drawn = torch.as_tensor(counts(list(sampler), 9)).double()
    weights = torch.as_tensor(np.where(np.isnan(labels), 0, np.where(labels == 1, w_pos.item(), w_neg.item())))
    torch.testing.assert_close(
        gradient(drawn), len(sampler) / (2 * 8 * w_pos.item() * w_neg.item()) * gradient(weights)
    )


@pytest.mark.parametrize("labels", [RARE, TWO_TASKS], ids=["task", "table"])
@pytest.mark.parametrize("mode", ["oversample", "undersample"])
def test_ranks_take_turns_in_one_order(labels: np.ndarray, mode: str) -> None:
    samplers = [BalancedSampler(labels, mode, num_replicas=2, rank=rank, seed=3) for rank in range(2)]
    shares = [list(sampler) for sampler in samplers]
    assert [len(share) for share in shares] == [len(sampler) for sampler in samplers]
    common = samplers[0]._order(0).ravel().tolist()
    assert shares == [common[0::2], common[1::2]]


def test_an_order_depends_on_seed_and_epoch_alone() -> None:
    first, second = BalancedSampler(RARE, seed=1), BalancedSampler(torch.tensor(RARE), seed=1)
    epochs = [list(first) for _ in range(3)]
    assert len(set(map(tuple, epochs))) == 3
    torch.manual_seed(5)
    np.random.seed(5)
    for epoch in (2, 0, 1):
        second.set_epoch(epoch)
        assert list(second) == epochs[epoch]
    assert list(BalancedSampler(RARE, seed=2)) != epochs[0]


def test_the_order_of_a_release_stays() -> None:
    """A restart after an upgrade goes on in the same order."""
    assert list(BalancedSampler(RARE)) == [1, 7, 4, 2, 2, 8, 2, 5, 3, 2, 5, 0, 6, 5]
    assert list(BalancedSampler(TWO_TASKS, "undersample", seed=7)) == [0, 1, 4]


def test_global_random_states_stay() -> None:
    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()]

    before = states()
    list(BalancedSampler(RARE))
    list(BalancedSampler(TWO_TASKS, "undersample"))
    assert states() == before


def test_epochs() -> None:
    """An iteration that was broken off is over; the same epoch again only if it is asked for."""
    epochs = [list(BalancedSampler(RARE)._order(epoch)[:, 0]) for epoch in range(6)]
    sampler = BalancedSampler(RARE)
    assert list(sampler) == epochs[0]
    next(iter(sampler))
    assert list(sampler) == epochs[2]
    sampler.set_epoch(2)
    assert list(sampler) == epochs[2]
    sampler.set_epoch(3)
    begun = iter(sampler)
    assert next(begun) == epochs[3][0]
    sampler.set_epoch(3)
    assert list(sampler) == epochs[3]
    assert list(begun) == epochs[3][1:]
    iter(sampler)
    assert list(sampler) == epochs[4]
    assert len(sampler) == 14


@pytest.mark.parametrize("labels", [RARE, TWO_TASKS], ids=["task", "table"])
def test_restart_at_every_position(labels: np.ndarray) -> None:
    whole = BalancedSampler(labels)
    whole.set_epoch(4)
    expected = list(whole) + list(whole)
    running = BalancedSampler(labels)
    running.set_epoch(4)
    iteration = iter(running)
    for position in range(len(running) + 1):
        state = json.loads(json.dumps(running.state_dict()))
        restored = BalancedSampler(labels)
        restored.load_state_dict(state)
        assert len(restored) == len(running)
        rest = list(restored)
        rest += list(restored) if len(rest) < len(running) else []
        assert rest == expected[position : position + len(rest)]
        if position < len(running):
            assert next(iteration) == expected[position]


def test_set_epoch_after_a_restart() -> None:
    sampler = BalancedSampler(RARE)
    epochs = [list(sampler._order(epoch)[:, 0]) for epoch in range(3)]
    state = sampler.state_dict() | {"epoch": 1, "position": 5}
    sampler.load_state_dict(state)
    sampler.set_epoch(1)
    assert list(sampler) == epochs[1][5:]
    sampler.load_state_dict(state)
    sampler.set_epoch(2)
    assert list(sampler) == epochs[2]
    sampler.load_state_dict(state | {"position": 14})
    assert list(sampler) == epochs[2]


def test_a_state_serves_every_rank() -> None:
    first, second = (BalancedSampler(RARE, num_replicas=2, rank=rank) for rank in range(2))
    order = list(second)
    iteration = iter(first)
    for _ in range(3):
        next(iteration)
    second.load_state_dict(first.state_dict())
    assert list(second) == order[3:]


@pytest.mark.parametrize(
    ("other", "entry"),
    [
        ({"mode": "undersample"}, "mode"),
        ({"seed": 1}, "seed"),
        ({"num_replicas": 2, "rank": 0}, "num_replicas"),
        ({"task": 1}, "labels"),
        ({"labels": TWO_TASKS[::-1]}, "labels"),
    ],
)
def test_a_state_of_another_sampler(other: dict[str, Any], entry: str) -> None:
    state = BalancedSampler(TWO_TASKS).state_dict()
    options = {"labels": TWO_TASKS} | other
    with pytest.raises(ValueError, match=f"state_dict: got {entry}=.* allowed is that of this sampler"):
        BalancedSampler(**options).load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position": 15}, r"state_dict\['position'\]: got 15, allowed is a whole number, 0 to 14"),
        ({"epoch": -1}, r"state_dict\['epoch'\]: got -1, allowed is a whole number, 0 or more"),
    ],
)
def test_a_damaged_state(change: dict[str, int], message: str) -> None:
    sampler = BalancedSampler(RARE)
    with pytest.raises(ValueError, match=message):
        sampler.load_state_dict(sampler.state_dict() | change)
    with pytest.raises(ValueError, match="state_dict: got no 'epoch', allowed is what"):
        sampler.load_state_dict({})


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_loader_with_workers() -> None:
    """Batches come as without workers, while the sampler is ahead of them; a position by batches restarts there."""
    plain, sampler = BalancedSampler(RARE), BalancedSampler(RARE)
    loader = DataLoader(range(9), batch_size=4, sampler=sampler, num_workers=2, collate_fn=list)  # type: ignore[arg-type]
    assert len(loader) == 4
    epochs = [list(chain(*loader)) for _ in range(2)]
    assert epochs == [list(plain), list(plain)]
    iteration = iter(loader)
    steps = [next(iteration) for _ in range(2)]
    sampler.load_state_dict(sampler.state_dict() | {"epoch": 2, "position": 2 * 4})
    assert [*chain(*steps), *sampler] == list(plain)


def test_ranks_of_a_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert list(BalancedSampler(RARE)) == list(BalancedSampler(RARE, num_replicas=2, rank=1))
    assert list(BalancedSampler(RARE, num_replicas=1, rank=0)) != list(BalancedSampler(RARE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "over"}, "mode: got 'over', allowed are 'oversample', 'undersample'"),
        ({"task": 2, "labels": TWO_TASKS}, "task: got 2, allowed is 0 to 1$"),
        ({"task": -1, "labels": TWO_TASKS}, "task: got -1, allowed is 0 to 1$"),
        ({"task": "Mass", "labels": TWO_TASKS}, "task: got 'Mass', allowed is 0 to 1$"),
        ({"seed": -1}, "seed: got -1, allowed is a whole number, 0 or more"),
        ({"seed": 0.5}, "seed: got 0.5, allowed is a whole number, 0 or more"),
        ({"num_replicas": 0}, "num_replicas: got 0, allowed is a whole number, 1 or more"),
        ({"num_replicas": 2, "rank": 2}, "rank: got 2, allowed is a whole number, 0 to 1"),
        ({"rank": -1}, "rank: got -1, allowed is a whole number, 0 to 0"),
        ({"num_replicas": 3, "mode": "undersample"}, "num_replicas: got 3, allowed are at most 2, the samples of the"),
        (
            {"labels": TWO_TASKS, "num_replicas": 4, "mode": "undersample"},
            "num_replicas: got 4, allowed are at most 3, the samples of an epoch",
        ),
        ({"missing": "one"}, "missing: got 'one', allowed are 'ignore'"),
        ({"labels": np.zeros(4)}, "labels: got 4 negatives and 0 positives in task 0, allowed is at least one of each"),
        ({"labels": np.ones(4)}, "labels: got 0 negatives and 4 positives in task 0"),
        ({"labels": np.empty(0)}, "labels: got 0 negatives and 0 positives in task 0"),
        ({"labels": np.empty((0, 2))}, "labels: got no task with both classes"),
        ({"labels": np.zeros((2, 2, 2))}, r"labels: got 3 dimensions, allowed are \(N,\) and \(N, T\)"),
        ({"labels": TWO_TASKS * 2}, "labels: got 2 in task 0, allowed are 0 to 1"),
        ({"labels": np.array([2, 2])}, "labels: got class 2 alone, allowed are two classes or more"),
        ({"labels": np.array([0, 1, 2.5])}, "labels: got 2.5, allowed are whole numbers from 0 for classes"),
        ({"labels": np.array([0, 1, 2, -2])}, "labels: got -2, allowed are whole numbers from 0 for classes"),
        ({"labels": np.array([0, 1, 2, np.inf])}, "labels: got inf, allowed are whole numbers from 0 for classes"),
        ({"labels": np.array([0, 2, -1]), "missing": "ones"}, "missing: got a policy that replaces -1, allowed is"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BalancedSampler(**({"labels": RARE} | options))
