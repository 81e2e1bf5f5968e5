"""The options that every loss over regions takes, with one meaning."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from typing_extensions import TypedDict

from .. import formulas, validation
from ..validation import ClassWeight


class RegionOptions(TypedDict, total=False):
    """Options that every loss over regions takes, by keyword.

    Attributes:
        include_background: whether class 0 enters the overlap; a softmax always runs over all classes, and a cross
            entropy always has all of them. Default True.
        pool: "sample" (default) for an overlap of each sample, "batch" for one over all samples.
        class_weight: weight of each class (C,), or one number; the mean divides by the count, as MONAI's does.
        reduction: "mean" (default) or "sum" over samples and classes, or "none": (N, C') for an overlap loss ((1, C')
            pooled), (N,) for a compound one.
        ignore_index: label whose voxels are removed. Of a target with a channel for each class, those whose channel of
            this class holds 1; where there is no such class, the elements of this value (as -1 or 255).
        process_group: sums are added over its ranks first, with `pool="batch"`; all ranks get the loss of the union of
            their batches, which may differ in size, or be empty.
        slab_group: ranks that hold a slab each of the same N samples, split along any spatial axis: sums of each sample
            are added over them first; all ranks get the loss of the whole volumes. Not with `process_group`, which
            adds slabs as well where the overlap is pooled.
        hard_counts: int64 (C, 4) on the input's device, or None. tn, fp, fn and tp of the hard prediction of this
            rank are added to it in the same pass: the Dice of an epoch costs no second look at the voxels. A module
            takes it with a call, beside the target.
        validate: whether labels out of range raise; None (default) = where that needs no device synchronisation.
        backend: "auto" (default) or a name: see `fastmed info`.

    Example:
        >>> import torch
        >>> from fastmed.functional import RegionOptions, jaccard_loss
        >>> options: RegionOptions = {"include_background": False, "ignore_index": 255}
        >>> logits, labels = torch.zeros(1, 2, 4), torch.tensor([[0, 1, 1, 255]])
        >>> jaccard_loss(logits, labels, **options).shape
        torch.Size([])
    """

    include_background: bool
    pool: str
    class_weight: ClassWeight
    reduction: str
    ignore_index: int | None
    process_group: object | None
    slab_group: object | None
    hard_counts: Tensor | None
    validate: bool | None
    backend: str


class Options(NamedTuple):
    """`RegionOptions` with their defaults."""

    include_background: bool = True
    pool: str = "sample"
    class_weight: ClassWeight = None
    reduction: str = "mean"
    ignore_index: int | None = None
    process_group: object | None = None
    slab_group: object | None = None
    hard_counts: Tensor | None = None
    validate: bool | None = None
    backend: str = "auto"

    def check(self) -> None:
        """Raises `ValueError` for an option out of its range, or two that do not go together."""
        validation.choice("pool", self.pool, validation.POOLS)
        validation.choice("reduction", self.reduction, validation.REDUCTIONS)
        if self.process_group is not None and self.pool != "batch":
            raise ValueError(f"process_group: needs pool='batch', got pool={self.pool!r}")
        if self.process_group is not None and self.slab_group is not None:
            raise ValueError("slab_group: got one beside a process_group; allowed is one of the two")

    @property
    def is_distributed(self) -> bool:
        """Whether the sums are those of several ranks."""
        return self.process_group is not None or self.slab_group is not None

    def first_class(self, input: Tensor) -> int:
        """The first class that enters the overlap."""
        if self.include_background:
            return 0
        if input.shape[1] == 1:
            raise ValueError("include_background: got False with one class, which leaves none; allowed is True")
        return 1

    def weights(self, input: Tensor) -> Tensor | None:
        """The weights of the classes on the device of the input, (C,)."""
        return validation.class_weights("class_weight", self.class_weight, input)

    def reduce(self, values: Tensor) -> Tensor:
        """The mean or sum of all values, or the values."""
        if self.reduction == "none":
            return values
        return formulas.mean(values) if self.reduction == "mean" else values.sum()
