"""Metrics of segmentation and classification: arithmetic on counts that add over patches, batches and ranks.

`functional` holds them as pure functions of counts. The classes sum the counts of an evaluation run on
`torchmetrics.Metric`, which is loaded when the first of them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import functional

if TYPE_CHECKING:
    from .calibration import CalibrationError
    from .confusion import ConfusionMatrix
    from .curves import AUROC, ROC
    from .diagnostic import DiagnosticScores
    from .segmentation import SegmentationScores

_MODULES = {
    "AUROC": "curves",
    "CalibrationError": "calibration",
    "ConfusionMatrix": "confusion",
    "DiagnosticScores": "diagnostic",
    "ROC": "curves",
    "SegmentationScores": "segmentation",
}

__all__ = [
    "AUROC",
    "ROC",
    "CalibrationError",
    "ConfusionMatrix",
    "DiagnosticScores",
    "SegmentationScores",
    "functional",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f".{_MODULES[name]}", __name__)
    except ModuleNotFoundError as error:
        if error.name != "torchmetrics":
            raise
        message = f"fastmed.metrics.{name} needs torchmetrics: pip install 'fastmed[metrics]'"
        raise ImportError(message, name=error.name) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
