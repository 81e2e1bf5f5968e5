"""Loss and gradient of a small table in one compiled call, for which even a second call would be dear.

Two passes as ever, over memory that is in the cache by then. The gradient is that of the loss itself: half precision,
in which it could underflow before a gradient scaler multiplies it, takes the two calls.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...contract import BASIC, STATISTICS
from .channels_last import gradient_serial, sums_serial
from .finalise import ratio_linear
from .tiles import CHUNKS, GRADIENT, INPUT, MASK, TARGET, UNCERTAIN, combine, compiled


@compiled
def table_step(
    input: Any,
    target: Any,
    mask: Any,
    gradient: Any,
    plan: Any,
    addresses: Any,
    numbers: Any,
    loss: Any,
    region: Any,
    positive: Any,
    negative: Any,
) -> Any:
    """Writes the gradient of the input; returns the loss and the number of targets out of range."""
    layout = plan.copy()
    layout[INPUT], layout[TARGET], layout[MASK], layout[UNCERTAIN], layout[GRADIENT] = addresses
    classes = layout[UNCERTAIN + 1]
    partials = np.empty((1, classes, layout[CHUNKS], STATISTICS + 1))
    sums_serial(input, target, mask, gradient, layout, numbers, partials)
    stacked, by = np.empty((STATISTICS, 1, classes)), np.empty((BASIC, 1, classes), np.float32)
    invalid, value = np.empty(1, np.int64), np.empty((), np.float32)
    combine(partials, stacked, invalid)
    ratio_linear(stacked, loss, region, positive, negative, value, by)
    gradient_serial(input, target, mask, gradient, layout, numbers, by)
    return value[()], invalid[0]
