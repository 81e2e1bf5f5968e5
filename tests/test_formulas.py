"""Formulas on sums: numbers worked by hand, gradcheck, and the closed gradient against autograd."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from fastmed import formulas, ops
from fastmed.contract import (
    BASIC,
    NLL_NEG,
    NLL_POS,
    STATISTICS,
    TARGET,
    TARGET_SQ,
    WEIGHT,
    LossWeights,
    RatioLinear,
    RegionSums,
    Wanted,
)


def by_hand() -> RegionSums:
    """One sample, two classes; p = (0.9, 0.6, 0.2) of class 1 where the target is (1, 1, 0)."""
    row = lambda *values: torch.tensor([values], dtype=torch.float64)  # noqa: E731
    return RegionSums(
        tp=row(0.8, 1.5),
        pred=row(1.3, 1.7),
        pred_sq=row(0.81, 1.21),
        target=row(1.0, 2.0),
        target_sq=row(1.0, 2.0),
        nll_pos=row(0.25, 0.5),
        nll_neg=row(0.125, 0.75),
        weight=row(3.0, 3.0),
    )


def test_soft_dice_by_hand() -> None:
    # 1 - 1.6 / 1.81 and 1 - 3 / 3.21; plain: 1 - 1.6 / 2.3 and 1 - 3 / 3.7; smooth 1: 1 - 2.6 / 2.81 and 1 - 4 / 4.21.
    assert formulas.soft_dice(by_hand(), smooth=0.0)[0].tolist() == pytest.approx([0.116022099, 0.065420561])
    plain = formulas.soft_dice(by_hand(), squared=False, smooth=0.0)
    assert plain[0].tolist() == pytest.approx([0.304347826, 0.189189189])
    assert formulas.soft_dice(by_hand(), smooth=1.0)[0].tolist() == pytest.approx([0.074733096, 0.049881235])


def test_nll_by_hand() -> None:
    sums = by_hand()
    only_nll = RatioLinear(lambda_ratio=0.0, lambda_nll=1.0)
    weights = LossWeights(nll_pos=torch.tensor([1.0, 3.0]), nll_neg=torch.tensor([2.0, 1.0]))
    # 0.25 + 3 * 0.5 + 2 * 0.125 + 0.75 = 2.75 over 6 elements.
    assert formulas.ratio_linear(sums, only_nll, weights).item() == pytest.approx(2.75 / 6)
    # Cross entropy of labels: (0.25 + 3 * 0.5) / (1 * 1 + 3 * 2).
    softmax = sums._replace(nll_neg=None)
    labels = only_nll._replace(nll_mean="target")
    assert formulas.ratio_linear(softmax, labels, weights).item() == pytest.approx(1.75 / 7)
    # Of a dense target: the same sum over 3 voxels.
    dense = only_nll._replace(nll_mean="voxels")
    assert formulas.ratio_linear(softmax, dense, weights).item() == pytest.approx(1.75 / 3)
    # A mean over the 3 elements of each class, then over the 2 classes.
    task = only_nll._replace(nll_mean="task")
    assert formulas.ratio_linear(sums, task, weights).item() == pytest.approx((0.5 / 3 + 2.25 / 3) / 2)
    assert formulas.nll_per_class(sums, task, weights).tolist() == pytest.approx([0.5 / 6, 2.25 / 6])


def test_balanced_nll_by_hand() -> None:
    # Prevalence 1/3 and 2/3: positives weigh 2/3 and 1/3, negatives 1/3 and 2/3, times the weights given.
    balanced = RatioLinear(lambda_ratio=0.0, lambda_nll=1.0, nll_mean="task", balance_pos=True, balance_neg=True)
    weights = LossWeights(nll_pos=torch.tensor([1.0, 3.0]), nll_neg=torch.tensor([2.0, 1.0]))
    pos, neg = formulas.nll_weights(by_hand(), balanced, weights)
    assert pos[0].tolist() == pytest.approx([2 / 3, 1.0])
    assert neg[0].tolist() == pytest.approx([2 / 3, 2 / 3])
    expected = ((2 / 3 * 0.25 + 2 / 3 * 0.125) / 3 + (1.0 * 0.5 + 2 / 3 * 0.75) / 3) / 2
    assert formulas.ratio_linear(by_hand(), balanced, weights).item() == pytest.approx(expected)


def test_compound_by_hand() -> None:
    loss = RatioLinear(smooth_numerator=0.0, smooth_denominator=0.0, lambda_ratio=2.0, lambda_nll=0.5)
    expected = 2.0 * (0.116022099 + 0.065420561) / 2 + 0.5 * (0.25 + 0.5 + 0.125 + 0.75) / 6
    assert formulas.ratio_linear(by_hand(), loss, LossWeights()).item() == pytest.approx(expected)


def test_tversky_is_a_member_of_the_family() -> None:
    sums, alpha, beta = by_hand(), 0.3, 0.7
    member = RatioLinear(1.0, 1.0 - alpha - beta, alpha, beta, 0.0, 0.0, squared=False)
    fp, fn = sums.pred - sums.tp, sums.target - sums.tp
    torch.testing.assert_close(formulas.overlap_loss(sums, member), 1.0 - sums.tp / (sums.tp + alpha * fp + beta * fn))


def test_nothing_valid_gives_zero_and_no_gradient() -> None:
    stacked = torch.zeros(STATISTICS, 2, 3, dtype=torch.float64, requires_grad=True)
    for nll_mean in ("elements", "voxels", "target", "task"):
        loss = RatioLinear(lambda_nll=1.0, nll_mean=nll_mean, balance_pos=True, balance_neg=True)
        value = formulas.ratio_linear(ops.unstack(stacked, None, "softmax", Wanted()), loss, LossWeights())
        (gradient,) = torch.autograd.grad(value, stacked)
        assert value.item() == 0.0
        assert (gradient[NLL_POS] == 0).all()


def test_sums_without_nll_are_refused() -> None:
    with pytest.raises(ValueError, match="nll=True"):
        formulas.weighted_nll(by_hand()._replace(nll_pos=None), RatioLinear(), LossWeights())


OPTIONS = (
    [
        RatioLinear(squared=squared, pool_batch=pool, first_class=first, mean=mean, lambda_nll=nll, nll_mean=nll_mean)
        for squared, pool, first, mean, (nll, nll_mean) in itertools.product(
            (True, False),
            (True, False),
            (0, 1),
            (True, False),
            ((0.0, "elements"), (0.7, "elements"), (0.7, "voxels"), (0.7, "target")),
        )
    ]
    + [
        RatioLinear(0.9, -0.3, 0.6, 0.8, 0.1, 0.2, lambda_ratio=0.4),
        RatioLinear(lambda_ratio=0.0, lambda_nll=1.3),
    ]
    + [
        RatioLinear(lambda_ratio=0.5, lambda_nll=1.3, nll_mean=nll_mean, mean=mean, balance_pos=pos, balance_neg=neg)
        for nll_mean, mean, pos, neg in itertools.product(
            ("elements", "target", "task"), (True, False), (True, False), (True, False)
        )
    ]
)


def random_sums(activation: str) -> Tensor:
    stacked = torch.rand(STATISTICS, 3, 4, dtype=torch.float64) + 0.5
    if activation == "softmax":
        stacked[NLL_NEG] = 0.0
    return stacked.requires_grad_()


def weights(present: bool) -> LossWeights:
    return LossWeights(*(torch.rand(3, 4, dtype=torch.float64) + 0.1)) if present else LossWeights()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_closed_gradient_is_that_of_autograd(activation: str, weighted: bool) -> None:
    for loss in OPTIONS:
        stacked, loss_weights = random_sums(activation), weights(weighted)
        value = formulas.ratio_linear(ops.unstack(stacked, None, activation, Wanted()), loss, loss_weights)
        (expected,) = torch.autograd.grad(value, stacked)
        # Neither target nor weight takes a gradient, also where the balance comes from them.
        expected[[TARGET, TARGET_SQ, WEIGHT]] = 0.0
        # Nor does a loss of the family depend on optional statistics.
        assert (expected[BASIC:] == 0).all()
        closed = formulas.ratio_linear_gradient(
            ops.unstack(stacked.detach(), None, activation, Wanted()), loss, loss_weights
        )
        torch.testing.assert_close(
            closed, expected[:BASIC], rtol=1e-12, atol=1e-14, msg=lambda m, at=loss: f"{at}\n{m}"
        )


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_gradcheck(activation: str) -> None:
    for loss in OPTIONS[::5]:
        loss_weights = weights(True)

        def value(stacked: Tensor, at: RatioLinear = loss, by: LossWeights = loss_weights) -> Tensor:
            return formulas.ratio_linear(ops.unstack(stacked, None, activation, Wanted()), at, by)

        assert torch.autograd.gradcheck(value, random_sums(activation))


def test_per_sample_losses_average_to_the_dice() -> None:
    sums = ops.unstack(random_sums("softmax").detach(), None, "softmax", Wanted())
    loss = RatioLinear(lambda_nll=0.0)
    per_sample = formulas.ratio_linear_per_sample(sums, loss._replace(lambda_nll=0.5, nll_mean="target"), LossWeights())
    cross_entropy = sums.nll_pos.sum(1) / sums.target.sum(1)
    torch.testing.assert_close(per_sample, formulas.soft_dice(sums).mean(1) + 0.5 * cross_entropy)
