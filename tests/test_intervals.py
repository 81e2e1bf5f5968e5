"""Intervals of proportions and of AUROC: other libraries, a published example, and how often they hold the truth."""

import math

import pytest
import scipy.stats
import torch
from statsmodels.stats.proportion import proportion_confint

from fastmed.functional import RankStatistics, rank_statistics
from fastmed.metrics import functional as metrics

# Ratings 1 to 5 of 109 CT images by one reader (Hanley and McNeil, Radiology 1982), the example of Stata's `roctab`,
# whose manual gives area, DeLong's standard error, and interval.
NORMAL, ABNORMAL = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)
AREA, ERROR, INTERVAL = 0.8932, 0.0307, (0.83295, 0.95339)


def placements(positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Whether each positive (..., P) exceeds each negative (..., N), ties counting half: (..., P, N)."""
    difference = positives[..., :, None] - negatives[..., None, :]
    return (difference.sign() + 1.0) / 2.0


def statistics(positives: torch.Tensor, negatives: torch.Tensor) -> RankStatistics:
    """Rank statistics of scores (T, P) and (T, N), pair by pair."""
    ordered = placements(positives.double(), negatives.double())
    sizes = (torch.full((len(ordered),), size, dtype=torch.float64) for size in ordered.shape[1:])
    return RankStatistics(*sizes, ordered.sum((1, 2)), (ordered.sum(2) ** 2).sum(1), (ordered.sum(1) ** 2).sum(1))


def ratings() -> tuple[torch.Tensor, torch.Tensor]:
    grades = torch.arange(1.0, 6.0)
    return grades.repeat_interleave(torch.tensor(ABNORMAL)), grades.repeat_interleave(torch.tensor(NORMAL))


@pytest.mark.parametrize(("method", "theirs"), [("wilson", "wilson"), ("clopper-pearson", "beta")])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_proportions_match_statsmodels(method, theirs, level):
    trials = torch.randint(1, 2000, (300,))
    successes = (trials * torch.rand(300)).long()
    successes[:100], successes[100:200] = 0, trials[100:200]
    lower, upper = metrics.proportion_interval(successes, trials, level, method)
    expected = proportion_confint(successes.numpy(), trials.numpy(), alpha=1.0 - level, method=theirs)
    torch.testing.assert_close(lower, torch.as_tensor(expected[0]), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(upper, torch.as_tensor(expected[1]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("method", "theirs"), [("wilson", "wilson"), ("clopper-pearson", "exact")])
def test_proportions_match_scipy(method, theirs):
    for successes, trials in ((0, 7), (3, 8), (81, 90), (5, 5)):
        interval = metrics.proportion_interval(torch.tensor(successes), torch.tensor(trials), 0.9, method)
        expected = scipy.stats.binomtest(successes, trials).proportion_ci(0.9, theirs)
        assert [limit.item() for limit in interval] == pytest.approx(list(expected), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("method", ["wilson", "clopper-pearson"])
def test_nothing_found_and_everything_found_end_at_0_and_1(method):
    trials = torch.randint(1, 10**6, (1000,))
    assert metrics.proportion_interval(torch.zeros_like(trials), trials, method=method).lower.eq(0).all()
    assert metrics.proportion_interval(trials, trials, method=method).upper.eq(1).all()
    assert all(limit.isnan() for limit in metrics.proportion_interval(torch.tensor(0), torch.tensor(0), method=method))


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_wilson_covers_the_truth(share):
    """40,000 draws: the simulation's own error is 0.1 %."""
    drawn = torch.distributions.Binomial(200, torch.tensor(share)).sample((40_000,))
    lower, upper = metrics.proportion_interval(drawn, torch.tensor(200))
    assert 0.94 <= ((lower <= share) & (share <= upper)).double().mean() <= 0.96


def test_clopper_pearson_never_covers_less_than_its_level():
    """All outcomes at their probabilities, for each of many truths: no simulation."""
    found = torch.arange(31)
    lower, upper = metrics.proportion_interval(found, torch.tensor(30), method="clopper-pearson")
    truth = torch.linspace(0.001, 0.999, 500, dtype=torch.float64)[:, None]
    covered = (lower <= truth) & (truth <= upper)
    probability = torch.as_tensor(scipy.stats.binom.pmf(found.numpy(), 30, truth.numpy()))
    assert (probability * covered).sum(1).min() >= 0.95 - 1e-12


@pytest.mark.parametrize(
    ("figure", "successes", "trials"),
    [
        (metrics.sensitivity, 7, 8),
        (metrics.specificity, 90, 92),
        (metrics.ppv, 7, 9),
        (metrics.npv, 90, 91),
        (metrics.prevalence, 8, 100),
        (metrics.accuracy, 97, 100),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_figures_that_are_proportions(figure, successes, trials):
    table = metrics.fourfold(torch.tensor([90, 2, 1, 7]))
    assert figure(table).item() == successes / trials
    expected = metrics.proportion_interval(torch.tensor(successes), torch.tensor(trials), 0.9)
    assert metrics.figure_interval(figure, table, 0.9) == expected


def test_a_figure_that_is_no_proportion():
    with pytest.raises(ValueError, match=r"figure: got dice, allowed is one of sensitivity, .*bootstrap_interval"):
        metrics.figure_interval(metrics.dice, metrics.fourfold(torch.ones(4)))


def test_delong_of_the_published_example():
    positives, negatives = ratings()
    scores = torch.cat([positives, negatives])[:, None]
    target = (torch.arange(len(scores)) < len(positives))[:, None]
    found = rank_statistics(scores, target)
    lower, upper = (limit.item() for limit in metrics.auroc_interval(found))
    assert metrics.auroc(found).value.item() == pytest.approx(AREA, abs=5e-5)
    assert (upper - lower) / 2.0 / 1.959964 == pytest.approx(ERROR, abs=5e-5)
    assert (lower, upper) == pytest.approx(INTERVAL, abs=5e-6)


def test_delong_is_the_variance_of_placements():
    positives, negatives = torch.randint(10, (3, 40)) + 2.0, torch.randint(10, (3, 25)) * 1.0
    ordered = placements(positives, negatives).double()
    variance = ordered.mean(2).var(1) / 40 + ordered.mean(1).var(1) / 25
    lower, upper = metrics.auroc_interval(statistics(positives, negatives), 0.8)
    expected = scipy.stats.norm.interval(0.8, ordered.mean((1, 2)), variance.sqrt())
    torch.testing.assert_close(lower, torch.as_tensor(expected[0]))
    torch.testing.assert_close(upper, torch.as_tensor(expected[1]))


def test_delong_covers_the_truth():
    """10,000 draws of 80 positives and 120 negatives: the simulation's own error is 0.2 %."""
    truth = scipy.stats.norm.cdf(1.0 / math.sqrt(2.0))
    covered = torch.zeros(())
    for _ in range(10):
        lower, upper = metrics.auroc_interval(statistics(torch.randn(1000, 80) + 1.0, torch.randn(1000, 120)))
        covered += ((lower <= truth) & (truth <= upper)).sum()
    assert 0.94 <= covered / 10_000 <= 0.96


@pytest.mark.parametrize(("positives", "negatives"), [(0, 5), (5, 0), (1, 5), (5, 1)])
def test_delong_needs_two_of_each(positives, negatives):
    found = statistics(torch.rand(1, positives), torch.rand(1, negatives))
    assert all(limit.isnan().all() for limit in metrics.auroc_interval(found))
    target = torch.tensor([1.0] * positives + [0.0] * negatives)
    test = metrics.auroc_difference(torch.rand(len(target)), torch.rand(len(target)), target)
    assert test.p_value.isnan()
    assert test.interval.lower.isnan()


def test_the_difference_of_two_models_from_the_placements_of_all_pairs():
    target = torch.rand(90) < 0.4
    first, second = (torch.randint(12, (90,)) + 3.0 * target for _ in range(2))
    apart = placements(first[target], first[~target]) - placements(second[target], second[~target])
    error = (apart.double().mean(1).var() / len(apart) + apart.double().mean(0).var() / apart.shape[1]).sqrt()
    difference = apart.double().mean()
    test = metrics.auroc_difference(first, second, target, 0.9)
    torch.testing.assert_close(test.difference, difference)
    assert test.p_value.item() == pytest.approx(2.0 * scipy.stats.norm.sf(abs(difference / error)))
    expected = scipy.stats.norm.interval(0.9, difference, error)
    assert [limit.item() for limit in test.interval] == pytest.approx(list(expected))


def test_under_the_null_p_values_are_uniform():
    """Two equally good models that share half of what they see, 1,000 times."""
    target = torch.arange(150) < 60
    values = []
    for _ in range(1000):
        shared = torch.randn(150) + 1.5 * target
        first, second = (shared + torch.randn(150) for _ in range(2))
        values.append(metrics.auroc_difference(first, second, target).p_value.item())
    assert scipy.stats.kstest(values, "uniform").pvalue > 0.001


def test_the_same_model_twice():
    target, scores = torch.arange(20) < 8, torch.rand(20)
    test = metrics.auroc_difference(scores, scores, target)
    assert (test.difference, test.interval.lower, test.interval.upper) == (0.0, 0.0, 0.0)
    assert test.p_value.isnan()


@pytest.mark.parametrize("level", [0.0, 1.0, 95, math.nan])
def test_levels_are_shares(level):
    one = torch.ones(1)
    for call in (
        lambda: metrics.proportion_interval(one, one, level),
        lambda: metrics.auroc_interval(RankStatistics(one, one, one, one, one), level),
        lambda: metrics.auroc_difference(one, one, one, level),
    ):
        with pytest.raises(ValueError, match="level: got"):
            call()


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (math.nan, 5)])
def test_more_successes_than_trials(successes, trials):
    with pytest.raises(ValueError, match=r"successes: got .* of 5 trials"):
        metrics.proportion_interval(torch.tensor(successes), torch.tensor(trials))


def test_bad_arguments():
    one = torch.ones(1)
    with pytest.raises(ValueError, match="method: got 'wald', allowed is one of"):
        metrics.proportion_interval(one, one, method="wald")
    with pytest.raises(ValueError, match="target: got"):
        metrics.auroc_difference(one, one, 2 * one)
    with pytest.raises(ValueError, match="second: got shape"):
        metrics.auroc_difference(one, torch.ones(2), one)
    with pytest.raises(ValueError, match="first: got"):
        metrics.auroc_difference(one * math.nan, one, one)


def test_without_scipy_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.special", None)
    with pytest.raises(ModuleNotFoundError, match=r"proportion_interval needs scipy: pip install 'fastmed\[metrics\]'"):
        metrics.proportion_interval(torch.ones(1), torch.ones(1), method="clopper-pearson")
