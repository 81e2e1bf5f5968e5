"""MONAI's own losses replaced by ours wherever MONAI holds them, and put back."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping

from monai import losses as peer

from . import losses as ours

__all__ = ["patch", "unpatch"]

_OURS = {
    getattr(peer, name): getattr(ours, name) for name in ours.__all__ if getattr(peer, name) is not getattr(ours, name)
}
_PEERS = {own: theirs for theirs, own in _OURS.items()}
_MODULES = {own: own.__module__ for own in _PEERS}


def _replace(classes: Mapping[type, type]) -> None:
    """Puts one class for another under every name of every module of MONAI's."""
    for name, module in list(sys.modules.items()):
        if name == "monai" or name.startswith("monai."):
            for attribute, value in list(vars(module).items()):
                if isinstance(value, type) and value in classes:
                    setattr(module, attribute, classes[value])


def _is_patched() -> bool:
    return peer.DiceLoss in _PEERS


def patch() -> contextlib.ExitStack:
    """Replaces MONAI's losses by those of this package, in `monai.losses` and where MONAI has imported them.

    A bundle, a configuration or a script that takes its loss from MONAI afterwards is accelerated without an edit.
    Names that other modules than MONAI's have imported before stay what they are, and a process started anew, as
    Auto3DSeg's training is, needs the call of its own. While patched, the classes give MONAI's modules for theirs:
    bundles find a class by it, and what is pickled loads without this package.

    Returns:
        A context that puts MONAI's losses back where it ends, if this call replaced them. To keep them replaced,
        leave it alone.

    Example:
        >>> import monai
        >>> from fastmed.compat.monai import patch
        >>> with patch():
        ...     print(monai.losses.DiceCELoss(softmax=True).backend)
        auto
        >>> hasattr(monai.losses.DiceCELoss(softmax=True), "backend")
        False
    """
    undo = contextlib.ExitStack()
    if not _is_patched():
        for theirs, own in _OURS.items():
            own.__module__ = theirs.__module__
        _replace(_OURS)
        undo.callback(unpatch)
    return undo


def unpatch() -> None:
    """Puts MONAI's own losses back, also where MONAI has imported ours since; nothing if there is nothing to undo.

    Example:
        >>> from fastmed.compat.monai import patch, unpatch
        >>> _ = patch()
        >>> unpatch()
    """
    _replace(_PEERS)
    for own, module in _MODULES.items():
        own.__module__ = module
