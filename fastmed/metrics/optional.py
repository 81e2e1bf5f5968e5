"""Packages that only some figures and reports need."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, user: str, extra: str) -> Any:
    """Import a module, or say who needs its package and how to install it.

    Args:
        module: full name, as "scipy.special".
        user: what needs it, as "proportion_interval".
        extra: the extra of fastmed that brings it.

    Returns:
        The module.

    Raises:
        ModuleNotFoundError: if the package is not installed.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        message = f"{user} needs {package}: pip install 'fastmed[{extra}]'"
        raise ModuleNotFoundError(message, name=package) from error
