"""Public functions: check the arguments, run one pass over the voxels, apply a formula to the sums."""

from .classification import multitask_bce_loss
from .counting import confusion_counts
from .region import region_sums
from .segmentation import dice_bce_loss, dice_ce_loss, soft_dice_loss

__all__ = [
    "confusion_counts",
    "dice_bce_loss",
    "dice_ce_loss",
    "multitask_bce_loss",
    "region_sums",
    "soft_dice_loss",
]
