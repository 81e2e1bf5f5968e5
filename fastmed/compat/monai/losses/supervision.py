"""MONAI's `DeepSupervisionLoss`, for outputs at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai import losses as peer
from torch import Tensor

from ....losses.deep_supervision import nearest
from ...fallback import announce
from .base import Fused

__all__ = ["DeepSupervisionLoss"]


class DeepSupervisionLoss(peer.DeepSupervisionLoss):
    """`monai.losses.DeepSupervisionLoss` with labels of any type, and without a float32 copy of outputs in half.

    Arguments, weights and numbers are MONAI's. The loss inside is the one given: take it from here too. For another
    `interp_mode` than MONAI's "nearest-exact" the target is resized as MONAI does it.

    Example:
        >>> import torch
        >>> from fastmed.compat.monai import DeepSupervisionLoss, DiceCELoss
        >>> loss = DeepSupervisionLoss(DiceCELoss(softmax=True, to_onehot_y=True), weight_mode="two")
        >>> outputs = [torch.randn(2, 3, size, size, requires_grad=True) for size in (16, 8, 4)]
        >>> loss(outputs, torch.randint(3, (2, 1, 16, 16), dtype=torch.uint8)).backward()
    """

    def get_loss(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of one output, with labels read at the voxels nearest to its own."""
        if input.ndim != target.ndim:
            return super().get_loss(input, target)
        if self.interp_mode != "nearest-exact" and input.shape[2:] != target.shape[2:]:
            value = super().get_loss(input, target)
            announce("monai", "DeepSupervisionLoss", f"interp_mode: {self.interp_mode!r} makes another target")
            return value
        return self.loss(input, nearest(target, input.shape[2:]))

    def forward(self, input: Tensor | Sequence[Tensor] | None, target: Tensor) -> Tensor:
        """The weighted sum of the losses of the outputs, finest first, or the loss of a single one."""
        loss: Any = self.loss
        if not isinstance(loss, Fused) or input is None:
            return super().forward(input, target)
        if isinstance(input, Tensor):
            return self.loss(input, target)
        weights = self.get_weights(levels=len(input))
        total = target.new_zeros((), dtype=torch.float32)
        for weight, output in zip(weights, input, strict=False):
            total = total + weight * self.get_loss(output, target)
        return total
