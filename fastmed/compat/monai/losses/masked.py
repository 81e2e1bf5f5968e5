"""MONAI's `MaskedLoss`, around any of the losses here."""

from __future__ import annotations

from monai import losses as peer
from torch import Tensor

from ...fallback import announce
from .base import Fused

__all__ = ["MaskedLoss"]


class MaskedLoss(peer.MaskedLoss):
    """`monai.losses.MaskedLoss`, which says once what its mask costs.

    The mask multiplies logits and labels before the loss sees them: a masked voxel has logits of 0, and counts. The two
    products have the size of logits and labels, and are kept for the backward pass.

    Example:
        >>> import warnings, torch
        >>> from fastmed.compat.monai import DiceLoss, MaskedLoss
        >>> loss = MaskedLoss(DiceLoss, sigmoid=True)
        >>> mask = torch.tensor([1.0, 0.0]).view(1, 1, 2, 1).expand(1, 1, 2, 4)
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     loss(torch.zeros(1, 1, 2, 4), torch.ones(1, 1, 2, 4), mask)
        tensor(0.5000)
    """

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of input (N, C, *spatial) and target, both multiplied by mask (N, 1, *spatial)."""
        value: Tensor = super().forward(input, target, mask)
        if mask is not None and isinstance(self.loss, Fused):
            name = type(self.loss).__name__
            announce("monai", "MaskedLoss", f"mask: multiplies logits and labels before {name} reads them")
        return value
