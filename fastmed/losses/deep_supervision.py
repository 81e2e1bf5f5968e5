"""Losses of a network with outputs at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import validation
from .base import EagerModule

WEIGHTINGS = ("monai", "nnunet")


def level_weights(weighting: str | Sequence[float], levels: int) -> list[float]:
    """The weight of each of so many outputs, finest first; see `DeepSupervisionLoss`."""
    if not isinstance(weighting, str):
        if len(weighting) != levels:
            raise ValueError(f"weighting: got {len(weighting)} numbers, allowed is one for each of {levels} outputs")
        if not any(weighting):
            raise ValueError(f"weighting: got {list(weighting)}, allowed is at least one number other than 0")
        return [float(weight) for weight in weighting]
    validation.choice("weighting", weighting, WEIGHTINGS)
    if weighting == "monai":
        return [max(0.5**level, 0.0625) for level in range(levels)]
    weights = [0.5**level for level in range(levels)]
    if levels > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


def nearest(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (..., *spatial) read at the voxels nearest to those of a grid of another size.

    The voxel that holds the centre of each cell, as torch's "nearest-exact"; an exact one for any type of labels.
    A few bytes for each voxel of the smaller grid are all that is made.
    """
    for axis, voxels in enumerate(size, start=labels.ndim - len(size)):
        of_labels = labels.shape[axis]
        if of_labels != voxels:
            at = ((torch.arange(voxels, device=labels.device) + 0.5) * (of_labels / voxels)).long()
            labels = labels.index_select(axis, at.clamp(max=of_labels - 1))
    return labels


class DeepSupervisionLoss(EagerModule):
    """A loss of several outputs of a network, at falling resolution, against the labels at full resolution.

    Args:
        loss: the loss of one output, called with output and target, and with the mask if there is one.
        weighting: "nnunet" = 2^-i, 0 for the coarsest, normalised to a sum of 1; "monai" = 2^-i, at least 1/16, not
            normalised; or a number for each output. An output of weight 0 is not looked at.

    Shape:
        outputs: one (N, C, *spatial), or a sequence of them, finest first. Target and mask as `loss` takes them, of
        the size of the finest output or any other: they are read by nearest neighbour at the size of each output.
        A mask (N, C) says which classes a sample is annotated for. `hard_counts`, as the losses over regions take it,
        gets the hard prediction of the finest output.

    Example:
        >>> import torch, fastmed
        >>> loss = fastmed.DeepSupervisionLoss(fastmed.DiceCELoss())
        >>> outputs = [torch.randn(2, 3, size, size, requires_grad=True) for size in (16, 8, 4)]
        >>> loss(outputs, torch.randint(3, (2, 16, 16), dtype=torch.uint8)).backward()
    """

    def __init__(self, loss: nn.Module, weighting: str | Sequence[float] = "nnunet") -> None:
        super().__init__()
        level_weights(weighting, 1 if isinstance(weighting, str) else len(weighting))
        self.loss = loss
        self.weighting = weighting

    def forward(
        self,
        outputs: Tensor | Sequence[Tensor],
        target: Tensor,
        mask: Tensor | None = None,
        hard_counts: Tensor | None = None,
    ) -> Tensor:
        """The weighted sum of the losses of the outputs."""
        levels = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        if not levels:
            raise ValueError("outputs: got none, allowed is one or more")
        values = [
            weight
            * self._of_level(output, target, mask, {} if hard_counts is None or level else {"hard_counts": hard_counts})
            for level, (output, weight) in enumerate(
                zip(levels, level_weights(self.weighting, len(levels)), strict=True)
            )
            if weight
        ]
        return torch.stack(values).sum(0)

    def _of_level(self, output: Tensor, target: Tensor, mask: Tensor | None, counting: dict[str, Tensor]) -> Tensor:
        size = output.shape[2:]
        arguments = [output, nearest(target, size)]
        if mask is not None:
            is_of_classes = mask.ndim == 2 and len(size) > 1
            arguments.append(mask if is_of_classes else nearest(mask, size))
        value: Tensor = self.loss(*arguments, **counting)
        return value
