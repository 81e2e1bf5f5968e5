"""What a drop-in says where it leaves the work to the library that it stands in for."""

from __future__ import annotations

import functools
import warnings

__all__ = ["FallbackWarning", "announce"]


class FallbackWarning(UserWarning):
    """A loss took the way of the library that it stands in for: the same number, without the speed."""


@functools.cache
def announce(loss_name: str, reason: str) -> None:
    """Warns with `FallbackWarning`, once a process for each loss and reason.

    Args:
        loss_name: the loss that falls back.
        reason: the option or the argument that has no fused path, and what about it.

    Example:
        >>> import warnings
        >>> from fastmed.compat.fallback import announce
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     announce("FocalLoss", "reduction: 'none' gives a loss for each voxel")
        ...     announce("FocalLoss", "reduction: 'none' gives a loss for each voxel")
        >>> [(each.category.__name__, str(each.message).split()[0]) for each in caught]
        [('FallbackWarning', 'FocalLoss')]
    """
    warnings.warn(
        f"{loss_name} has no fused path here and computes as its own library does ({reason})",
        FallbackWarning,
        stacklevel=3,
    )
