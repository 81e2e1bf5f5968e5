"""What Python runs first where `PYTHONPATH` names this folder: MONAI, once imported, holds the fused losses.

The `sitecustomize` that this one hides runs as well.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


class _Patching:
    """Finds MONAI and its drop-ins as the other finders do, and patches when the import of both is done."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in ("monai", "fastmed.compat.monai"):
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not cls)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = functools.partial(_exec_and_patch, loader.exec_module)
        return spec


def _exec_and_patch(exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
    exec_module(module)
    if module.__name__ == "monai":
        # Nothing where this import asked for MONAI: it is not done yet.
        import fastmed.compat.monai  # noqa: F401
    else:
        module.patch(children=True)


def _run_the_hidden_one() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    elsewhere = [folder for folder in sys.path if os.path.abspath(folder) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is not None and spec.loader is not None:
        sys.modules["sitecustomize"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


sys.meta_path.insert(0, _Patching)
_run_the_hidden_one()
