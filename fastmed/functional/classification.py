"""Losses of classification: many binary tasks at once, with rare positives and labels that are missing."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .. import formulas, ops, validation
from ..contract import LossWeights, RatioLinear, Wanted
from ..distributed import all_reduce_count, all_reduce_sums
from ..labels import MissingPolicy
from ..validation import BinaryWeight, ClassWeight


def _loss(
    reduction: str, normalize: str, tasks: int, labels: int | None, balance_pos: bool, balance_neg: bool
) -> RatioLinear:
    """The loss of so many tasks and labels; None stands for a number that only all ranks together know."""
    validation.choice("reduction", reduction, validation.REDUCTIONS)
    validation.choice("normalize", normalize, validation.NORMALIZATIONS)
    scale = 1.0 if reduction == "mean" else float(tasks)
    if normalize == "total" and labels is not None:
        scale /= max(labels, 1)
    return RatioLinear(
        lambda_ratio=0.0,
        lambda_nll=scale,
        nll_mean="task" if normalize == "task" else "elements",
        mean=normalize != "total",
        balance_pos=balance_pos,
        balance_neg=balance_neg,
    )


# A small batch takes no longer than to make and check this anew.
_cached_loss = functools.lru_cache(maxsize=256)(_loss)


def multitask_bce_loss(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    pos_weight: BinaryWeight = None,
    neg_weight: BinaryWeight = None,
    task_weight: ClassWeight = None,
    missing: MissingPolicy = "ignore",
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    reduction: str = "mean",
    normalize: str = "task",
    process_group: object | None = None,
    validate: bool | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""Weighted binary cross entropy of many tasks, each with its own imbalance and its own missing labels.

    The loss of a label of task t with logit x is `pos_weight_t g softplus(-x) + neg_weight_t (1 - g) softplus(x)`.
    With `w_pos = negatives / total` and `w_neg = positives / total` both classes of a task have the same total
    weight, however rare the finding (Wang et al., "ChestX-ray8", 2017); "balanced" takes these numbers from the
    batch in the same pass, `fastmed.class_balance` from a data set.

    Args:
        logits: (N, T) or (N, T, *spatial) in float16, bfloat16, float32 or float64.
        target: labels of the logits' shape in any dtype: 0, 1, soft labels between, NaN = missing and -1 =
            uncertain. Another value is an error that names task and value.
        mask: weights of the labels, (N, T) or (N, T, *spatial), bool or non-negative numbers; 0 removes a label.
        pos_weight: weight of positives, (T,) or one number, or "balanced".
        neg_weight: weight of negatives, (T,) or one number, or "balanced".
        task_weight: weight of each task, (T,) or one number. A mean over tasks still divides by their number.
        missing: what -1 stands for: "ignore", "ones", "zeros" or `fastmed.Smooth(low, high)`, or one of these for
            each task. NaN is always ignored. The gradient of an ignored label is 0.
        label_smoothing: e turns a target g into `(1 - e) g + e / 2`; at least 0, below 1.
        gamma: exponent of the focal factor, `(1 - p)^gamma` for positives and `p^gamma` for negatives (Lin et al.,
            "Focal Loss for Dense Object Detection", 2017).
        reduction: "mean" or "sum" over tasks, or "none" for the loss of each task, (T,).
        normalize: what the loss of a task is divided by: "task" = its own valid labels, as in TorchXRayVision (a
            task without any contributes 0); "valid" = the valid labels of all tasks over T, so that the mean over
            tasks is that over all valid labels; "total" = all labels, as torch's `binary_cross_entropy_with_logits`.
        process_group: sums are added over its ranks first; all ranks get the loss of their union.
        validate: whether an unknown label raises; None = where that needs no device synchronisation. Where it does
            not raise, the loss is NaN.
        backend: "auto" or a name: see `fastmed info`.

    Returns:
        A scalar, or (T,) for "none"; float32 (float64 for float64 logits), at least 0.

    Raises:
        ValueError: for an argument or a label out of its range; the message says what is allowed.
        TypeError: for dtypes that have no meaning here.

    Example:
        >>> import torch
        >>> from fastmed.functional import multitask_bce_loss
        >>> logits = torch.zeros(3, 2, requires_grad=True)
        >>> labels = torch.tensor([[1.0, float("nan")], [0.0, -1.0], [0.0, 1.0]])
        >>> multitask_bce_loss(logits, labels, pos_weight="balanced", neg_weight="balanced").backward()
        >>> [round(by, 4) for by in logits.grad[:, 0].tolist()], (logits.grad[:2, 1] == 0).tolist()
        ([-0.0556, 0.0278, 0.0278], [True, True])
    """
    operands = validation.binary_input(
        logits, target, mask, missing=missing, label_smoothing=label_smoothing, gamma=gamma, pool_batch=True
    )
    balance_pos, balance_neg, pos, neg = validation.binary_weights(pos_weight, neg_weight, task_weight, logits)
    labels = logits.numel() if process_group is None else None
    make = _loss if torch.compiler.is_compiling() else _cached_loss
    loss = make(reduction, normalize, logits.shape[1], labels, balance_pos, balance_neg)
    weights = LossWeights(None, pos, neg)
    if process_group is None and reduction != "none":
        return ops.region_loss(operands, loss, weights, validate, backend)
    sums = ops.region_sums(operands, Wanted(), validate, backend)
    if process_group is not None:
        sums = all_reduce_sums(formulas.pool_batch(sums), process_group)
    per_task = formulas.nll_per_class(sums, loss, weights)
    if normalize == "total" and process_group is not None:
        per_task = per_task / all_reduce_count(logits.numel(), process_group, logits).clamp(min=1)
    return per_task if reduction == "none" else per_task.sum()
