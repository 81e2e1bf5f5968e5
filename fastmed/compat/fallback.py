"""What a drop-in says where it leaves the work to the library that it stands in for."""

from __future__ import annotations

import re
import sys
import warnings

__all__ = ["FallbackWarning", "announce", "announced"]


class FallbackWarning(UserWarning):
    """A loss took the way of the library that it stands in for: the same number, without the speed."""


announced: set[tuple[str, str, str]] = set()
"""Library, loss and reason of what was said; clear it to hear it again."""


def announce(library: str, loss_name: str, reason: str) -> None:
    """Warns with `FallbackWarning`, once a process for each loss of a library and reason.

    The warning names the line that called the loss, outside of this package, torch and the library.

    Args:
        library: that computes instead.
        loss_name: the loss that falls back.
        reason: the option or the argument that has no fused path, and what about it. Its numbers may differ from
            batch to batch, and do not make it another reason.

    Example:
        >>> import warnings
        >>> from fastmed.compat.fallback import announce, announced
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     announced.clear()
        ...     announce("monai", "FocalLoss", "target: 24 labels are out of range")
        ...     announce("monai", "FocalLoss", "target: 17 labels are out of range")
        >>> [(each.category.__name__, str(each.message).split()[0]) for each in caught]
        [('FallbackWarning', 'FocalLoss')]
    """
    key = library, loss_name, re.sub(r"\d+", "", reason)
    if key in announced:
        return
    announced.add(key)
    text = f"{loss_name} has no fused path here and computes as {library} does ({reason})"
    warnings.warn(text, FallbackWarning, stacklevel=_stacklevel({"fastmed", "torch", library}))


def _stacklevel(packages: set[str]) -> int:
    """How far above the caller the first frame is that belongs to none of the packages."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in packages:
        level, frame = level + 1, frame.f_back
    return level
