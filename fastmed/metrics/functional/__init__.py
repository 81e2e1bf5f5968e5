"""Metrics as pure functions of counts, by subject: tables, figures, and what they are worth where undefined."""

from .empty import Empty, mean, ratio
from .figures import (
    accuracy,
    balanced_accuracy,
    cohen_kappa,
    dice,
    f_beta,
    iou,
    mcc,
    negative_likelihood_ratio,
    npv,
    npv_at,
    positive_likelihood_ratio,
    ppv,
    ppv_at,
    prevalence,
    sensitivity,
    specificity,
)
from .fourfold import Fourfold, fourfold, one_versus_rest
from .intervals import Interval, figure_interval, proportion_interval

__all__ = [
    "Empty",
    "Fourfold",
    "Interval",
    "accuracy",
    "balanced_accuracy",
    "cohen_kappa",
    "dice",
    "f_beta",
    "figure_interval",
    "fourfold",
    "iou",
    "mcc",
    "mean",
    "negative_likelihood_ratio",
    "npv",
    "npv_at",
    "one_versus_rest",
    "positive_likelihood_ratio",
    "ppv",
    "ppv_at",
    "prevalence",
    "proportion_interval",
    "ratio",
    "sensitivity",
    "specificity",
]
