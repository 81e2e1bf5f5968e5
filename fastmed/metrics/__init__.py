"""Metrics of segmentation and classification: arithmetic on counts that add over patches, batches and ranks.

`functional` holds them as pure functions of counts. The other classes sum the counts of an evaluation run as a
`torchmetrics.Metric`; that library is loaded when the first of them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import functional
from .optional import require
from .scores import Scores

if TYPE_CHECKING:
    from .calibration import CalibrationError
    from .confusion import ConfusionMatrix
    from .curves import AUROC, ROC
    from .diagnostic import DiagnosticScores
    from .segmentation import SegmentationScores

__all__ = [
    "AUROC",
    "ROC",
    "CalibrationError",
    "ConfusionMatrix",
    "DiagnosticScores",
    "Scores",
    "SegmentationScores",
    "functional",
]

_STATEFUL = {
    "AUROC": "curves",
    "CalibrationError": "calibration",
    "ConfusionMatrix": "confusion",
    "DiagnosticScores": "diagnostic",
    "ROC": "curves",
    "SegmentationScores": "segmentation",
}


def __getattr__(name: str) -> Any:
    if name not in _STATEFUL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("torchmetrics", f"{__name__}.{name}", "metrics")
    return getattr(importlib.import_module(f".{_STATEFUL[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
