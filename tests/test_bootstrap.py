"""The bootstrap over cases: scipy's, resampling rules, and how often the intervals hold the truth."""

import math
import sys

import numpy as np
import pytest
import scipy.stats
import torch

from fastmed.metrics import functional as metrics


def pooled_dice(pooled):
    return metrics.dice(metrics.fourfold(pooled))


def identity(pooled):
    return pooled


def assert_alike(ours, theirs):
    """Limits of 100,000 resamples each: the error of a limit is about 1 % of the standard error, that of both 1.2 %."""
    tolerance = 6 * 0.012 * theirs.standard_error
    assert ours.lower.item() == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert ours.upper.item() == pytest.approx(theirs.confidence_interval.high, abs=tolerance)


def scipys(samples, statistic, method, **options):
    return scipy.stats.bootstrap(
        samples,
        statistic,
        n_resamples=100_000,
        batch=10_000,
        method={"percentile": "percentile", "bca": "BCa"}[method],
        rng=np.random.default_rng(int(torch.randint(2**31, ()))),
        **options,
    )


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_a_mean_matches_scipy(method):
    values = torch.rand(40, dtype=torch.float64).log().neg()
    ours = metrics.bootstrap_mean_interval(values, resamples=100_000, method=method)
    assert_alike(ours, scipys((values.numpy(),), np.mean, method))


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_strata_match_scipys_samples(method):
    """The difference of the means of two samples that lie mixed in one table."""
    values = torch.rand(60, dtype=torch.float64).log().neg()
    strata = (torch.arange(60) % 5 < 2).long()
    table = torch.stack([values * (strata == 0), values * (strata == 1), strata == 0, strata == 1], 1)
    ours = metrics.bootstrap_interval(
        table,
        lambda pooled: pooled[:, 0] / pooled[:, 2] - pooled[:, 1] / pooled[:, 3],
        resamples=100_000,
        method=method,
        strata=strata + 7,
    )
    samples = tuple(values[strata == stratum].numpy() for stratum in (0, 1))
    assert_alike(ours, scipys(samples, lambda a, b, axis: a.mean(axis) - b.mean(axis), method))


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_clusters_match_scipys_pairs(method):
    """A mean over cases, resampled by patient: the ratio of two sums over patients."""
    patients = torch.randint(30, (100,))
    values = torch.rand(100, dtype=torch.float64) + torch.randn(30, dtype=torch.float64)[patients]
    ours = metrics.bootstrap_mean_interval(values, resamples=100_000, method=method, clusters=patients)
    present = patients.unique()
    sums = [values[patients == patient].sum().item() for patient in present]
    sizes = [(patients == patient).sum().item() for patient in present]
    theirs = scipys((sums, sizes), lambda a, b, axis: a.sum(axis) / b.sum(axis), method, paired=True)
    assert_alike(ours, theirs)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_interval_of_dice_covers_the_truth(method):
    """8,000 draws of 200 cases: the simulation's own error is 0.25 %."""
    truth = 2 * 80 / (2 * 80 + 20 + 15)
    covered = 0
    for _ in range(8):
        size = torch.randint(50, 151, (200, 1000)).double()
        found = torch.distributions.Beta(8.0, 2.0).sample((200, 1000)).double()
        fp = 0.3 * torch.rand(200, 1000).double() * size
        counts = torch.stack([torch.zeros_like(size), fp, size * (1 - found), size * found], -1)
        interval = metrics.bootstrap_interval(counts, pooled_dice, resamples=2000, method=method)
        covered += ((interval.lower <= truth) & (truth <= interval.upper)).sum().item()
    assert 0.94 <= covered / 8000 <= 0.96


def test_as_many_are_drawn_as_there_are():
    """In all, and from each stratum: its cases are counted in a column of their own."""
    strata = torch.randint(4, (50,))
    table = torch.nn.functional.one_hot(strata)
    sums = []

    def record(pooled):
        sums.append(pooled)
        return pooled[:, 0]

    metrics.bootstrap_interval(table, record, resamples=300, strata=strata)
    assert (torch.cat(sums) == table.sum(0)).all()
    sums.clear()
    metrics.bootstrap_interval(table, record, resamples=300)
    assert (torch.cat(sums).sum(1) == 50).all()
    assert torch.cat(sums).unique(dim=0).shape[0] > 100


def test_every_case_is_drawn_equally_often():
    drawn = []
    metrics.bootstrap_interval(torch.eye(30), lambda pooled: drawn.append(pooled) or pooled[:, 0], resamples=20_000)
    times = torch.cat(drawn).sum(0)
    assert scipy.stats.chisquare(times.numpy()).pvalue > 0.001


