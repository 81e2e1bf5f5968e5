"""`FocalLoss`: a sigmoid for each class in every mode."""

from __future__ import annotations

import torch
from segmentation_models_pytorch import losses as peer
from torch import Tensor

from .... import formulas, ops, validation
from ....contract import RegionInput, RegionSums, Wanted
from ...attempt import attempt

__all__ = ["FocalLoss"]


def _check_hard(operands: RegionInput, sums: RegionSums) -> None:
    """Raises `ValueError` for soft labels, of which the library takes other factors than the pass.

    The sums tell: between 0 and 1 a number is larger than its square.
    """
    if operands.target.dtype != torch.bool and not torch.equal(sums.target, sums.target_sq):
        raise ValueError("y_true: is soft, and takes gamma and alpha another way than hard labels")


class FocalLoss(peer.FocalLoss):
    """`segmentation_models_pytorch.losses.FocalLoss` in one pass; arguments, modes and errors are the library's.

    `normalized` and `reduced_threshold`, a loss for each voxel (`reduction=None`) and soft labels take the library's
    own way.

    Attributes:
        backend: "auto", or the name of the backend that must run: see `fastmed info`.

    Example:
        >>> import torch
        >>> from fastmed.compat import smp
        >>> loss = smp.FocalLoss(smp.BINARY_MODE, alpha=0.25)
        >>> loss(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4))  # log(2) / 16
        tensor(0.0433)
    """

    backend: str = "auto"

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The loss of y_pred (N, C, *spatial) and y_true (N, *spatial), or (N, C, *spatial) if multilabel."""
        return attempt("FocalLoss", self._fused, super().forward, y_pred, y_true)

    def _fused(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        options = self.focal_loss_fn.keywords
        if options["reduction"] not in ("mean", "sum"):
            raise ValueError(f"reduction: {options['reduction']!r} gives a loss for each voxel")
        if options["normalized"]:
            raise ValueError("normalized: divides by the sum of the focal factors")
        if options["reduced_threshold"] is not None:
            raise ValueError("reduced_threshold: gives voxels on either side of it other focal factors")
        operands = self._operands(y_pred, y_true, options["gamma"])
        sums = ops.region_sums(operands, Wanted(), None, self.backend)
        alpha = options["alpha"]
        if operands.is_dense and (operands.gamma or alpha is not None):
            _check_hard(operands, sums)
        return self._of_sums(formulas.pool_batch(sums), alpha, options["reduction"] == "mean")

    def _operands(self, y_pred: Tensor, y_true: Tensor, gamma: float) -> RegionInput:
        """The operands of a pass, in the shape that the mode gives them."""
        if self.mode == peer.BINARY_MODE:
            if y_pred.numel() != y_true.numel():
                raise ValueError(f"y_true: has {y_true.numel()} voxels, not {y_pred.numel()}")
            y_pred, y_true = (each.reshape(len(y_pred), 1, -1) for each in (y_pred, y_true))
        elif self.mode == peer.MULTILABEL_MODE:
            if self.ignore_index is not None:
                raise ValueError("ignore_index: has no meaning for mode 'multilabel'")
            if y_true.shape != y_pred.shape:
                raise ValueError(f"y_true: has shape {tuple(y_true.shape)}, not {tuple(y_pred.shape)}")
        else:
            expected = (y_pred.shape[0], *y_pred.shape[2:])
            if tuple(y_true.shape) != expected:
                raise ValueError(f"y_true: has shape {tuple(y_true.shape)}, not {expected}")
            if y_pred.shape[1] == 1:
                raise ValueError("mode: 'multiclass' with one class, to which every voxel belongs")
        return validation.region_input(self._logits(y_pred), y_true, None, "sigmoid", self.ignore_index, 0.0, gamma)

    def _logits(self, y_pred: Tensor) -> Tensor:
        if self.from_logits:
            return y_pred
        probability = y_pred.clamp(self.eps, 1.0 - self.eps)
        # Of several classes the library takes the logarithm of a softmax for the logits.
        return probability.log() if self.mode == peer.MULTICLASS_MODE else (probability / (1 - probability)).log()

    def _of_sums(self, sums: RegionSums, alpha: float | None, mean: bool) -> Tensor:
        """The loss from the sums of the batch, each (1, C)."""
        assert sums.nll_pos is not None
        assert sums.nll_neg is not None
        pos, neg = (1.0, 1.0) if alpha is None else (alpha, 1.0 - alpha)
        per_class = (pos * sums.nll_pos + neg * sums.nll_neg).squeeze(0)
        if mean:
            per_class = per_class / sums.weight.squeeze(0)
        if self.class_weights is None:
            return per_class.mean()
        weights = self.class_weights.to(per_class.device)
        return (per_class * weights).sum() / weights.sum()
