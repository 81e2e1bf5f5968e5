"""Counting predictions against targets."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import validation


def confusion_counts(
    input: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    ignore_index: int | None = None,
    validate: bool | None = None,
    backend: str = "auto",
) -> Tensor:
    """Confusion matrix of every sample, counted in one pass over two label maps.

    Sensitivity, specificity, PPV, NPV, Dice and all that follows is arithmetic on these counts, and counts of
    patches, batches and ranks add.

    Args:
        input: predicted labels (N, *spatial), any integer or bool dtype, any strides.
        target: true labels of the same shape, any integer or bool dtype.
        num_classes: number of classes C, at least 2; labels are 0 to C - 1.
        ignore_index: target label whose voxels are not counted; it need not be a class.
        validate: whether labels out of range raise. None raises where looking needs no device synchronisation
            (on the CPU); elsewhere such voxels are left out of the counts.
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Returns:
        int64 of shape (N, C, C): rows are the target, columns the prediction, as in scikit-learn and torchmetrics.

    Raises:
        ValueError: for different shapes or devices, fewer than two classes, or labels out of range.
        TypeError: for labels of a floating dtype.

    Example:
        >>> import torch
        >>> from fastmed.functional import confusion_counts
        >>> confusion_counts(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1]]), 2).tolist()
        [[[1, 1], [0, 2]]]
    """
    validation.labels("input", input)
    validation.labels("target", target)
    if input.shape != target.shape or input.ndim < 1:
        raise ValueError(
            f"input: got shape {tuple(input.shape)}, allowed is that of the target, {tuple(target.shape)}, "
            "(N, *spatial)"
        )
    if input.device != target.device:
        raise ValueError(f"input: got device {input.device}, allowed is that of the target, {target.device}")
    if num_classes < 2:
        raise ValueError(f"num_classes: got {num_classes}, allowed is 2 or more")
    return torch.ops.fastmed.confusion_counts(  # type: ignore[no-any-return]
        validation.voxels(input, 1),
        validation.voxels(target, 1),
        num_classes,
        ignore_index,
        validate,
        backend,
    )
