"""Clinical figures of fourfold tables: values worked by hand, identities, other libraries, and the undefined cases."""

import inspect
import math

import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastmed.functional import confusion_counts
from fastmed.metrics import functional as metrics
from fastmed.metrics.functional import figures

# Rows = target. Class 0 occurs 10 times, class 1 five times, class 2 never but is predicted once.
COUNTS = torch.tensor([[8, 1, 1], [2, 3, 0], [0, 0, 0]])
NAN = math.nan
FIGURES = [getattr(figures, name) for name in figures.__all__]
# A few thousand voxels and a volume at once: 2**40 is beyond float32.
CELLS = st.integers(0, 2**40)
TABLES = st.tuples(CELLS, CELLS, CELLS, CELLS)


def call(figure, table, **options):
    """The figure, at a prevalence of 0.2 where it asks for one."""
    needs = "prevalence" in inspect.signature(figure).parameters
    return figure(table, 0.2, **options) if needs else figure(table, **options)


def as_table(*cells):
    return metrics.fourfold(torch.tensor(cells, dtype=torch.int64))


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        (metrics.sensitivity, [8 / 10, 3 / 5, NAN]),
        (metrics.specificity, [3 / 5, 9 / 10, 14 / 15]),
        (metrics.ppv, [8 / 10, 3 / 4, 0.0]),
        (metrics.npv, [3 / 5, 9 / 11, 1.0]),
        (metrics.prevalence, [10 / 15, 5 / 15, 0.0]),
        (metrics.accuracy, [11 / 15, 12 / 15, 14 / 15]),
        (metrics.balanced_accuracy, [0.7, 0.75, NAN]),
        (metrics.dice, [16 / 20, 6 / 9, 0.0]),
        (metrics.iou, [8 / 12, 3 / 6, 0.0]),
        (metrics.positive_likelihood_ratio, [2.0, 6.0, NAN]),
        (metrics.negative_likelihood_ratio, [1 / 3, 4 / 9, NAN]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_literal_values(figure, expected):
    result = figure(metrics.one_versus_rest(COUNTS))
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64), equal_nan=True)


@given(TABLES)
def test_accuracy_is_sensitivity_and_specificity_weighted_by_prevalence(cells):
    """A side without cases has no weight, whatever its value."""
    table = as_table(*cells)
    share = metrics.prevalence(table)
    found = metrics.sensitivity(table, empty="zero") * share
    cleared = metrics.specificity(table, empty="zero") * (1.0 - share)
    torch.testing.assert_close(metrics.accuracy(table), found + cleared, equal_nan=True)


@given(TABLES)
def test_the_prevalence_at_hand_gives_the_predictive_values_at_hand(cells):
    """Wherever both kinds of cases exist, without which Bayes has nothing to go by."""
    table = as_table(*cells)
    share = metrics.prevalence(table)
    if 0 < share < 1:
        torch.testing.assert_close(metrics.ppv_at(table, share), metrics.ppv(table), equal_nan=True)
        torch.testing.assert_close(metrics.npv_at(table, share), metrics.npv(table), equal_nan=True)


@given(TABLES, st.floats(0.001, 0.999))
def test_likelihood_ratios_turn_prior_odds_into_posterior_odds(cells, share):
    table = as_table(*cells)
    prior = share / (1.0 - share)
    for value, ratio in (
        (metrics.ppv_at(table, share), metrics.positive_likelihood_ratio(table)),
        (1.0 - metrics.npv_at(table, share), metrics.negative_likelihood_ratio(table)),
    ):
        posterior = prior * ratio
        expected = torch.where(posterior.isinf(), 1.0, posterior / (1.0 + posterior))
        torch.testing.assert_close(value, expected, equal_nan=True, rtol=1e-7, atol=1e-12)


@given(TABLES)
def test_dice_iou_and_f_beta_are_one_family(cells):
    table = as_table(*cells)
    overlap = metrics.iou(table)
    torch.testing.assert_close(metrics.dice(table), 2.0 * overlap / (1.0 + overlap), equal_nan=True)
    torch.testing.assert_close(metrics.dice(table), metrics.f_beta(table), equal_nan=True)


@given(TABLES, st.floats(0.1, 10.0))
def test_f_beta_is_the_weighted_harmonic_mean_of_sensitivity_and_ppv(cells, beta):
    table = as_table(*cells)
    inverse = (beta**2 / metrics.sensitivity(table) + 1.0 / metrics.ppv(table)) / (1.0 + beta**2)
    if table.tp > 0:
        torch.testing.assert_close(metrics.f_beta(table, beta), 1.0 / inverse)


@given(TABLES)
def test_every_figure_is_in_its_range(cells):
    table = as_table(*cells)
    for figure in FIGURES:
        value = call(figure, table, empty="zero").item()
        low = -1.0 if figure in (metrics.mcc, metrics.cohen_kappa) else 0.0
        high = math.inf if "likelihood" in figure.__name__ else 1.0 + 1e-12
        assert low - 1e-12 <= value <= high, figure.__name__


