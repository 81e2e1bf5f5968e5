"""The one pass over the voxels, and the losses that follow from it."""

from __future__ import annotations

from torch import Tensor

from .. import formulas, ops, validation
from ..contract import LossWeights, RatioLinear, RegionInput, RegionSums, Wanted


def region_sums(
    input: Tensor,
    target: Tensor,
    *,
    activation: str | None,
    mask: Tensor | None = None,
    ignore_index: int | None = None,
    nll: bool = True,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    soft: bool = False,
    hard_counts: bool = False,
    validate: bool | None = None,
    backend: str = "auto",
) -> RegionSums:
    r"""Sums over the voxels of every sample and class, in one differentiable pass.

    With x the logits, p the activated prediction, g the target in [0, 1] and w the voxel weight:
    `tp` = sum w p g, `pred` = sum w p, `pred_sq` = sum w p^2, `target` = sum w g, `target_sq` = sum w g^2,
    `nll_pos` = sum w g (-log p), `nll_neg` = sum w (1 - g) (-log(1 - p)) and `weight` = sum w. Every overlap loss
    and every cross entropy is a formula on these small tensors; autograd differentiates the formula, and one
    elementwise pass takes the gradient to the input. Nothing but the operands is kept for it.

    The sums add: those of patches, accumulation steps or ranks combine by `+`.

    Args:
        input: logits, or probabilities if `activation` is None, of shape (N, C, *spatial) in float16, bfloat16,
            float32 or float64. Any strides; spatial dimensions that do not merge into one (a crop) are copied once.
        target: labels (N, *spatial) or (N, 1, *spatial) of any integer dtype, read as they are; or a dense hard or
            soft target (N, C, *spatial) of any dtype. With C = 1 a map of 0 and 1 is a dense target.
        activation: "softmax" over the classes, "sigmoid" of each, or None for probabilities.
        mask: voxel weights (N, *spatial), (N, 1, *spatial) or (N, C, *spatial), bool or non-negative numbers.
            A voxel of weight 0 is removed: not even a NaN in it counts, and its gradient is 0.
        ignore_index: label whose voxels are removed, see `RegionOptions`.
        nll: whether to compute `nll_pos` and `nll_neg`, which cost a logarithm a voxel.
        label_smoothing: e turns the target of the nll into `(1 - e) g + e / K`, K = C under softmax, else 2.
        gamma: exponent of the focal factor: `(1 - p)^gamma` in `nll_pos`, `p^gamma` in `nll_neg`.
        soft: whether to compute `tp_sq` = sum w p^2 g and `difference` = sum w |p - g|.
        hard_counts: whether to count the hard prediction in the same pass: `counts`, see `RegionSums`.
        validate: whether labels out of range raise. None raises where looking needs no device synchronisation
            (on the CPU); elsewhere the sums of such a sample are NaN.
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Returns:
        `RegionSums`, each field of shape (N, C), float32 (float64 for float64 input). `nll_pos` is None if not
        asked for or without an activation, `nll_neg` also under softmax.

    Raises:
        ValueError: for shapes that do not belong together, labels out of range, or softmax over one class.
        TypeError: for dtypes that have no meaning here.
        fastmed.BackendError: if no backend, or not the one named, runs this.

    Example:
        >>> import torch
        >>> from fastmed.functional import region_sums
        >>> logits = torch.zeros(1, 2, 4, 4, 4)
        >>> labels = torch.ones(1, 4, 4, 4, dtype=torch.uint8)
        >>> sums = region_sums(logits, labels, activation="softmax")
        >>> sums.tp.tolist(), sums.pred.tolist()
        ([[0.0, 32.0]], [[32.0, 32.0]])
    """
    operands = validation.region_input(input, target, mask, activation, ignore_index, label_smoothing, gamma)
    return ops.region_sums(operands, Wanted(nll, soft, hard_counts), validate, backend)


def region_loss(
    operands: RegionInput, loss: RatioLinear, weights: LossWeights, *, reduction: str, backend: str
) -> Tensor:
    """A known loss of operands at hand: scalar ones in one fused operator, the others as a formula on the sums."""
    if reduction != "none":
        return ops.region_loss(operands, loss, weights, None, backend)
    sums = ops.region_sums(operands, Wanted(nll=loss.lambda_nll != 0), None, backend)
    return formulas.ratio_linear_reduced(sums, loss, weights, reduction)
