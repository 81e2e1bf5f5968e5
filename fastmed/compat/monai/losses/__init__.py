"""MONAI's losses by their names and with their numbers, on one pass over logits and labels.

Each class is a subclass of MONAI's: arguments, attributes, shapes, warnings and errors are MONAI's. What no pass
computes goes MONAI's own way, and says so once (`fastmed.compat.fallback.FallbackWarning`).
"""

from .compound import DiceCELoss, DiceFocalLoss, GeneralizedDiceFocalLoss
from .focal import FocalLoss
from .masked import MaskedLoss
from .overlap import DiceLoss, GeneralizedDiceLoss, MaskedDiceLoss, TverskyLoss
from .supervision import DeepSupervisionLoss
from .unified import AsymmetricUnifiedFocalLoss

__all__ = [
    "AsymmetricUnifiedFocalLoss",
    "DeepSupervisionLoss",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceLoss",
    "FocalLoss",
    "GeneralizedDiceFocalLoss",
    "GeneralizedDiceLoss",
    "MaskedDiceLoss",
    "MaskedLoss",
    "TverskyLoss",
]