def decisions():
    """Two binary readings of 200 cases each that agree more often than not."""
    share, errors = (0.1 + 0.4 * torch.rand(2)).unbind()
    truth = torch.rand(200) < share
    return truth.numpy(), (truth ^ (torch.rand(200) < errors)).numpy()


@pytest.mark.parametrize(
    ("figure", "oracle"),
    [
        (metrics.sensitivity, sklearn.metrics.recall_score),
        (metrics.ppv, sklearn.metrics.precision_score),
        (metrics.accuracy, sklearn.metrics.accuracy_score),
        (metrics.balanced_accuracy, sklearn.metrics.balanced_accuracy_score),
        (metrics.dice, sklearn.metrics.f1_score),
        (metrics.iou, sklearn.metrics.jaccard_score),
        (metrics.mcc, sklearn.metrics.matthews_corrcoef),
        (metrics.cohen_kappa, sklearn.metrics.cohen_kappa_score),
        (
            lambda table: metrics.f_beta(table, 0.5),
            lambda truth, called: sklearn.metrics.fbeta_score(truth, called, beta=0.5),
        ),
        (metrics.specificity, lambda truth, called: sklearn.metrics.recall_score(~truth, ~called)),
        (metrics.npv, lambda truth, called: sklearn.metrics.precision_score(~truth, ~called)),
        (
            metrics.positive_likelihood_ratio,
            lambda truth, called: sklearn.metrics.class_likelihood_ratios(truth, called)[0],
        ),
        (
            metrics.negative_likelihood_ratio,
            lambda truth, called: sklearn.metrics.class_likelihood_ratios(truth, called)[1],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_matches_scikit_learn(figure, oracle):
    truth, called = decisions()
    table = metrics.fourfold(torch.from_numpy(sklearn.metrics.confusion_matrix(truth, called).ravel()))
    assert figure(table).item() == pytest.approx(oracle(truth, called), rel=1e-12)


def test_both_kinds_of_counts_make_the_same_table():
    truth, called = decisions()
    matrix = torch.from_numpy(sklearn.metrics.confusion_matrix(truth, called))
    for of_class, of_label in zip(metrics.one_versus_rest(matrix), metrics.fourfold(matrix.flatten()), strict=True):
        assert of_class[1] == of_label


def test_every_shape_is_kept():
    counts = torch.randint(1, 100, (2, 5, 3, 3))
    for figure in FIGURES:
        assert call(figure, metrics.one_versus_rest(counts)).shape == (2, 5, 3)
        assert call(figure, metrics.fourfold(counts.new_ones(2, 5, 4))).shape == (2, 5)


def test_each_class_may_have_a_prevalence_of_its_own():
    table = metrics.one_versus_rest(torch.randint(1, 100, (3, 3)))
    shares = torch.tensor([0.01, 0.1, 0.5])
    for index, share in enumerate(shares):
        assert metrics.ppv_at(table, shares)[index] == metrics.ppv_at(table, share)[index]


def test_counts_of_parts_add():
    labels = torch.randint(4, (2, 6, 10))
    whole = confusion_counts(labels[0].view(1, -1), labels[1].view(1, -1), 4).sum(0)
    parts = confusion_counts(labels[0], labels[1], 4).sum(0)
    torch.testing.assert_close(
        metrics.dice(metrics.one_versus_rest(parts)), metrics.dice(metrics.one_versus_rest(whole)), rtol=0.0, atol=0.0
    )


def test_more_voxels_than_float32_can_count():
    table = metrics.one_versus_rest(torch.tensor([[2**40, 1], [0, 1]]))
    assert metrics.specificity(table)[1].item() == 2**40 / (2**40 + 1)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.__name__)
@pytest.mark.parametrize(("empty", "expected"), [("nan", NAN), ("skip", NAN), ("zero", 0.0), ("one", 1.0)])
def test_nothing_counted_has_the_value_of_the_policy(figure, empty, expected):
    table = metrics.fourfold(torch.zeros(2, 4, dtype=torch.int64))
    assert call(figure, table, empty=empty).tolist() == pytest.approx([expected] * 2, nan_ok=True)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.__name__)
def test_the_policy_touches_nothing_that_is_defined(figure):
    table = metrics.fourfold(torch.randint(1, 100, (20, 4)))
    values = {tuple(call(figure, table, empty=empty).tolist()) for empty in ("nan", "zero", "one", "skip")}
    assert len(values) == 1


def test_a_test_without_errors_has_infinite_and_zero_likelihood_ratios():
    table = as_table(90, 0, 0, 10)
    assert metrics.positive_likelihood_ratio(table, empty="zero").item() == math.inf
    assert metrics.negative_likelihood_ratio(table).item() == 0.0


def test_means_over_undefined_values():
    values = torch.tensor([[0.5, NAN, 1.0], [NAN, NAN, NAN]], dtype=torch.float64)
    expected = {"skip": [0.75, NAN], "nan": [NAN, NAN], "zero": [0.5, 0.0], "one": [2.5 / 3.0, 1.0]}
    for empty, means in expected.items():
        assert metrics.mean(values, 1, empty).tolist() == pytest.approx(means, nan_ok=True)
    assert metrics.mean(values, (0, 1)).item() == 0.75


def sparse_masks():
    """Masks (N, C, voxels) of which some are empty, in the target, in the prediction, or in both."""
    target, prediction = torch.rand(2, 6, 4, 30) < 0.4
    target &= torch.tensor([True, True, False, False])[:, None]
    prediction &= torch.tensor([True, False, True, False])[:, None]
    cells = [(~prediction & ~target), (prediction & ~target), (~prediction & target), (prediction & target)]
    return prediction, target, metrics.fourfold(torch.stack(cells, -1).sum(-2))


def test_policies_that_make_monais_dice():
    dice_metric = pytest.importorskip("monai.metrics").DiceMetric
    prediction, target, table = sparse_masks()
    of_target = metrics.dice(table).where(metrics.prevalence(table) > 0, torch.nan)
    for ignore_empty, ours in ((True, of_target), (False, metrics.dice(table, empty="one"))):
        theirs = dice_metric(reduction="none", ignore_empty=ignore_empty)(prediction.float(), target.float())
        torch.testing.assert_close(ours, theirs.double(), equal_nan=True)


@pytest.mark.parametrize(
    ("figure", "name"),
    [
        (metrics.sensitivity, "sensitivity"),
        (metrics.specificity, "specificity"),
        (metrics.ppv, "precision"),
        (metrics.npv, "negative predictive value"),
        (metrics.accuracy, "accuracy"),
        (metrics.balanced_accuracy, "balanced accuracy"),
        (metrics.dice, "f1 score"),
        (metrics.iou, "threat score"),
    ],
)
def test_the_policy_that_makes_monais_confusion_matrix_metrics(figure, name):
    peer = pytest.importorskip("monai.metrics")
    prediction, target, table = sparse_masks()
    theirs = peer.compute_confusion_matrix_metric(name, peer.get_confusion_matrix(prediction.float(), target.float()))
    torch.testing.assert_close(figure(table, empty="nan"), theirs.double(), equal_nan=True)


@pytest.mark.parametrize(
    ("figure", "name"),
    [
        (metrics.sensitivity, "recall"),
        (metrics.specificity, "specificity"),
        (metrics.ppv, "precision"),
        (metrics.npv, "negative_predictive_value"),
        (metrics.dice, "f1_score"),
        (metrics.iou, "jaccard_index"),
    ],
)
def test_the_policies_that_make_torchmetrics(figure, name):
    """0 where undefined, and means over the classes that occur in target or prediction."""
    import torchmetrics.functional.classification as peer

    if not hasattr(peer, f"multiclass_{name}"):
        pytest.skip("newer than this torchmetrics")
    target, prediction = torch.randint(3, (2, 50)) + torch.tensor([[0], [1]])
    table = metrics.one_versus_rest(confusion_counts(prediction[None], target[None], 6)[0])
    theirs = getattr(peer, f"multiclass_{name}")
    torch.testing.assert_close(
        figure(table, empty="zero").float(), theirs(prediction, target, num_classes=6, average="none")
    )
    occurring = figure(table, empty="zero").where(table.tp + table.fp + table.fn > 0, torch.nan)
    torch.testing.assert_close(
        metrics.mean(occurring, -1, "skip").float(), theirs(prediction, target, num_classes=6, average="macro")
    )


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.__name__)
def test_counts_must_be_made_a_fourfold_first(figure):
    """(N, 4, 4) would be counts of four classes as well as of N x 4 labels."""
    with pytest.raises(TypeError, match=r"table: got Tensor, allowed is a Fourfold: one_versus_rest.*fourfold\("):
        call(figure, torch.ones(2, 4, 4))


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.__name__)
def test_unknown_policies(figure):
    with pytest.raises(ValueError, match=r"empty: got 'null', allowed is one of \('nan', 'zero', 'one', 'skip'\)"):
        call(figure, as_table(1, 1, 1, 1), empty="null")


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_matrices_must_be_square(shape):
    with pytest.raises(ValueError, match="matrix: got shape"):
        metrics.one_versus_rest(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(), (4, 3)])
def test_tables_must_have_four_columns(shape):
    with pytest.raises(ValueError, match="table: got shape"):
        metrics.fourfold(torch.zeros(shape))


@pytest.mark.parametrize("share", [-0.1, 1.5, NAN, torch.tensor([0.5, 1.5])])
def test_prevalence_must_be_a_share(share):
    for figure in (metrics.ppv_at, metrics.npv_at):
        with pytest.raises(ValueError, match="prevalence: got"):
            figure(as_table(1, 1, 1, 1), share)


@pytest.mark.parametrize("beta", [0.0, -1.0, NAN])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match="beta: got"):
        metrics.f_beta(as_table(1, 1, 1, 1), beta)
