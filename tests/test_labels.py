"""Weights against class imbalance, and every way a label table may be given."""

from __future__ import annotations

import math
import pickle
import warnings
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

import fastmed
from fastmed import Smooth, labels
from fastmed.labels import uncertain_values

nan = math.nan

# Task 0: one positive and three negatives. Task 1: one of three valid labels; rows 2 and 3 are missing and uncertain.
FINDINGS = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, nan], [0.0, -1.0], [nan, 0.0]])


def balance(table: Any, **options: Any) -> list[tuple[float, float]]:
    """(w_pos, w_neg) of each task, to four digits."""
    w_pos, w_neg = fastmed.class_balance(table, **options)
    assert w_pos.dtype == w_neg.dtype == torch.float32
    assert w_pos.shape == w_neg.shape
    return [(round(p, 4), round(n, 4)) for p, n in zip(w_pos.tolist(), w_neg.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("missing", "second"),
    [
        ("ignore", (0.6667, 0.3333)),
        ("ones", (0.5, 0.5)),
        ("zeros", (0.75, 0.25)),
        (Smooth(0.55, 0.85), (0.575, 0.425)),
        (["zeros", "ones"], (0.5, 0.5)),
        (("ones", Smooth(0.0, 0.5)), (0.6875, 0.3125)),
    ],
)
def test_values_worked_by_hand(missing: Any, second: tuple[float, float]) -> None:
    assert balance(FINDINGS, missing=missing) == [(0.75, 0.25), second]


@pytest.mark.parametrize(
    "dtype", [bool, np.int8, np.uint8, np.int64, np.float16, np.float32, torch.bool, torch.int8, torch.bfloat16]
)
def test_every_dtype(dtype: Any) -> None:
    table = [[1, 0], [0, 0], [0, 1], [0, 1]]
    made = torch.tensor(table, dtype=dtype) if isinstance(dtype, torch.dtype) else np.array(table, dtype)
    assert balance(made) == [(0.75, 0.25), (0.5, 0.5)]


def test_shapes() -> None:
    assert balance(FINDINGS[:, 0]) == [(0.75, 0.25)]
    assert balance(FINDINGS[:, :1]) == [(0.75, 0.25)]
    assert balance(FINDINGS.T[::-1].T) == balance(np.asfortranarray(FINDINGS))[::-1]
    lesion = np.zeros((2, 3, 4, 4, 4), np.uint8)
    lesion[:, 0, 0] = lesion[0, 1] = lesion[:, 2, 0, 0, 0] = 1
    assert balance(lesion) == [(0.75, 0.25), (0.5, 0.5), (0.9844, 0.0156)]
    assert balance(torch.tensor(lesion, dtype=torch.float32, requires_grad=True)) == balance(lesion)


def test_soft_labels_count_by_their_value() -> None:
    assert balance(np.array([0.25, 0.5, 0.0, 0.25])) == [(0.75, 0.25)]


def test_a_table_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "_PART", 3)
    assert balance(FINDINGS) == [(0.75, 0.25), (0.6667, 0.3333)]
    assert balance(np.ones((5, 1, 2)) * np.array([0, 1])) == [(0.5, 0.5)]


def test_one_class_keeps_what_the_formula_says() -> None:
    table = np.array([[0, 1, nan, 1], [0, 1, -1, 0]])
    with pytest.warns(UserWarning, match="in task 0, task 1, task 2$") as record:
        assert balance(table) == [(1, 0), (0, 1), (0, 0), (0.5, 0.5)]
    assert len(record) == 1
    with pytest.warns(UserWarning, match="no valid label") as record:
        fastmed.class_balance(np.empty(0))
    assert record[0].filename == __file__


def test_labels_stay_as_they_were() -> None:
    for table in (FINDINGS.copy(), torch.tensor(FINDINGS)):
        fastmed.class_balance(table, missing="ones")
        np.testing.assert_array_equal(np.asarray(table.cpu() if isinstance(table, torch.Tensor) else table), FINDINGS)


TABLES = st_numpy.arrays(
    np.float64,
    st.tuples(st.integers(1, 12), st.integers(1, 4)),
    elements=st.sampled_from([0.0, 1.0, nan, -1.0, 0.25]),
)
POLICIES = st.sampled_from(["ignore", "ones", "zeros", Smooth(0.5, 1.0)])


