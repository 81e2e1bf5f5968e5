"""Loss and gradient of a small table in one compiled call, for which even a second call would be dear.

Two passes as ever, over memory that is in the cache by then. The gradient is that of the loss itself: half precision,
in which it could underflow before a gradient scaler multiplies it, takes the two calls.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...contract import STATISTICS
from .channels_last import gradient_serial, sums_serial
from .finalise import ratio_linear
from .tiles import combine, compiled


@compiled
def table_step(
    input: Any,
    target: Any,
    mask: Any,
    gradient: Any,
    layout: Any,
    numbers: Any,
    loss: Any,
    region: Any,
    positive: Any,
    negative: Any,
    partials: Any,
    value: Any,
) -> int:
    """Writes the loss, and the gradient of the input; returns the number of targets out of range."""
    sums_serial(input, target, mask, gradient, layout, numbers, partials)
    samples, classes, _, _ = partials.shape
    stacked, by = np.empty((STATISTICS, samples, classes)), np.empty((STATISTICS, samples, classes), np.float32)
    invalid = np.empty(samples, np.int64)
    combine(partials, stacked, invalid)
    ratio_linear(stacked, loss, region, positive, negative, value, by)
    gradient_serial(input, target, mask, gradient, layout, numbers, by)
    return int(invalid.sum())
