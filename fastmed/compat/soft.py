"""True positives of soft labels, as MONAI and segmentation_models_pytorch define them."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from .. import ops
from ..contract import RegionInput, RegionSums, Wanted, changed

__all__ = ["soft_label_sums"]


def soft_label_sums(operands: RegionInput, backend: str) -> RegionSums:
    """Sums whose true positives are those of Wang et al. (2023): sum (p + g - |p - g|) / 2.

    That is the sum of the smaller of p and g, and p g for labels of 0 and 1, which is taken where it is known: of a
    class that is nearly absent, the difference of large sums leaves few digits of the value, and none of the gradient.

    Args:
        operands: of the pass.
        backend: "auto", or the name of the backend that must run.
    """
    has_activation = operands.activation != "none"
    if has_activation and not operands.is_dense:
        return ops.region_sums(operands, Wanted(nll=False), None, backend)
    sums = ops.region_sums(operands, Wanted(nll=False, soft=True), None, backend)
    tp = (sums.pred + sums.target - cast(Tensor, sums.difference)) / 2
    # Of probabilities as they come nothing is lost, and the slope of |p - g| where both are equal is that of the peers.
    if has_activation:
        # Between 0 and 1 a number is larger than its square. In a large sum a soft label may hide, but then no digits
        # are lost either.
        is_hard = (sums.target == sums.target_sq) & (sums.target < sums.pred)
        tp = torch.where(is_hard, sums.tp, tp)
    return changed(sums, tp=tp)
