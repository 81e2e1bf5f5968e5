"""The losses and counts of segmentation_models_pytorch by their names and with their numbers, in one pass."""

from .losses import (
    BINARY_MODE,
    MULTICLASS_MODE,
    MULTILABEL_MODE,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    SoftBCEWithLogitsLoss,
    SoftCrossEntropyLoss,
    TverskyLoss,
)
from .metrics import get_stats

__all__ = [
    "BINARY_MODE",
    "MULTICLASS_MODE",
    "MULTILABEL_MODE",
    "DiceLoss",
    "FocalLoss",
    "JaccardLoss",
    "SoftBCEWithLogitsLoss",
    "SoftCrossEntropyLoss",
    "TverskyLoss",
    "get_stats",
]
