"""kornia's modules, with kornia's arguments and defaults."""

from __future__ import annotations

from kornia import losses as peer
from torch import Tensor

from ..attempt import attempt
from . import fused

__all__ = ["BinaryFocalLossWithLogits", "DiceLoss", "FocalLoss", "TverskyLoss"]


class DiceLoss(peer.DiceLoss):
    """`kornia.losses.DiceLoss` in one pass; arguments and errors are kornia's.

    Attributes:
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Example:
        >>> import torch
        >>> from fastmed.compat.kornia import DiceLoss
        >>> logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
        >>> DiceLoss(average="macro")(logits, torch.ones(1, 4, 4, dtype=torch.int64)).backward()
    """

    backend: str = "auto"

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (N, C, H, W) and labels (N, H, W)."""
        return attempt("DiceLoss", self._fused, super().forward, pred, target)

    def _fused(self, pred: Tensor, target: Tensor) -> Tensor:
        return fused.dice(pred, target, self.average, self.eps, self.weight, self.ignore_index, backend=self.backend)


class TverskyLoss(peer.TverskyLoss):
    """`kornia.losses.TverskyLoss` in one pass; arguments and errors are kornia's.

    Attributes:
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Example:
        >>> import torch
        >>> from fastmed.compat.kornia import TverskyLoss
        >>> logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
        >>> TverskyLoss(alpha=0.3, beta=0.7)(logits, torch.ones(1, 4, 4, dtype=torch.int64)).backward()
    """

    backend: str = "auto"

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (N, C, H, W) and labels (N, H, W)."""
        return attempt("TverskyLoss", self._fused, super().forward, pred, target)

    def _fused(self, pred: Tensor, target: Tensor) -> Tensor:
        return fused.tversky(pred, target, self.alpha, self.beta, self.eps, self.ignore_index, backend=self.backend)


class FocalLoss(peer.FocalLoss):
    """`kornia.losses.FocalLoss` in one pass; `reduction="none"`, a loss for each voxel, takes kornia's own way.

    Attributes:
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Example:
        >>> import torch
        >>> from fastmed.compat.kornia import FocalLoss
        >>> logits = torch.zeros(1, 2, 4, 4, 4, requires_grad=True)
        >>> FocalLoss(alpha=0.5, reduction="mean")(logits, torch.ones(1, 4, 4, 4, dtype=torch.int64)).backward()
    """

    backend: str = "auto"

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (N, C, *spatial) and labels (N, *spatial)."""
        return attempt("FocalLoss", self._fused, super().forward, pred, target)

    def _fused(self, pred: Tensor, target: Tensor) -> Tensor:
        options = (self.alpha, self.gamma, self.reduction, self.weight, self.ignore_index)
        return fused.focal(pred, target, *options, backend=self.backend)


class BinaryFocalLossWithLogits(peer.BinaryFocalLossWithLogits):
    """`kornia.losses.BinaryFocalLossWithLogits` in one pass; `reduction="none"` takes kornia's own way.

    Attributes:
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Example:
        >>> import torch
        >>> from fastmed.compat.kornia import BinaryFocalLossWithLogits
        >>> logits = torch.zeros(1, 1, 4, 4, 4, requires_grad=True)
        >>> BinaryFocalLossWithLogits(alpha=0.25, reduction="mean")(logits, torch.ones(1, 1, 4, 4, 4)).backward()
    """

    backend: str = "auto"

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (N, C, *spatial) and a target of the same shape."""
        return attempt("BinaryFocalLossWithLogits", self._fused, super().forward, pred, target)

    def _fused(self, pred: Tensor, target: Tensor) -> Tensor:
        options = (self.alpha, self.gamma, self.reduction, self.pos_weight, self.weight, self.ignore_index)
        return fused.binary_focal(pred, target, *options, backend=self.backend)
