"""Metrics as pure functions of counts, by subject: tables, figures, their intervals, and what is undefined."""

from .agreement import multiclass_cohen_kappa, multiclass_mcc
from .bootstrap import bootstrap_interval, bootstrap_mean_interval
from .delong import AUROCDifference, RankStatistics, auroc_difference, auroc_interval
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
    "AUROCDifference",
    "Empty",
    "Fourfold",
    "Interval",
    "RankStatistics",
    "accuracy",
    "auroc_difference",
    "auroc_interval",
    "balanced_accuracy",
    "bootstrap_interval",
    "bootstrap_mean_interval",
    "cohen_kappa",
    "dice",
    "f_beta",
    "figure_interval",
    "fourfold",
    "iou",
    "mcc",
    "mean",
    "multiclass_cohen_kappa",
    "multiclass_mcc",
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