@hypothesis.given(TABLES, POLICIES)
@hypothesis.settings(deadline=None)
def test_both_classes_have_the_same_total_weight(table: np.ndarray, missing: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        w_pos, w_neg = fastmed.class_balance(table, missing=missing)
    target = np.where(table == -1, uncertain_values(missing, 1).item(), table)
    positives, negatives = np.nansum(target, 0), np.nansum(1 - target, 0)
    np.testing.assert_allclose(w_pos.numpy(force=True) * positives, w_neg.numpy(force=True) * negatives, rtol=1e-6)
    sums = (w_pos + w_neg).numpy(force=True)
    np.testing.assert_allclose(sums, (~np.isnan(target)).any(0), rtol=1e-6)


def test_data_frames() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "Edema": pandas.array([True, False, None, False, False], dtype="boolean"),
            "Effusion": pandas.array([1, 0, None, -1, 0], dtype="Int8"),
            "Hernia": pandas.Series([1, 0, None, False, -1], dtype=object),
            "Mass": [1, 1, 0, 0, 1],
        }
    )
    assert balance(frame) == [(0.75, 0.25), (0.6667, 0.3333), (0.6667, 0.3333), (0.4, 0.6)]
    assert balance(frame["Edema"]) == [(0.75, 0.25)]
    with pytest.raises(ValueError, match=r"labels: got 3 in task 1 \('Mass'\), allowed are 0 to 1"):
        fastmed.class_balance(frame[["Edema"]].assign(Mass=3))
    with pytest.raises(ValueError, match=r"labels: in task 1 \('Path'\), .*'a.png'; allowed are numbers"):
        fastmed.class_balance(frame[["Edema"]].assign(Path="a.png"))
    with pytest.warns(UserWarning, match=r"in task 1 \('None'\)$"):
        fastmed.class_balance(frame[["Edema"]].assign(**{"None": np.nan}))


@pytest.mark.parametrize("wrong", [2.0, -2.0, 1.01, -0.5, math.inf, -math.inf])
def test_another_value_is_named_with_its_task(wrong: float) -> None:
    table = FINDINGS.copy()
    table[3, 1] = wrong
    with pytest.raises(ValueError, match=f"^labels: got {wrong:g} in task 1, allowed are 0 to 1, NaN") as error:
        fastmed.class_balance(table)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(), (3, 0), (2, 1, 0)])
def test_shapes_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"labels: got shape .* allowed are \(N,\)"):
        fastmed.class_balance(np.zeros(shape))


@pytest.mark.parametrize("table", [[0, 1], None, np.array(["a"]), np.array([1j]), torch.tensor([1j])])
def test_kinds_refused(table: Any) -> None:
    with pytest.raises(TypeError, match=r"labels: got .* allowed are NumPy arrays"):
        fastmed.class_balance(table)


def test_uncertain_values() -> None:
    values = uncertain_values(["ignore", "ones", "zeros", Smooth(0.55, 0.85)], 4)
    assert values.dtype == torch.float32
    assert math.isnan(values[0])
    torch.testing.assert_close(values[1:], torch.tensor([1.0, 0.0, 0.7]))
    assert uncertain_values("ones", 3).tolist() == [1, 1, 1]
    assert uncertain_values(Smooth(0.25, 0.75), 2).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("missing", ["one", None, 0.5, (0.55, 0.85), ["ones", "nan"]])
def test_unknown_policies(missing: Any) -> None:
    with pytest.raises(ValueError, match=r"missing: got .* allowed are 'ignore', 'ones', 'zeros' and Smooth"):
        uncertain_values(missing, 2)


def test_number_of_policies() -> None:
    with pytest.raises(ValueError, match="missing: got 1 policies, allowed is one, or one for each of 2 tasks"):
        uncertain_values(["ones"], 2)


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.5), (0.6, 0.5), (0.5, 1.1), (nan, 0.5), (0.5, nan)])
def test_smooth_bounds(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=r"Smooth: got low=.* allowed is 0 <= low <= high <= 1"):
        Smooth(low, high)


def test_smooth_is_a_named_tuple() -> None:
    policy = Smooth(0.55, 0.85)
    assert (policy.low, policy.high) == policy == pickle.loads(pickle.dumps(policy))
    assert repr(policy) == "Smooth(low=0.55, high=0.85)"


def test_the_midpoint_is_the_expectation_over_draws() -> None:
    """Cross entropy is linear in the target: the mean over an interval's draws is that at the midpoint."""
    logit = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    draws = torch.linspace(0.55, 0.85, 101, dtype=torch.float64)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    random = entropy(logit.expand(101), draws)
    middle = entropy(logit, torch.tensor(Smooth(0.55, 0.85).midpoint, dtype=torch.float64))
    torch.testing.assert_close(random, middle)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logit) for loss in (random, middle)))
