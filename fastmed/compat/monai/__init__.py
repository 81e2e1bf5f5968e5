"""MONAI's losses and metrics by their names and with their numbers, on one pass over the voxels."""

from .losses import *  # noqa: F403
from .losses import __all__ as _losses
from .metrics import ConfusionMatrixMetric, DiceMetric, MeanIoU, ROCAUCMetric
from .patching import patch, unpatch

__all__ = ["ConfusionMatrixMetric", "DiceMetric", "MeanIoU", "ROCAUCMetric", "patch", "unpatch", *_losses]
