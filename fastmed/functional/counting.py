"""Counting predictions against targets."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .. import ops, validation


def confusion_counts(
    input: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    threshold: Tensor | Sequence[float] | float | None = None,
    pool: str = "sample",
    validate: bool | None = None,
    backend: str = "auto",
) -> Tensor:
    """Confusion matrix of every sample, counted in one pass over label maps or scores.

    Sensitivity, specificity, PPV, NPV, Dice and all that follows is arithmetic on these counts, and counts of
    patches, batches and ranks add. Nothing but the counts is allocated: scores become labels as they are read.

    Args:
        input: one of

            - predicted labels (N, *spatial) of any integer or bool dtype;
            - floating scores (N, C, *spatial), logits or probabilities, whose largest gives the label as in
              `torch.argmax`: of equal scores the lowest class, and NaN before any number;
            - with a `threshold`, scores (N, C, *spatial) of any dtype, for classes that do not exclude one another.

            Any strides; spatial dimensions that do not merge into one (a crop) are copied once.
        target: true labels (N, *spatial) of any integer or bool dtype, beside scores also (N, 1, *spatial). With a
            `threshold` 0 or 1 for each class, (N, C, *spatial) of any dtype, where NaN and -1 stand for a missing
            label, which is not counted.
        num_classes: number of classes C, at least 2 (1 with a threshold); labels are 0 to C - 1.
        ignore_index: target value whose voxels are not counted; it need not be a class.
        mask: (N, *spatial) or (N, 1, *spatial), with a `threshold` also (N, C, *spatial), bool or numbers: where it
            is 0 nothing is counted, whatever input and target hold there.
        threshold: a voxel is positive where `input > threshold`, in the units of the input; one number, or one for
            each class, (C,).
        pool: "sample" for one matrix a sample, "batch" for their sum.
        validate: whether labels out of range raise. None raises where looking needs no device synchronisation
            (on the CPU); elsewhere such voxels are left out of the counts.
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Returns:
        int64 of shape (N, C, C): rows are the target, columns the prediction, as in scikit-learn and torchmetrics.
        With a threshold (N, C, 4): true negatives, false positives, false negatives and true positives of each
        class. Without N if `pool` is "batch".

    Raises:
        ValueError: for shapes or devices that do not belong together, too few classes, a threshold that is not
            finite, or labels out of range.
        TypeError: for dtypes that have no meaning here.
        fastmed.BackendError: if no backend, or not the one named, runs this.

    Example:
        >>> import torch
        >>> from fastmed.functional import confusion_counts
        >>> confusion_counts(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1]]), 2).tolist()
        [[[1, 1], [0, 2]]]
        >>> logits = torch.tensor([[[2.0, -1.0, 0.5, -3.0]]])
        >>> confusion_counts(logits, torch.tensor([[[1, 1, 0, 0]]]), 1, threshold=0.0).tolist()
        [[[1, 1, 1, 1]]]
    """
    operands = validation.count_input(
        input, target, num_classes, ignore_index=ignore_index, mask=mask, threshold=threshold, pool=pool
    )
    return ops.confusion_counts(operands, validate, backend)
