"""Loss value and gradient of the sums in one call, in place of fifty small tensor operators.

The same numbers as `fastmed.formulas.ratio_linear` and its gradient, to which the tests hold it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor

from ...contract import (
    NLL_MEANS,
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
from .compilation import compiled

_ELEMENTS, _VOXELS, _TARGET, _TASK = range(len(NLL_MEANS))

# Where the compiled code finds the fields of `RatioLinear`, all of them numbers.
(
    _NUMERATOR_TP,
    _DENOMINATOR_TP,
    _DENOMINATOR_PRED,
    _DENOMINATOR_TARGET,
    _SMOOTH_NUMERATOR,
    _SMOOTH_DENOMINATOR,
    _SQUARED,
    _FIRST_CLASS,
    _POOL_BATCH,
    _LAMBDA_RATIO,
    _LAMBDA_NLL,
    _NLL_MEAN,
    _MEAN,
    _BALANCE_POS,
    _BALANCE_NEG,
) = range(len(RatioLinear._fields))

_NO_WEIGHTS = np.empty(0, dtype=np.float32)


@functools.lru_cache(maxsize=256)
def numbers(loss: RatioLinear) -> Any:
    """The loss as the compiled code takes it."""
    return np.array(loss.numbers())


def _array(weights: Tensor | None) -> Any:
    return _NO_WEIGHTS if weights is None else np.ascontiguousarray(weights.detach().numpy(), dtype=np.float32)


def arrays(weights: LossWeights, activation: str, classes: int) -> tuple[Any, ...]:
    """The weights as arrays of one number a class, empty for ones; a softmax has no nll of negatives."""
    region, pos, neg = weights
    no_negatives = activation != "sigmoid"
    return _array(region), _array(pos), np.zeros(classes, np.float32) if no_negatives else _array(neg)


@compiled
def _weight(weights: Any, c: int) -> float:
    return float(weights[c]) if weights.size else 1.0


@compiled
def _ratio(sums: Any, loss: Any, weights: Any, gradient: Any) -> float:
    """Adds the gradient of the overlap losses; returns their mean or sum."""
    by_pred, by_target = (PRED_SQ, TARGET_SQ) if loss[_SQUARED] else (PRED, TARGET)
    _, samples, classes = sums.shape
    first_class = int(loss[_FIRST_CLASS])
    rows = 1 if loss[_POOL_BATCH] else samples
    factor = loss[_LAMBDA_RATIO]
    if loss[_MEAN]:
        factor /= rows * (classes - first_class)
    total = 0.0
    for row in range(rows):
        first, last = (0, samples) if loss[_POOL_BATCH] else (row, row + 1)
        for c in range(first_class, classes):
            tp = pred = target = 0.0
            for n in range(first, last):
                tp, pred, target = tp + sums[TP, n, c], pred + sums[by_pred, n, c], target + sums[by_target, n, c]
            denominator = loss[_DENOMINATOR_TP] * tp + loss[_DENOMINATOR_PRED] * pred
            denominator += loss[_DENOMINATOR_TARGET] * target + loss[_SMOOTH_DENOMINATOR]
            if denominator == 0.0:
                # Neither prediction nor target, and no smoothing: no loss, and no gradient.
                continue
            ratio = (loss[_NUMERATOR_TP] * tp + loss[_SMOOTH_NUMERATOR]) / denominator
            share = factor * _weight(weights, c)
            total += share * (1.0 - ratio)
            for n in range(first, last):
                gradient[TP, n, c] = -share / denominator * (loss[_NUMERATOR_TP] - loss[_DENOMINATOR_TP] * ratio)
                gradient[by_pred, n, c] = share / denominator * loss[_DENOMINATOR_PRED] * ratio
    return total


@compiled
def nll_factors(target: Any, weight: Any, loss: Any, positive: Any, negative: Any, by: Any) -> None:
    """Writes what the nll of positives and that of negatives are multiplied with, (2, C), from the sums of each class.

    These are their weights, and the mean that is taken.
    """
    classes = target.size
    normaliser = 0.0
    for c in range(classes):
        by[0, c], by[1, c] = loss[_LAMBDA_NLL] * _weight(positive, c), loss[_LAMBDA_NLL] * _weight(negative, c)
        if loss[_BALANCE_POS]:
            by[0, c] *= 0.0 if weight[c] == 0.0 else (weight[c] - target[c]) / weight[c]
        if loss[_BALANCE_NEG]:
            by[1, c] *= 0.0 if weight[c] == 0.0 else target[c] / weight[c]
        if loss[_MEAN] and loss[_NLL_MEAN] == _TASK:
            mean = 0.0 if weight[c] == 0.0 else 1.0 / (classes * weight[c])
            by[0, c], by[1, c] = by[0, c] * mean, by[1, c] * mean
        elif loss[_NLL_MEAN] == _TARGET:
            normaliser += by[0, c] / loss[_LAMBDA_NLL] * target[c]
        else:
            normaliser += weight[c]
    if loss[_NLL_MEAN] == _VOXELS:
        normaliser /= classes
    if loss[_MEAN] and loss[_NLL_MEAN] != _TASK:
        mean = 0.0 if normaliser == 0.0 else 1.0 / normaliser
        for c in range(classes):
            by[0, c], by[1, c] = by[0, c] * mean, by[1, c] * mean


@compiled
def _nll(sums: Any, loss: Any, positive: Any, negative: Any, gradient: Any) -> float:
    """Adds the gradient of the weighted nll; returns its mean or sum."""
    _, samples, classes = sums.shape
    by, target, weight = np.empty((2, classes)), np.zeros(classes), np.zeros(classes)
    for n in range(samples):
        for c in range(classes):
            target[c] += sums[TARGET, n, c]
            weight[c] += sums[WEIGHT, n, c]
    nll_factors(target, weight, loss, positive, negative, by)
    total = 0.0
    for n in range(samples):
        for c in range(classes):
            total += by[0, c] * sums[NLL_POS, n, c] + by[1, c] * sums[NLL_NEG, n, c]
            gradient[NLL_POS, n, c] = by[0, c]
            gradient[NLL_NEG, n, c] = by[1, c]
    return total


@compiled
def ratio_linear(sums: Any, loss: Any, region: Any, positive: Any, negative: Any, value: Any, gradient: Any) -> None:
    """Writes the loss, and its gradient by the stacked sums, from `numbers` and `arrays`."""
    gradient[:] = 0.0
    total = 0.0
    if loss[_LAMBDA_RATIO]:
        total += _ratio(sums, loss, region, gradient)
    if loss[_LAMBDA_NLL]:
        total += _nll(sums, loss, positive, negative, gradient)
    value[()] = total
