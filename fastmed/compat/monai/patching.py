"""MONAI's own losses replaced by ours wherever MONAI holds them, and put back."""

from __future__ import annotations

import contextlib
import copyreg
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai import losses as peer

from . import losses as ours

__all__ = ["patch", "unpatch"]

_OURS = {
    getattr(peer, name): getattr(ours, name) for name in ours.__all__ if getattr(peer, name) is not getattr(ours, name)
}
_PEERS = {own: theirs for theirs, own in _OURS.items()}
_MODULES = {own: own.__module__ for own in _PEERS}
# Python runs the `sitecustomize` of this folder first, where PYTHONPATH names it.
_CHILDREN = str(Path(__file__).with_name("children"))

# Each context that is open, and whether it reaches child processes.
_open: dict[object, bool] = {}


def _replace(classes: Mapping[type, type]) -> None:
    """Puts one class for another under every name of every module of MONAI's."""
    for name, module in list(sys.modules.items()):
        if name == "monai" or name.startswith("monai."):
            for attribute, value in list(vars(module).items()):
                if isinstance(value, type) and value in classes:
                    setattr(module, attribute, classes[value])


def _reduce(loss: Any) -> tuple[Any, ...]:
    """What pickle saves of a loss of MONAI's own: the class that has its name now, and its state."""
    # Of protocol 2 and above, pickle checks that the class is that of the loss.
    reduced: Any = object.__reduce_ex__(loss, 0)
    rebuild, (theirs, *arguments), *state = reduced
    return rebuild, (_OURS[theirs], *arguments), *state


def _put_ours() -> None:
    for theirs, own in _OURS.items():
        own.__module__ = theirs.__module__
        copyreg.pickle(theirs, _reduce)
    _replace(_OURS)


def _put_theirs() -> None:
    _replace(_PEERS)
    for own, theirs in _PEERS.items():
        own.__module__ = _MODULES[own]
        copyreg.dispatch_table.pop(theirs, None)


def _reach_children(reach: bool) -> None:
    paths = os.environ["PYTHONPATH"].split(os.pathsep) if os.environ.get("PYTHONPATH") else []
    paths = [_CHILDREN] * reach + [path for path in paths if path != _CHILDREN]
    if paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    else:
        os.environ.pop("PYTHONPATH", None)


def _close(context: object) -> None:
    if context in _open:
        reached = _open.pop(context)
        if reached and not any(_open.values()):
            _reach_children(False)
        if not _open:
            _put_theirs()


def patch(*, children: bool = False) -> contextlib.ExitStack:
    """Replaces MONAI's losses by those of this package, in `monai.losses` and where MONAI has imported them.

    A bundle, a configuration or a script that takes its loss from MONAI afterwards is accelerated without an edit.
    Names that other modules than MONAI's have imported before stay what they are. While patched, the classes give
    MONAI's modules for theirs: bundles find a class by it, and what is pickled loads without this package. A loss that
    MONAI made before is pickled and copied under the name of its class too, which the fused one has now; it is no
    instance of it, `isinstance(loss, monai.losses.DiceLoss)` is False, and pickle refuses MONAI's class itself.

    Args:
        children: whether Python processes that this one starts are patched as well, as soon as they import MONAI:
            Auto3DSeg trains in such. `PYTHONPATH` tells them, so that a process started without the environment, or
            with `python -I` or `-E`, is not. `python -m fastmed.compat.monai` does the same for a command.

    Returns:
        A context. MONAI's losses are put back when all contexts have ended, in any order. To keep them replaced, leave
        it alone.

    Example:
        >>> import monai
        >>> from fastmed.compat.monai import patch
        >>> with patch():
        ...     print(monai.losses.DiceCELoss(softmax=True).backend)
        auto
        >>> hasattr(monai.losses.DiceCELoss(softmax=True), "backend")
        False
    """
    context = object()
    undo = contextlib.ExitStack()
    undo.callback(_close, context)
    if not _open:
        _put_ours()
    _open[context] = children
    if children:
        _reach_children(True)
    return undo


def unpatch() -> None:
    """Puts MONAI's own losses back, also where MONAI has imported ours since, whatever contexts are open.

    Example:
        >>> from fastmed.compat.monai import patch, unpatch
        >>> _ = patch()
        >>> unpatch()
    """
    for context in list(_open):
        _close(context)
