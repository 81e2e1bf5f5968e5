"""Loss value and gradient of the sums in one call, in place of fifty small tensor operators.

The same numbers as `fastmed.formulas.ratio_linear` and its gradient, to which the tests hold it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...contract import (
    NLL_NEG,
    NLL_POS,
    PRED,
    PRED_SQ,
    TARGET,
    TARGET_SQ,
    TP,
    WEIGHT,
    LossWeights,
    RatioLinear,
)
from .tiles import compiled

# How the nll is normalised, as the compiled code takes it.
_ELEMENTS, _VOXELS, _TARGET = range(3)
_NLL_MEANS = {"elements": _ELEMENTS, "voxels": _VOXELS, "target": _TARGET}


@compiled
def _ratio(
    sums: Any,
    weight: Any,
    numbers: Any,
    squared: bool,
    first_class: int,
    pooled: bool,
    mean: bool,
    gradient: Any,
) -> float:
    """Adds the gradient of the overlap losses; returns their mean or sum."""
    (
        numerator_tp,
        denominator_tp,
        denominator_pred,
        denominator_target,
        smooth_numerator,
        smooth_denominator,
    ) = numbers
    by_pred, by_target = (PRED_SQ, TARGET_SQ) if squared else (PRED, TARGET)
    _, samples, classes = sums.shape
    rows = 1 if pooled else samples
    factor = 1.0 / (rows * (classes - first_class)) if mean else 1.0
    loss = 0.0
    for row in range(rows):
        first, last = (0, samples) if pooled else (row, row + 1)
        for c in range(first_class, classes):
            tp = sums[TP, first:last, c].sum()
            pred = sums[by_pred, first:last, c].sum()
            target = sums[by_target, first:last, c].sum()
            denominator = denominator_tp * tp + denominator_pred * pred + denominator_target * target
            denominator += smooth_denominator
            ratio = (numerator_tp * tp + smooth_numerator) / denominator
            loss += factor * weight[c] * (1.0 - ratio)
            by_ratio = -factor * weight[c] / denominator
            for n in range(first, last):
                gradient[TP, n, c] = by_ratio * (numerator_tp - denominator_tp * ratio)
                gradient[by_pred, n, c] = -by_ratio * denominator_pred * ratio
    return loss


@compiled
def _nll(sums: Any, positive: Any, negative: Any, nll_mean: int, mean: bool, gradient: Any) -> float:
    """Adds the gradient of the weighted nll; returns its mean or sum."""
    _, samples, classes = sums.shape
    loss = normaliser = 0.0
    for n in range(samples):
        for c in range(classes):
            loss += positive[c] * sums[NLL_POS, n, c] + negative[c] * sums[NLL_NEG, n, c]
            normaliser += positive[c] * sums[TARGET, n, c] if nll_mean == _TARGET else sums[WEIGHT, n, c]
    if nll_mean == _VOXELS:
        normaliser /= classes
    factor = 1.0
    if mean:
        factor = 0.0 if normaliser == 0.0 else 1.0 / normaliser
    for n in range(samples):
        for c in range(classes):
            gradient[NLL_POS, n, c] = factor * positive[c]
            gradient[NLL_NEG, n, c] = factor * negative[c]
    return factor * loss


def _weights(weights: Tensor | None, classes: int) -> Any:
    return np.ones(classes) if weights is None else weights.detach().to(torch.float64).numpy()


def ratio_linear(stacked: Tensor, loss: RatioLinear, weights: LossWeights, has_negatives: bool) -> tuple[float, Tensor]:
    """The loss, and its gradient by the stacked sums."""
    gradient = torch.zeros_like(stacked)
    sums, by_sums, classes = stacked.numpy(), gradient.numpy(), stacked.shape[2]
    value = 0.0
    if loss.lambda_ratio:
        numbers = tuple(map(float, loss[:6]))
        value = loss.lambda_ratio * _ratio(
            sums,
            _weights(weights.region, classes),
            numbers,
            loss.squared,
            loss.first_class,
            loss.pool_batch,
            loss.mean,
            by_sums,
        )
        by_sums[:NLL_POS] *= loss.lambda_ratio
    if loss.lambda_nll:
        negative = _weights(weights.nll_neg, classes) if has_negatives else np.zeros(classes)
        nll_mean = _NLL_MEANS[loss.nll_mean]
        nll = _nll(sums, _weights(weights.nll_pos, classes), negative, nll_mean, loss.mean, by_sums)
        value += loss.lambda_nll * nll
        by_sums[NLL_POS : NLL_NEG + 1] *= loss.lambda_nll
    return value, gradient
