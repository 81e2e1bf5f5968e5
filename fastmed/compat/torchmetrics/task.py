"""The classes that take `task=` and make a metric of another class."""

from __future__ import annotations

import importlib
from typing import Any

from torchmetrics import Metric


class OfTask:
    """Makes of the metric that torchmetrics would make the one of the same name here."""

    # Another class than this one, as torchmetrics' own `__new__` gives.
    def __new__(cls, *args: Any, **kwargs: Any) -> Metric:  # type: ignore[misc]
        """The metric of the task; arguments are those of torchmetrics' class of this name."""
        theirs = super().__new__(cls, *args, **kwargs)
        kind = getattr(importlib.import_module(cls.__module__), type(theirs).__name__)
        ours: Metric = kind.__new__(kind)
        state: Any = theirs.__getstate__()
        ours.__setstate__(state)  # as unpickling does
        return ours
