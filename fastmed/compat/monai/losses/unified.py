"""MONAI's `AsymmetricUnifiedFocalLoss`, a focal Tversky loss beside a focal cross entropy."""

from __future__ import annotations

import warnings
from typing import cast

import torch
from monai import losses as peer
from torch import Tensor

from .... import ops
from ....contract import RegionInput, RegionSums, Wanted, changed
from .base import Fused, ignore_index_of, is_label_map, read, valid_voxels

__all__ = ["AsymmetricUnifiedFocalLoss"]


class AsymmetricUnifiedFocalLoss(Fused, peer.AsymmetricUnifiedFocalLoss):
    """`monai.losses.AsymmetricUnifiedFocalLoss` on the sums of two passes; arguments, shapes and warnings are MONAI's.

    It takes probabilities, whatever MONAI's documentation says of logits. The passes take logits, so that those of
    the probabilities are kept for backward as well.

    Example:
        >>> import torch
        >>> from fastmed.compat.monai import AsymmetricUnifiedFocalLoss
        >>> loss = AsymmetricUnifiedFocalLoss(to_onehot_y=True)
        >>> probabilities = torch.randn(2, 2, 8, 8, requires_grad=True).softmax(1)
        >>> loss(probabilities, torch.randint(2, (2, 1, 8, 8))).backward()
    """

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The loss; y_pred (N, 2, *spatial) or (N, 1, *spatial), y_true of its shape or labels (N, 1, *spatial)."""
        return self._fused_or(super().forward, y_pred, y_true)

    def _fused(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        plain, focal = (
            ops.region_sums(operands, Wanted(), None, self.backend) for operands in self._operands(y_pred, y_true)
        )
        voxels = y_pred[0, 0].numel()
        value = self.weight * self._entropy(plain, focal, voxels) + (1 - self.weight) * self._tversky(plain, voxels)
        self._warn(y_pred.shape[1])
        return value

    def _operands(self, y_pred: Tensor, y_true: Tensor) -> tuple[RegionInput, RegionInput]:
        """What the passes read, without the focal factor and with it."""
        has_labels, ignore_index, mask = is_label_map(y_pred, self.to_onehot_y), ignore_index_of(self), None
        if y_pred.ndim not in (4, 5):
            raise ValueError(f"y_pred: has shape {tuple(y_pred.shape)}")
        if not has_labels and y_true.shape != y_pred.shape:
            raise ValueError(f"y_true: has shape {tuple(y_true.shape)}, not {tuple(y_pred.shape)}")
        if has_labels and y_pred.shape[1] != self.num_classes:
            raise ValueError(f"num_classes: got {self.num_classes} for {y_pred.shape[1]} channels")
        # Next to 1, half precision has no logits.
        probabilities = y_pred.to(ops.sums_dtype(y_pred.dtype))
        if y_pred.shape[1] == 1:
            if ignore_index is not None:
                mask, ignore_index = valid_voxels(y_true, ignore_index), None
            # Not the negative logit: next to 1, numbers are too far apart for the clamp to be the same on both sides.
            probabilities = torch.cat([1 - probabilities, probabilities], 1)
            y_true = torch.cat([1 - y_true, y_true], 1)
        logits = torch.logit(probabilities, self.asy_focal_loss.epsilon)
        if not has_labels and ignore_index_of(self) is None and y_true.max() > self.num_classes - 1:
            raise ValueError(f"y_true: holds more than {self.num_classes - 1}")
        plain = read(logits, y_true, "sigmoid", has_labels, ignore_index=ignore_index, mask=mask)
        return plain, changed(plain, gamma=self.asy_focal_loss.gamma)

    def _entropy(self, plain: RegionSums, focal: RegionSums, voxels: int) -> Tensor:
        """The cross entropy of the foreground, and that of the background with the focal factor."""
        delta = self.asy_focal_loss.delta
        background, foreground = cast(Tensor, focal.nll_pos)[:, 0], cast(Tensor, plain.nll_pos)[:, 1]
        nll = (1 - delta) * background + delta * foreground
        return nll.mean() / (2 * voxels)

    def _tversky(self, plain: RegionSums, voxels: int) -> Tensor:
        """The Tversky loss of the background, and that of the foreground to a power."""
        options = self.asy_focal_tversky_loss
        # MONAI sets the prediction of ignored voxels to 0, which it then raises to epsilon.
        pred = plain.pred + options.epsilon * (voxels - plain.weight)
        fp, fn = pred - plain.tp, plain.target - plain.tp
        tversky = (plain.tp + options.epsilon) / (
            plain.tp + options.delta * fn + (1 - options.delta) * fp + options.epsilon
        )
        return torch.stack([1 - tversky[:, 0], (1 - tversky[:, 1]) ** (1 - options.gamma)], -1).mean()

    def _warn(self, channels: int) -> None:
        if channels == 1 and self.to_onehot_y:
            warnings.warn("single channel prediction, `to_onehot_y=True` ignored.", stacklevel=4)
        if channels == 1 and ignore_index_of(self) is not None:
            warnings.warn(
                "single channel prediction, `ignore_index` is applied to label-encoded targets.", stacklevel=4
            )
