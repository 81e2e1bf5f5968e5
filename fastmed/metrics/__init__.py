"""Metrics of segmentation and classification: arithmetic on counts that add over patches, batches and ranks."""

from . import functional

__all__ = ["functional"]
