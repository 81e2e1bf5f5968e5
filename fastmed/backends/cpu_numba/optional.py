"""Statistics that a pass computes only where they are wanted: soft ones, and counts of the hard prediction."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...contract import DIFFERENCE, HARD_PRED, HARD_TARGET, HARD_TOTAL, HARD_TP, TP_SQ
from .compilation import elementwise, reduction
from .tiles import at

_F = np.float32


@reduction
def add_soft(p: Any, target: Any, weight: Any, sums: Any) -> None:
    """Adds the soft statistics of a tile of probabilities."""
    tp_sq = difference = _F(0.0)
    for i in range(p.size):
        w = at(weight, i)
        tp_sq += w * target[i] * p[i] * p[i]
        difference += w * abs(p[i] - target[i])
    sums[TP_SQ] += tp_sq
    sums[DIFFERENCE] += difference


@elementwise
def soft_slope(p: Any, target: Any, by_tp_sq: Any, by_difference: Any) -> Any:
    """The derivative by p of what `add_soft` adds, for a weight of 1."""
    sign = _F(1.0) if p > target else (_F(-1.0) if p < target else _F(0.0))
    return _F(2.0) * by_tp_sq * p * target + by_difference * sign


@reduction
def add_hard(score: Any, threshold: Any, target: Any, weight: Any, sums: Any) -> None:
    """Adds the counts of a tile: what scores above the threshold is predicted. Below 2^24 voxels they are exact."""
    tp = pred = hard_target = total = _F(0.0)
    for i in range(score.size):
        counted = _F(1.0) if at(weight, i) != _F(0.0) else _F(0.0)
        in_pred = counted if score[i] > threshold else _F(0.0)
        in_target = counted if target[i] > _F(0.5) else _F(0.0)
        tp += in_pred * in_target
        pred += in_pred
        hard_target += in_target
        total += counted
    sums[HARD_TP] += tp
    sums[HARD_PRED] += pred
    sums[HARD_TARGET] += hard_target
    sums[HARD_TOTAL] += total


@elementwise
def choose(below_highest: Any, p: Any, free: Any, chosen: Any) -> None:
    """Fills `chosen` with 1 where this class has the largest logit and no class before it had; clears it in `free`.

    A NaN in any class makes every p a NaN, and then none is chosen.
    """
    for i in range(chosen.size):
        is_highest = (below_highest[i] == _F(0.0)) & (p[i] == p[i])
        chosen[i] = free[i] if is_highest else _F(0.0)
        free[i] -= chosen[i]