def test_cases_of_a_cluster_are_drawn_together():
    drawn = []
    clusters = torch.arange(20) // 4
    metrics.bootstrap_interval(
        torch.eye(20), lambda pooled: drawn.append(pooled) or pooled[:, 0], resamples=500, clusters=clusters
    )
    of_cluster = torch.cat(drawn).view(500, 5, 4)
    assert (of_cluster == of_cluster[..., :1]).all()
    assert (of_cluster[..., 0].sum(1) == 5).all()


def test_the_numbers_are_the_same_for_a_seed_and_any_size_of_the_chunks(monkeypatch):
    counts = torch.randint(100, (70, 5, 4))

    def interval(seed):
        return metrics.bootstrap_interval(
            counts, pooled_dice, resamples=999, generator=torch.Generator().manual_seed(seed)
        )

    first = interval(3)
    assert all(torch.equal(*limits) for limits in zip(first, interval(3), strict=True))
    assert not torch.equal(first.lower, interval(4).lower)
    monkeypatch.setattr(sys.modules["fastmed.metrics.functional.bootstrap"], "_CHUNK", 500)
    assert all(torch.equal(*limits) for limits in zip(first, interval(3), strict=True))


def test_without_a_generator_torchs_own_is_used():
    values = torch.rand(50)
    torch.manual_seed(1)
    first = metrics.bootstrap_mean_interval(values).lower
    torch.manual_seed(1)
    assert metrics.bootstrap_mean_interval(values).lower == first


def test_shapes_follow_the_figure():
    counts = torch.randint(1, 50, (30, 2, 3, 3))
    interval = metrics.bootstrap_interval(
        counts, lambda pooled: metrics.dice(metrics.one_versus_rest(pooled)), resamples=100
    )
    assert interval.lower.shape == interval.upper.shape == (2, 3)
    assert interval.lower.dtype == torch.float64
    assert (interval.lower <= interval.upper).all()
    overall = metrics.bootstrap_interval(counts, metrics.multiclass_cohen_kappa, resamples=100)
    assert overall.lower.shape == (2,)


def test_undefined_values_and_resamples_are_left_out():
    """Two of three cases have no value: most resamples draw 0.5, some nothing at all."""
    values = torch.tensor([[0.5, math.nan], [math.nan, math.nan], [math.nan, math.nan]])
    for method in ("percentile", "bca"):
        interval = metrics.bootstrap_mean_interval(values, resamples=500, method=method)
        assert interval.lower.tolist() == pytest.approx([0.5, math.nan], nan_ok=True)
        assert interval.upper.tolist() == pytest.approx([0.5, math.nan], nan_ok=True)


def test_infinite_figures_are_limits():
    """Most resamples without a false positive."""
    counts = torch.tensor([[10, 0, 1, 9]] * 19 + [[9, 1, 1, 9]])
    interval = metrics.bootstrap_interval(
        counts, lambda pooled: metrics.positive_likelihood_ratio(metrics.fourfold(pooled)), resamples=2000
    )
    assert interval.upper.item() == math.inf
    assert math.isfinite(interval.lower.item())


def test_quantiles_are_numpys():
    values = torch.arange(7.0)
    interval = metrics.bootstrap_interval(torch.ones(2, 1), lambda pooled: values[: len(pooled), None], resamples=7)
    expected = np.quantile(values.numpy(), [0.025, 0.975])
    assert [limit.item() for limit in interval] == pytest.approx(list(expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resamples": 0}, "resamples: got 0"),
        ({"level": 95}, "level: got 95"),
        ({"method": "basic"}, "method: got 'basic'"),
        ({"strata": torch.zeros(3, dtype=torch.int64)}, r"strata: got torch.int64 of shape \(3,\)"),
        ({"clusters": torch.zeros(4)}, "clusters: got torch.float32"),
        ({"clusters": torch.zeros(4, dtype=torch.int64)}, "counts: got 1 cases or clusters"),
        (
            {"clusters": torch.tensor([5, 5, 6, 6]), "strata": torch.tensor([0, 1, 1, 1])},
            "clusters: got cluster 5 in more than one stratum",
        ),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        metrics.bootstrap_interval(torch.ones(4, 2), identity, **options)


@pytest.mark.parametrize("shape", [(), (0, 4), (1, 4)])
def test_too_few_cases(shape):
    with pytest.raises(ValueError, match="counts: got"):
        metrics.bootstrap_interval(torch.ones(shape), identity)
