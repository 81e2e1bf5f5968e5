"""Labelled volumes, and their split into those that train and those held out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

Volume = npt.NDArray[np.float32]


class Case(NamedTuple):
    """One patient, or one hemisphere.

    Attributes:
        name: what reports call it.
        image: float32 (channels, X, Y, Z) in [0, 1]; X runs to the right, Y to the front, Z upwards.
        label: uint8 (X, Y, Z).
        spacing: voxel size in mm.
    """

    name: str
    image: Tensor
    label: Tensor
    spacing: tuple[float, float, float]


class Split(NamedTuple):
    """Cases to train with and cases held out.

    Attributes:
        title: name of the data.
        description: how it was split, for the report.
        classes: name of each label, background first.
        train: cases that train.
        test: cases held out.
        flip_axes: axes of a volume along which flipping gives a plausible new case.
    """

    title: str
    description: str
    classes: tuple[str, ...]
    train: tuple[Case, ...]
    test: tuple[Case, ...]
    flip_axes: tuple[int, ...]


def scale_intensity(image: Volume) -> Volume:
    """Image (channels, X, Y, Z) scaled to [0, 1], each channel by itself.

    Air stays 0 in a non-negative image (MRI, PET), which is divided by the 99.5th percentile of the rest: scaled by
    mean and deviation of the whole volume, air would land amid the tissue. An image with negative values (CT) is
    windowed to the 0.5th to 99.5th percentile of what is brighter than its darkest voxel.
    """
    scaled = np.zeros_like(image)
    for channel, out in zip(image, scaled, strict=True):
        darkest = channel.min()
        tissue = channel[channel > darkest]
        if tissue.size == 0:
            continue
        low, high = np.percentile(tissue, (0.5, 99.5))
        if darkest >= 0:
            low = 0.0
        np.clip((channel - low) / max(high - low, np.finfo(np.float32).tiny), 0.0, 1.0, out=out)
    return scaled
