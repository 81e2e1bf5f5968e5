"""Fused losses and metrics for medical imaging: the same numbers, several times faster."""

from importlib.metadata import version as _version

from . import functional, sampling
from .contract import RegionSums
from .dispatch import BackendError
from .labels import Smooth, class_balance
from .losses import DiceBCELoss, DiceCELoss, DiceLoss, MultiTaskBCELoss

__version__ = _version("fastmed")

__all__ = [
    "BackendError",
    "DiceBCELoss",
    "DiceCELoss",
    "DiceLoss",
    "MultiTaskBCELoss",
    "RegionSums",
    "Smooth",
    "__version__",
    "class_balance",
    "functional",
    "sampling",
]
