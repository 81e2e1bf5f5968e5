"""kornia's Dice, focal and Tversky losses by their names and with their numbers, in one pass over the voxels."""

from .functional import binary_focal_loss_with_logits, dice_loss, focal_loss, tversky_loss
from .losses import BinaryFocalLossWithLogits, DiceLoss, FocalLoss, TverskyLoss

__all__ = [
    "BinaryFocalLossWithLogits",
    "DiceLoss",
    "FocalLoss",
    "TverskyLoss",
    "binary_focal_loss_with_logits",
    "dice_loss",
    "focal_loss",
    "tversky_loss",
]
