"""The losses of segmentation_models_pytorch: `from fastmed.compat.smp import losses` in place of `smp.losses`."""

from segmentation_models_pytorch.losses import BINARY_MODE, MULTICLASS_MODE, MULTILABEL_MODE

from .entropy import SoftBCEWithLogitsLoss, SoftCrossEntropyLoss
from .focal import FocalLoss
from .overlap import DiceLoss, JaccardLoss, TverskyLoss

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
]
