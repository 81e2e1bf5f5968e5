"""Clinical figures of fourfold tables.

Each takes a `Fourfold`, made by `one_versus_rest` or `fourfold` from counts, and gives float64 of the shape of its
fields. `empty` is the value of 0 / 0: see `Empty`. Counts add, ratios do not: sum the counts of several samples first
for a pooled figure, or take the `mean` of the samples' figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .empty import Empty, ratio
from .fourfold import Fourfold

__all__ = [
    "accuracy",
    "balanced_accuracy",
    "cohen_kappa",
    "dice",
    "f_beta",
    "iou",
    "mcc",
    "negative_likelihood_ratio",
    "npv",
    "npv_at",
    "positive_likelihood_ratio",
    "ppv",
    "ppv_at",
    "prevalence",
    "sensitivity",
    "specificity",
]


def _fields(table: Fourfold) -> Fourfold:
    if not isinstance(table, Fourfold):
        raise TypeError(
            f"table: got {type(table).__name__}, allowed is a Fourfold: one_versus_rest(counts) of counts "
            "(..., C, C), fourfold(counts) of counts (..., 4)"
        )
    return table


def _all(table: Fourfold) -> Tensor:
    return table.tn + table.fp + table.fn + table.tp


# The figures that are shares of cases, as cases and what they are a share of.
PROPORTIONS: dict[str, Callable[[Fourfold], tuple[Tensor, Tensor]]] = {
    "sensitivity": lambda table: (table.tp, table.tp + table.fn),
    "specificity": lambda table: (table.tn, table.tn + table.fp),
    "ppv": lambda table: (table.tp, table.tp + table.fp),
    "npv": lambda table: (table.tn, table.tn + table.fn),
    "prevalence": lambda table: (table.tp + table.fn, _all(table)),
    "accuracy": lambda table: (table.tn + table.tp, _all(table)),
}


def _proportion(name: str, table: Fourfold, empty: Empty) -> Tensor:
    return ratio(*PROPORTIONS[name](_fields(table)), empty)


def sensitivity(table: Fourfold, *, empty: Empty = "nan") -> Tensor:
    """Share of the positives that were found, TP / (TP + FN), also called recall (Yerushalmy, 1947).

    Args:
        table: fourfold tables of any shape.
        empty: value where there is no positive.

    Returns:
        float64 in [0, 1], of the shape of the table's fields.

    Raises:
        TypeError: for anything but a Fourfold.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import fourfold, sensitivity
        >>> sensitivity(fourfold(torch.tensor([90, 2, 1, 7]))).item()
        0.875
    """
    return _proportion("sensitivity", table, empty)


def specificity(table: Fourfold, *, empty: Empty = "nan") -> Tensor:
    """Share of the negatives that were left alone, TN / (TN + FP) (Yerushalmy, 1947).

    Args:
        table: fourfold tables of any shape.
        empty: value where there is no negative.

    Returns:
        float64 in [0, 1], of the shape of the table's fields.

    Raises:
        TypeError: for anything but a Fourfold.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import fourfold, specificity
        >>> specificity(fourfold(torch.tensor([90, 10, 1, 7]))).item()
        0.9
    """
    return _proportion("specificity", table, empty)


def ppv(table: Fourfold, *, empty: Empty = "nan") -> Tensor:
    """Positive predictive value, TP / (TP + FP), also called precision (Vecchio, 1966).

    It depends on the prevalence: for that of another population see `ppv_at`.

    Args:
        table: fourfold tables of any shape.
        empty: value where nothing was called positive.

    Returns:
        float64 in [0, 1], of the shape of the table's fields.

    Raises:
        TypeError: for anything but a Fourfold.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import fourfold, ppv
        >>> ppv(fourfold(torch.tensor([90, 2, 1, 6]))).item()
        0.75
    """
    return _proportion("ppv", table, empty)


def npv(table: Fourfold, *, empty: Empty = "nan") -> Tensor:
    """Negative predictive value, TN / (TN + FN) (Vecchio, 1966).

    It depends on the prevalence: for that of another population see `npv_at`.

    Args:
        table: fourfold tables of any shape.
        empty: value where nothing was called negative.

    Returns:
        float64 in [0, 1], of the shape of the table's fields.

    Raises:
        TypeError: for anything but a Fourfold.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import fourfold, npv
        >>> npv(fourfold(torch.tensor([90, 2, 10, 6]))).item()
        0.9
    """
    return _proportion("npv", table, empty)


def prevalence(table: Fourfold, *, empty: Empty = "nan") -> Tensor:
    """Share of the positives in all cases, (TP + FN) / (TN + FP + FN + TP) (Porta, "A Dictionary of Epidemiology").

    Args:
        table: fourfold tables of any shape.
        empty: value where nothing was counted.

    Returns:
        float64 in [0, 1], of the shape of the table's fields.

    Raises:
        TypeError: for anything but a Fourfold.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import fourfold, prevalence
        >>> prevalence(fourfold(torch.tensor([90, 2, 1, 7]))).item()
        0.08
    """
    return _proportion("prevalence", table, empty)


def accuracy(table: Fourfold, *, empty: Empty = "nan") -> Tensor:
    """Share of the cases that were called right, (TN + TP) / (TN + FP + FN + TP).

    It is sensitivity and specificity weighted by prevalence, `sensitivity * prevalence + specificity *
    (1 - prevalence)` (Metz, "Basic principles of ROC analysis", 1978), so for a rare finding it says little more than
    that the finding is rare.

    Args:
        table: fourfold tables of any shape.
        empty: value where nothing was counted.

    Returns:
        float64 in [0, 1], of the shape of the table's fields.

    Raises:
        TypeError: for anything but a Fourfold.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import accuracy, fourfold
        >>> accuracy(fourfold(torch.tensor([90, 2, 1, 7]))).item()
        0.97
    """
    return _proportion("accuracy", table, empty)


def balanced_accuracy(table: Fourfold, *, empty: Empty = "nan") -> Tensor:
    """Mean of sensitivity and specificity (Brodersen et al., "The balanced accuracy", 2010).

    Args:
        table: fourfold tables of any shape.
        empty: value where there is no positive or no negative.

    Returns:
        float64 in [0, 1], 1/2 by chance, of the shape of the table's fields.

    Raises:
        TypeError: for anything but a Fourfold.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import balanced_accuracy, fourfold
        >>> balanced_accuracy(fourfold(torch.tensor([90, 10, 1, 3]))).item()
        0.825
    """
    tn, fp, fn, tp = _fields(table)
    positives, negatives = tp + fn, tn + fp
    return ratio(tp * negatives + tn * positives, 2.0 * positives * negatives, empty)


def f_beta(table: Fourfold, beta: float = 1.0, *, empty: Empty = "nan") -> Tensor:
    """Harmonic mean of sensitivity and PPV, sensitivity weighted beta**2 times (van Rijsbergen, 1979, chapter 7).

    (1 + beta**2) TP / ((1 + beta**2) TP + beta**2 FN + FP).

    Args:
        table: fourfold tables of any shape.
        beta: how many times as important as PPV sensitivity is, above 0; 1 gives Dice.
        empty: value where there is neither a positive nor anything called so.

    Returns:
        float64 in [0, 1], of the shape of the table's fields.

    Raises:
        TypeError: for anything but a Fourfold.
        ValueError: for an unknown policy, or a beta that is not above 0.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import f_beta, fourfold
        >>> f_beta(fourfold(torch.tensor([90, 4, 1, 4])), beta=2.0).item()
        0.7142857142857143
    """
    _, fp, fn, tp = _fields(table)
    if not beta > 0.0:
        raise ValueError(f"beta: got {beta}, allowed is above 0")
    found = (1.0 + beta**2) * tp
    return ratio(found, found + beta**2 * fn + fp, empty)


def dice(table: Fourfold, *, empty: Empty = "nan") -> Tensor:
    """Dice coefficient of hard predictions, 2 TP / (2 TP + FP + FN) (Dice, "Ecologic association", 1945).

    Args:
        table: fourfold tables of any shape.
        empty: value where there is neither a positive nor anything called so. "one" is MONAI's `DiceMetric` with
            `ignore_empty=False`. Its default is NaN wherever there is no positive:
            `dice(table).where(prevalence(table) > 0, torch.nan)`.

    Returns:
        float64 in [0, 1], of the shape of the table's fields.

    Raises:
        TypeError: for anything but a Fourfold.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import dice, one_versus_rest
        >>> dice(one_versus_rest(torch.tensor([[6, 2], [2, 6]]))).tolist()
        [0.75, 0.75]
    """
    _, fp, fn, tp = _fields(table)
    return ratio(2.0 * tp, 2.0 * tp + fp + fn, empty)


def iou(table: Fourfold, *, empty: Empty = "nan") -> Tensor:
    """Intersection over union, TP / (TP + FP + FN), also called the Jaccard index (Jaccard, 1912).

    Args:
        table: fourfold tables of any shape.
        empty: value where there is neither a positive nor anything called so.

    Returns:
        float64 in [0, 1], of the shape of the table's fields: Dice / (2 - Dice).

    Raises:
        TypeError: for anything but a Fourfold.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import fourfold, iou
        >>> iou(fourfold(torch.tensor([90, 2, 2, 4]))).item()
        0.5
    """
    _, fp, fn, tp = _fields(table)
    return ratio(tp, tp + fp + fn, empty)


def mcc(table: Fourfold, *, empty: Empty = "nan") -> Tensor:
    """Correlation of what was called with what is there (Matthews, 1975), also called the phi coefficient.

    (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)).

    Args:
        table: fourfold tables of any shape.
        empty: value where all cases are positive, or all negative, or all called the same.

    Returns:
        float64 in [-1, 1], 0 by chance, of the shape of the table's fields.

    Raises:
        TypeError: for anything but a Fourfold.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import fourfold, mcc
        >>> mcc(fourfold(torch.tensor([6, 2, 2, 6]))).item()
        0.5
    """
    tn, fp, fn, tp = _fields(table)
    return ratio(tp * tn - fp * fn, ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)).sqrt(), empty)


def cohen_kappa(table: Fourfold, *, empty: Empty = "nan") -> Tensor:
    """Agreement beyond chance of two readers (Cohen, "A coefficient of agreement for nominal scales", 1960).

    (observed - expected) / (1 - expected), with the accuracy observed and the one that independent readers with the
    same numbers of positives are expected to have.

    Args:
        table: fourfold tables of any shape.
        empty: value where both readers gave all cases the same answer.

    Returns:
        float64 in [-1, 1], 0 by chance, of the shape of the table's fields.

    Raises:
        TypeError: for anything but a Fourfold.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import cohen_kappa, fourfold
        >>> cohen_kappa(fourfold(torch.tensor([6, 2, 2, 6]))).item()
        0.5
    """
    tn, fp, fn, tp = _fields(table)
    return ratio(2.0 * (tp * tn - fp * fn), (tp + fp) * (tn + fp) + (tp + fn) * (tn + fn), empty)


def positive_likelihood_ratio(table: Fourfold, *, empty: Empty = "nan") -> Tensor:
    """How a positive result multiplies the odds, sensitivity / (1 - specificity) (Deeks and Altman, BMJ 2004).

    Args:
        table: fourfold tables of any shape.
        empty: value where there is no positive, no negative, or nothing called positive.

    Returns:
        float64, 0 or above, of the shape of the table's fields; infinite without a false positive.

    Raises:
        TypeError: for anything but a Fourfold.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import fourfold, positive_likelihood_ratio
        >>> positive_likelihood_ratio(fourfold(torch.tensor([75, 25, 1, 3]))).item()
        3.0
    """
    tn, fp, fn, tp = _fields(table)
    return ratio(tp * (tn + fp), fp * (tp + fn), empty)


def negative_likelihood_ratio(table: Fourfold, *, empty: Empty = "nan") -> Tensor:
    """How a negative result multiplies the odds, (1 - sensitivity) / specificity (Deeks and Altman, BMJ 2004).

    Args:
        table: fourfold tables of any shape.
        empty: value where there is no positive, no negative, or nothing called negative.

    Returns:
        float64, 0 or above, of the shape of the table's fields; infinite without a true negative.

    Raises:
        TypeError: for anything but a Fourfold.
        ValueError: for an unknown policy.

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import fourfold, negative_likelihood_ratio
        >>> negative_likelihood_ratio(fourfold(torch.tensor([50, 50, 1, 3]))).item()
        0.5
    """
    tn, fp, fn, tp = _fields(table)
    return ratio(fn * (tn + fp), tn * (tp + fn), empty)


Prevalence = Tensor | Sequence[float] | float


def _share(name: str, value: Prevalence, like: Tensor) -> Tensor:
    try:
        share = torch.as_tensor(value, dtype=torch.float64, device=like.device)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: got {value!r}, allowed are numbers, 0 to 1") from error
    if not ((share >= 0) & (share <= 1)).all():
        raise ValueError(f"{name}: got {value}, allowed is 0 to 1")
    return share


def ppv_at(table: Fourfold, prevalence: Prevalence, *, empty: Empty = "nan") -> Tensor:
    """PPV in a population of another prevalence, by Bayes (Vecchio, "Predictive value of a single test", 1966).

    With p the prevalence: sensitivity p / (sensitivity p + (1 - specificity) (1 - p)). A study with as many sick as
    healthy shows a far higher PPV than the same test has in a screening.

    Args:
        table: fourfold tables of any shape.
        prevalence: share of positives there, in [0, 1]: a number, or a tensor or list that broadcasts with the
            fields.
        empty: value where there is no positive, no negative, or nothing called positive.

    Returns:
        float64 in [0, 1], of the shape of the table's fields.

    Raises:
        TypeError: for anything but a Fourfold, or a prevalence that is no number.
        ValueError: for an unknown policy, or a prevalence outside [0, 1].

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import fourfold, ppv, ppv_at
        >>> table = fourfold(torch.tensor([90, 10, 10, 90]))
        >>> ppv(table).item(), ppv_at(table, 0.01).item()
        (0.9, 0.08333333333333333)
    """
    tn, fp, fn, tp = _fields(table)
    share = _share("prevalence", prevalence, tp)
    found = tp * (tn + fp) * share
    return ratio(found, found + fp * (tp + fn) * (1.0 - share), empty)


def npv_at(table: Fourfold, prevalence: Prevalence, *, empty: Empty = "nan") -> Tensor:
    """NPV in a population of another prevalence, by Bayes (Vecchio, "Predictive value of a single test", 1966).

    With p the prevalence: specificity (1 - p) / (specificity (1 - p) + (1 - sensitivity) p).

    Args:
        table: fourfold tables of any shape.
        prevalence: share of positives there, in [0, 1]: a number, or a tensor or list that broadcasts with the
            fields.
        empty: value where there is no positive, no negative, or nothing called negative.

    Returns:
        float64 in [0, 1], of the shape of the table's fields.

    Raises:
        TypeError: for anything but a Fourfold, or a prevalence that is no number.
        ValueError: for an unknown policy, or a prevalence outside [0, 1].

    Example:
        >>> import torch
        >>> from fastmed.metrics.functional import fourfold, npv, npv_at
        >>> table = fourfold(torch.tensor([90, 10, 10, 90]))
        >>> npv(table).item(), npv_at(table, 0.01).item()
        (0.9, 0.9988789237668162)
    """
    tn, fp, fn, tp = _fields(table)
    share = _share("prevalence", prevalence, tp)
    cleared = tn * (tp + fn) * (1.0 - share)
    return ratio(cleared, cleared + fn * (tn + fp) * share, empty)
