"""The operators a compiler sees: torch.library schemas, fakes and autograd around the backends."""

from .counting import confusion_counts, rank_statistics, score_histogram
from .passes import sums_dtype, unstack
from .region import region_loss, region_passes, region_sums

__all__ = [
    "confusion_counts",
    "rank_statistics",
    "region_loss",
    "region_passes",
    "region_sums",
    "score_histogram",
    "sums_dtype",
    "unstack",
]
