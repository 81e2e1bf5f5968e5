"""MONAI's metrics by their names and with their numbers, on one pass over the voxels."""

from .metrics import ConfusionMatrixMetric, DiceMetric, MeanIoU, ROCAUCMetric

__all__ = ["ConfusionMatrixMetric", "DiceMetric", "MeanIoU", "ROCAUCMetric"]
