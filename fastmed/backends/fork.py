"""Whether this process is the fork of one whose threads it cannot use.

Pools of threads do not survive a fork, and GNU's OpenMP waits for ever for those that are gone.
"""

from __future__ import annotations

import os

_state = {"forked": False}


def _after_fork() -> None:
    _state["forked"] = True


def watch() -> None:
    """From now on, notices forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


def happened() -> bool:
    """Whether this process was forked since."""
    return _state["forked"]
