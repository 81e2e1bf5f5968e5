"""How a drop-in takes the fused path where there is one, and its library's own way where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from typing_extensions import ParamSpec

from .fallback import announce

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def attempt(
    name: str,
    fused: Callable[_Arguments, _Result],
    own: Callable[_Arguments, _Result],
    *arguments: _Arguments.args,
    **options: _Arguments.kwargs,
) -> _Result:
    """What `fused` returns, or else the library's own function, whose errors come before a word about it.

    Args:
        name: the loss, as users know it.
        fused: raises `TypeError` or `ValueError` for what the library is to judge, and so is what is no tensor.
        own: the library's function of the same arguments.
        *arguments: of both.
        **options: of both.
    """
    try:
        return fused(*arguments, **options)
    except (AttributeError, TypeError, ValueError) as refusal:
        reason = str(refusal)
    result = own(*arguments, **options)
    announce(own.__module__.split(".")[0], name, reason)
    return result
