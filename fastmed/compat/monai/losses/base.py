"""What MONAI's losses have in common: how they read their tensors, and what happens where no pass computes them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from .... import validation
from ....contract import RegionInput
from ...attempt import attempt

# MONAI's other reductions are errors, which it raises itself.
_REDUCTIONS = ("mean", "sum", "none")


class Fused:
    """A loss of MONAI's in one pass over the voxels, and MONAI's own way where there is no such pass.

    Attributes:
        backend: "auto", or the name of the backend that must run: see `fastmed info`.
    """

    backend: str = "auto"

    def _fused(self, *tensors: Any) -> Tensor:
        """The loss; `TypeError` or `ValueError` for what MONAI is to judge."""
        raise NotImplementedError

    def _fused_or(self, forward: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
        """The loss of the pass, or else of MONAI's own `forward`."""
        return attempt(type(self).__name__, self._fused_of_plain, forward, *tensors)

    def _fused_of_plain(self, *tensors: Tensor | None) -> Tensor:
        return self._fused(*map(_plain, tensors))


def _plain(tensor: Tensor | None) -> Tensor | None:
    """The tensor without the metadata of an image, which would follow it through every operation."""
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def is_label_map(input: Tensor, to_onehot_y: bool) -> bool:
    """Whether the target holds one label a voxel: MONAI takes the target of a single channel as it is."""
    return to_onehot_y and input.shape[1] > 1


def first_class(input: Tensor, include_background: bool) -> int:
    """The first class that counts."""
    return 0 if include_background or input.shape[1] == 1 else 1


def ignore_index_of(loss: Any) -> int | None:
    """The option of recent versions of MONAI."""
    return getattr(loss, "ignore_index", None)


def has_soft_label(loss: Any) -> bool:
    """The option of recent versions of MONAI."""
    return getattr(loss, "soft_label", False)


def check_reduction(reduction: str) -> None:
    """Raises `ValueError` for a reduction that was set to what there is not."""
    validation.choice("reduction", reduction, _REDUCTIONS)


def check_volume(input: Tensor) -> None:
    """Raises `ValueError` for a table, of which MONAI adds up samples and classes too."""
    if input.ndim < 3:
        raise ValueError("input: has no spatial dimension")


def is_hard(tensor: Tensor) -> bool:
    """Whether the tensor holds nothing but 0 and 1."""
    return tensor.dtype == torch.bool or bool((tensor == tensor.bool()).all())


def _target(input: Tensor, target: Tensor, to_onehot_y: bool) -> Tensor:
    """Labels (N, 1, *spatial) or a target of the input's shape, of a type that the pass reads."""
    has_labels = is_label_map(input, to_onehot_y)
    expected = (input.shape[0], 1, *input.shape[2:]) if has_labels else tuple(input.shape)
    if tuple(target.shape) != expected:
        raise ValueError(f"target: has shape {tuple(target.shape)}, not {expected}")
    return target.to(torch.int32) if has_labels and target.is_floating_point() else target


def valid_voxels(target: Tensor, ignore_index: int) -> Tensor:
    """Bool (N, 1, *spatial): the voxels that MONAI does not ignore."""
    classes = target.shape[1]
    if classes == 1:
        return target != ignore_index
    if not 0 <= ignore_index < classes:
        return target.sum(1, keepdim=True) > 0
    ignored = target[:, ignore_index : ignore_index + 1]
    if not is_hard(ignored):
        raise ValueError("ignore_index: of a soft target it weighs voxels by a fraction")
    return ignored == 0


def read(
    input: Tensor,
    target: Tensor,
    activation: str | None,
    to_onehot_y: bool,
    *,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
) -> RegionInput:
    """The operands of a pass over MONAI's tensors."""
    target = _target(input, target, to_onehot_y)
    if ignore_index is not None and target.shape[1] > 1:
        mask, ignore_index = valid_voxels(target, ignore_index), None
    return validation.region_input(input, target, mask, activation, ignore_index, label_smoothing, gamma)


def warn_of_single_channel(input: Tensor, **is_set: bool) -> None:
    """MONAI's warnings of options that mean nothing for a prediction of one channel."""
    texts = {
        "softmax": "`softmax=True`",
        "to_onehot_y": "`to_onehot_y=True`",
        "exclude_background": "`include_background=False`",
    }
    for option, text in texts.items():
        if input.shape[1] == 1 and is_set.get(option, False):
            warnings.warn(f"single channel prediction, {text} ignored.", stacklevel=4)
