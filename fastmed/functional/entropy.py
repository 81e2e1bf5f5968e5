"""Cross entropies of segmentation, plain and focal, from one pass over the voxels."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from .. import validation
from ..contract import LossWeights, RatioLinear
from ..validation import ClassWeight, class_weights
from .options import Options, RegionOptions
from .terms import OVERLAP, Pass, Term, evaluate, ratio_linear_term


def is_dense(input: Tensor, target: Tensor) -> bool:
    """Whether a target has a channel for each class."""
    return input.ndim == target.ndim and input.shape == target.shape


def _no_pooling(options: Options) -> None:
    options.check()
    if not options.include_background:
        raise ValueError(
            "include_background: got False, but a cross entropy has all classes; allowed is True "
            "(a class_weight of 0 leaves a class out)"
        )
    if options.reduction == "none" and options.process_group is not None:
        raise ValueError("reduction: got 'none' with a process_group, which has no loss of a sample; allowed is 'mean'")


def cross_entropy_terms(
    input: Tensor, target: Tensor, options: Options, *, label_smoothing: float = 0.0, gamma: float = 0.0
) -> list[Term]:
    """The terms of `cross_entropy_loss`, or of a focal loss under softmax."""
    _no_pooling(options)
    loss = RatioLinear(
        lambda_ratio=0.0,
        lambda_nll=1.0,
        nll_mean="voxels" if is_dense(input, target) or gamma else "target",
        mean=options.reduction != "sum",
    )
    reads = Pass("softmax", OVERLAP, label_smoothing=label_smoothing, gamma=gamma)
    return [ratio_linear_term(reads, loss, LossWeights(nll_pos=options.weights(input)), options)]


def binary_focal_terms(
    input: Tensor, options: Options, *, gamma: float = 2.0, alpha: ClassWeight = None, label_smoothing: float = 0.0
) -> list[Term]:
    """The terms of `focal_loss` under a sigmoid."""
    _no_pooling(options)
    loss = RatioLinear(lambda_ratio=0.0, lambda_nll=1.0, nll_mean="elements", mean=options.reduction != "sum")
    weights = options.weights(input)
    positives = class_weights("alpha", alpha, input)
    pos, neg = weights, weights
    if positives is not None:
        negatives = 1.0 - positives
        pos = positives if weights is None else weights * positives
        neg = negatives if weights is None else weights * negatives
    reads = Pass("sigmoid", OVERLAP, label_smoothing=label_smoothing, gamma=gamma)
    return [ratio_linear_term(reads, loss, LossWeights(None, pos, neg), options)]


def focal_terms(
    input: Tensor,
    target: Tensor,
    options: Options,
    *,
    activation: str = "softmax",
    gamma: float = 2.0,
    alpha: ClassWeight = None,
    label_smoothing: float = 0.0,
) -> list[Term]:
    """The terms of `focal_loss`."""
    validation.choice("activation", activation, ("softmax", "sigmoid"))
    if activation == "sigmoid":
        return binary_focal_terms(input, options, gamma=gamma, alpha=alpha, label_smoothing=label_smoothing)
    if alpha is not None:
        raise ValueError(f"alpha: got {alpha!r} with activation='softmax', which has class_weight; allowed is None")
    return cross_entropy_terms(input, target, options, gamma=gamma, label_smoothing=label_smoothing)


def cross_entropy_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    **options: Unpack[RegionOptions],
) -> Tensor:
    r"""Cross entropy of softmax outputs, as torch's `cross_entropy` but with voxel weights, and 0 where all is removed.

    With labels `sum_c v_c nll_c / sum_c v_c target_c`, v the `class_weight`; with a dense target the sum divided by
    the weight of the voxels. Only logits and labels are kept for the backward pass, not their log-softmax.

    Args:
        input: logits (N, C, *spatial), C at least 2.
        target: integer labels (N, *spatial) or (N, 1, *spatial), or a dense target (N, C, *spatial).
        mask: voxel weights (N, *spatial), (N, 1, *spatial) or (N, C, *spatial), or one for each sample and class,
            (N, C); 0 removes a voxel.
        label_smoothing: e turns a target g into `(1 - e) g + e / C`; at least 0, below 1.
        **options: those of all losses over regions, see `RegionOptions`.

    Returns:
        A scalar, or (N,) for reduction "none"; float32 (float64 for float64 input), at least 0.

    Raises:
        ValueError: for an argument out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import cross_entropy_loss
        >>> logits, labels = torch.zeros(1, 4, 8, 8, 8), torch.randint(4, (1, 8, 8, 8), dtype=torch.uint8)
        >>> round(cross_entropy_loss(logits, labels).item(), 4)  # log 4
        1.3863
    """
    chosen = Options(**options)
    terms = cross_entropy_terms(input, target, chosen, label_smoothing=label_smoothing)
    return evaluate(terms, input, target, mask, chosen)


def focal_loss(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    activation: str = "softmax",
    gamma: float = 2.0,
    alpha: ClassWeight = None,
    label_smoothing: float = 0.0,
    **options: Unpack[RegionOptions],
) -> Tensor:
    r"""Focal loss: a cross entropy to which voxels that are right already add little.

    Under softmax `sum_c v_c g_c (1 - p_c)^gamma (-log p_c)` of each voxel, averaged over voxels; under sigmoid
    `alpha g (1 - p)^gamma (-log p) + (1 - alpha) (1 - g) p^gamma (-log(1 - p))` of each voxel and class, averaged over
    both (Lin et al., "Focal Loss for Dense Object Detection", 2017). For gamma between 0 and 1 the loss has
    an infinite slope where p = 1, and float32 holds fewer digits there.

    Args:
        input: logits (N, C, *spatial).
        target: integer labels (N, *spatial) or (N, 1, *spatial), or a dense target (N, C, *spatial).
        mask: voxel weights (N, *spatial), (N, 1, *spatial) or (N, C, *spatial), or one for each sample and class,
            (N, C); 0 removes a voxel.
        activation: "softmax" or "sigmoid".
        gamma: exponent, at least 0; at 0 the loss is the cross entropy.
        alpha: share of the positives in each class, (C,) or one number, 0 to 1, under sigmoid; None for no weights.
        label_smoothing: e turns a target g into `(1 - e) g + e / K`, K = C under softmax, 2 under sigmoid.
        **options: those of all losses over regions, see `RegionOptions`.

    Returns:
        A scalar, or (N,) for reduction "none"; float32 (float64 for float64 input), at least 0.

    Raises:
        ValueError: for an argument out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import focal_loss
        >>> logits, labels = torch.zeros(1, 4, 8, 8, 8), torch.randint(4, (1, 8, 8, 8), dtype=torch.uint8)
        >>> round(focal_loss(logits, labels).item(), 4)  # (3 / 4)^2 log 4
        0.7798
    """
    chosen = Options(**options)
    terms = focal_terms(
        input, target, chosen, activation=activation, gamma=gamma, alpha=alpha, label_smoothing=label_smoothing
    )
    return evaluate(terms, input, target, mask, chosen)
