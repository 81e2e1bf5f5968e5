"""The operators a compiler sees: torch.library schemas, fakes and autograd around the backends."""

from . import counting
from .passes import sums_dtype, unstack
from .region import region_loss, region_passes, region_sums

__all__ = ["counting", "region_loss", "region_passes", "region_sums", "sums_dtype", "unstack"]
