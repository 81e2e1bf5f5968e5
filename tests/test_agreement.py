"""Agreement over several classes against scikit-learn."""

import pytest
import sklearn.metrics
import torch

from fastmed.functional import confusion_counts
from fastmed.metrics import functional as metrics


def readings(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two readings (5, 80) of grades that agree more often than not."""
    first = torch.randint(classes, (5, 80))
    step = torch.randint(-1, 2, (5, 80)) * (torch.rand(5, 80) < 0.6)
    return first, (first + step).clamp(0, classes - 1)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
def test_kappa_matches_scikit_learn(classes: int, weights: str | None) -> None:
    first, second = readings(classes)
    ours = metrics.multiclass_cohen_kappa(confusion_counts(second, first, classes), weights)
    theirs = [sklearn.metrics.cohen_kappa_score(a, b, weights=weights) for a, b in zip(first, second, strict=True)]
    assert ours.tolist() == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_mcc_matches_scikit_learn(classes: int) -> None:
    first, second = readings(classes)
    ours = metrics.multiclass_mcc(confusion_counts(second, first, classes))
    theirs = [sklearn.metrics.matthews_corrcoef(a, b) for a, b in zip(first, second, strict=True)]
    assert ours.tolist() == pytest.approx(theirs, rel=1e-12)


def test_two_classes_agree_with_the_figures_of_either() -> None:
    matrix = torch.randint(1, 100, (6, 2, 2))
    table = metrics.one_versus_rest(matrix)
    for several, either in (
        (metrics.multiclass_mcc, metrics.mcc),
        (metrics.multiclass_cohen_kappa, metrics.cohen_kappa),
    ):
        torch.testing.assert_close(several(matrix)[:, None].expand(6, 2), either(table))


@pytest.mark.parametrize("figure", [metrics.multiclass_mcc, metrics.multiclass_cohen_kappa])
def test_one_class_throughout_has_the_value_of_the_policy(figure) -> None:
    matrix = torch.tensor([[9, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert figure(matrix).isnan()
    assert figure(matrix, empty="one").item() == 1.0


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="matrix: got shape"):
        metrics.multiclass_mcc(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="weights: got 'cubic', allowed is None or one of"):
        metrics.multiclass_cohen_kappa(torch.ones(3, 3), "cubic")
