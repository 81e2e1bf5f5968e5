"""Libraries under comparison whose import asks for more than their losses need."""

from __future__ import annotations

import importlib.util
import sys
import types


def prepare_smp() -> None:
    """Makes the losses and metrics of segmentation_models_pytorch importable without the packages of its networks.

    Stands in for its `__init__` where these are absent, and for nothing else that may be wrong with it.
    """
    name = "segmentation_models_pytorch"
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] not in ("timm", "torchvision", "huggingface_hub", "safetensors", "PIL"):
            raise
        spec = importlib.util.find_spec(name)
        if spec is None or spec.submodule_search_locations is None:
            raise
        package = types.ModuleType(name)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[name] = package
