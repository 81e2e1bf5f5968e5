"""Metrics of segmentation and classification: arithmetic on counts that add over patches, batches and ranks."""

from . import functional
from .scores import Scores

__all__ = ["Scores", "functional"]
