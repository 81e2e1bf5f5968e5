"""Figures by their names, as options of metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from . import functional

Figures = str | Sequence[str]

FIGURES: dict[str, Callable[..., Tensor]] = {
    "accuracy": functional.accuracy,
    "balanced_accuracy": functional.balanced_accuracy,
    "cohen_kappa": functional.cohen_kappa,
    "dice": functional.dice,
    "f1": functional.f_beta,
    "iou": functional.iou,
    "mcc": functional.mcc,
    "negative_likelihood_ratio": functional.negative_likelihood_ratio,
    "npv": functional.npv,
    "positive_likelihood_ratio": functional.positive_likelihood_ratio,
    "ppv": functional.ppv,
    "prevalence": functional.prevalence,
    "sensitivity": functional.sensitivity,
    "specificity": functional.specificity,
}
