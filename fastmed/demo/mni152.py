"""The MNI152 T1 volume that nilearn ships: tissue labels from its maps, one hemisphere held out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from .cases import Case, Split, Volume, scale_intensity

CLASSES = ("background", "CSF", "grey matter", "white matter")
GAP_MM = 4.0
_MARGIN = 4


class Atlas(NamedTuple):
    """The T1 volume and its labels on one grid, X to the right, with the X coordinate in mm of each plane."""

    image: Volume
    label: npt.NDArray[np.uint8]
    x_mm: npt.NDArray[np.float64]


def tissue_labels(brain: Volume, grey: Volume, white: Volume) -> npt.NDArray[np.uint8]:
    """Labels from probability maps: within the brain the most probable of CSF, grey and white, 0 outside.

    CSF has no map of its own: it is what grey and white leave of the brain mask.
    """
    csf = np.clip(brain - grey - white, 0.0, None)
    tissue = 1 + np.argmax(np.stack([csf, grey, white]), axis=0)
    return np.where(brain > 0, tissue, 0).astype(np.uint8)


def load_atlas() -> Atlas:
    """The volume at 1 mm and its labels, from files within the package: nothing is downloaded."""
    from nilearn import datasets

    template = datasets.load_mni152_template(resolution=1)
    maps = (
        datasets.load_mni152_brain_mask(resolution=1),
        datasets.load_mni152_gm_template(resolution=1),
        datasets.load_mni152_wm_template(resolution=1),
    )
    label = tissue_labels(*(image.get_fdata(dtype=np.float32) for image in maps))
    origin, step = template.affine[0, 3], template.affine[0, 0]
    return Atlas(
        template.get_fdata(dtype=np.float32),
        label,
        origin + step * np.arange(template.shape[0], dtype=np.float64),
    )


def _hemisphere(name: str, atlas: Atlas, planes: npt.NDArray[np.bool_]) -> Case:
    """These planes, cropped to the brain and a margin of air."""
    image, label = atlas.image[planes], atlas.label[planes]
    occupied = np.argwhere(label)
    first = np.maximum(occupied.min(0) - _MARGIN, 0)
    last = occupied.max(0) + _MARGIN + 1
    box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    scaled = scale_intensity(image[box][None])
    return Case(name, torch.from_numpy(scaled), torch.from_numpy(label[box].copy()), (1.0, 1.0, 1.0))


def load_split() -> Split:
    """The left hemisphere to train with, the right one held out, and a gap of dropped planes between them.

    The volume is a symmetric template, so the right hemisphere is the exact mirror image of the left one. Flips are
    therefore made along Y and Z only: one along X would show the network what it is tested on.
    """
    atlas = load_atlas()
    dropped = int((abs(atlas.x_mm) <= GAP_MM).sum())
    return Split(
        title="MNI152 T1, 1 mm (nilearn)",
        description=(
            f"trained on the left hemisphere (x < {-GAP_MM:g} mm), tested on the right (x > {GAP_MM:g} mm); the "
            f"{dropped} sagittal planes between are dropped. The template is symmetric, so this shows that the "
            "pipeline works, not how it does on another brain."
        ),
        classes=CLASSES,
        train=(_hemisphere("left hemisphere", atlas, atlas.x_mm < -GAP_MM),),
        test=(_hemisphere("right hemisphere", atlas, atlas.x_mm > GAP_MM),),
        flip_axes=(1, 2),
    )
