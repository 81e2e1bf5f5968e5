"""Loss and gradient of a small table in one compiled call, for which even a second call would be dear.

Two passes as ever, over memory that is in the cache by then. The gradient is that of the loss itself: half precision,
in which it could underflow before a gradient scaler multiplies it, takes the two calls.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...contract import BASIC, STATISTICS
from .channels_last import chunk_gradient, chunk_sums
from .compilation import compiled
from .finalise import ratio_linear
from .job import CHUNKS, CLASSES, GRADIENT, INPUT, ITEMS, MASK, TARGET, UNCERTAIN
from .tiles import combine


@compiled
def table_step(plan: Any, addresses: Any, loss: Any, region: Any, positive: Any, negative: Any) -> Any:
    """Writes the gradient of the input; returns the loss and the number of targets out of range."""
    job = plan.copy()
    job[INPUT], job[TARGET], job[MASK], job[UNCERTAIN], job[GRADIENT] = addresses
    classes = job[CLASSES]
    partials = np.empty((1, classes, job[CHUNKS], STATISTICS + 1))
    for item in range(job[ITEMS]):
        chunk_sums(job, item, partials)
    stacked, by = np.empty((STATISTICS, 1, classes)), np.empty((BASIC, 1, classes), np.float32)
    invalid, value = np.empty(1, np.int64), np.empty((), np.float32)
    combine(partials, stacked, invalid)
    ratio_linear(stacked, loss, region, positive, negative, value, by)
    for item in range(job[ITEMS]):
        chunk_gradient(job, item, by)
    return value[()], invalid[0]
