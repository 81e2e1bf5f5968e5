"""The losses and counts of segmentation_models_pytorch by their names and with their numbers, in one pass."""

try:
    import segmentation_models_pytorch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"fastmed.compat.smp needs segmentation_models_pytorch and all that it imports, of which there is no "
        f"{error.name!r}: pip install 'fastmed[smp]'",
        name=error.name,
    ) from error

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
