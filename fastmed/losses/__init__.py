"""Losses as modules: they hold the configuration, the mathematics is in `fastmed.functional`."""

from .classification import MultiTaskBCELoss
from .compound import CompoundLoss, DiceBCELoss, DiceCELoss, DiceFocalLoss, UnifiedFocalLoss
from .deep_supervision import DeepSupervisionLoss
from .entropy import CrossEntropyLoss, FocalLoss
from .overlap import (
    DiceLoss,
    GeneralizedDiceLoss,
    JaccardLoss,
    LogCoshDiceLoss,
    MCCLoss,
    SensitivitySpecificityLoss,
    TverskyLoss,
)

__all__ = [
    "CompoundLoss",
    "CrossEntropyLoss",
    "DeepSupervisionLoss",
    "DiceBCELoss",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceLoss",
    "FocalLoss",
    "GeneralizedDiceLoss",
    "JaccardLoss",
    "LogCoshDiceLoss",
    "MCCLoss",
    "MultiTaskBCELoss",
    "SensitivitySpecificityLoss",
    "TverskyLoss",
    "UnifiedFocalLoss",
]
