"""Folders in the layout of the Medical Segmentation Decathlon, checked before anything trains on them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from .cases import Case, Split, scale_intensity
from .errors import InputError

HELD_OUT = 0.2
# What is loaded and segmented in a demonstration of three minutes; larger data sets are sampled by patient.
MAX_VOXELS = 2**26
MIN_PATIENTS = 5


class Patient(NamedTuple):
    """Files of one patient, and the shape that both volumes have."""

    name: str
    image: Path
    label: Path
    shape: tuple[int, int, int]


class Folder(NamedTuple):
    """What `dataset.json` and the headers of all files say."""

    name: str
    classes: tuple[str, ...]
    channels: int
    patients: tuple[Patient, ...]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not an object with 'labels' and 'training'")
    return content


def _classes(labels: object, path: Path) -> tuple[str, ...]:
    """Names in the order of their labels, from {"1": "tumour"} (Decathlon) or {"tumour": 1} (nnU-Net)."""
    if not isinstance(labels, dict):
        raise InputError(f'{path}: \'labels\' must be an object such as {{"0": "background"}}, got {labels!r}')
    by_value = {}
    for key, value in labels.items():
        number, name = (key, value) if key.isdecimal() else (value, key)
        if not str(number).isdecimal():
            raise InputError(f"{path}: 'labels' must give one number to each class, got {key!r}: {value!r}")
        by_value[int(number)] = str(name)
    if sorted(by_value) != list(range(len(labels))) or len(labels) < 2:
        raise InputError(f"{path}: 'labels' must be numbered 0, 1, 2, ... without a gap, got {sorted(by_value)}")
    if len(labels) > 256:
        raise InputError(f"{path}: 'labels' names {len(labels)} classes, allowed are up to 256")
    return tuple(by_value[value] for value in range(len(labels)))


def _header_shape(path: Path) -> tuple[int, ...]:
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return tuple(int(size) for size in nibabel.load(path).shape)
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: is not a readable NIfTI file: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _patient(root: Path, entry: object, channels: int, path: Path) -> Patient:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
        raise InputError(f"{path}: each item of 'training' must name an 'image' and a 'label', got {entry!r}")
    image, label = root / entry["image"], root / entry["label"]
    shape, label_shape = _header_shape(image), _header_shape(label)
    if len(shape) == 3:
        shape = (*shape, 1)
    if len(shape) != 4 or shape[3] != channels:
        raise InputError(
            f"{image}: has shape {shape}, expected (X, Y, Z, {channels}) for the {channels} modalities of {path}"
        )
    if label_shape != shape[:3]:
        raise InputError(f"{label}: has shape {label_shape}, but its image {image} has {shape[:3]}")
    return Patient(image.name.split(".")[0], image, label, (shape[0], shape[1], shape[2]))


def read_folder(root: Path) -> Folder:
    """`dataset.json` of a folder and the header of every volume it lists, each checked.

    Raises:
        InputError: for what is missing, unreadable or contradicts something else.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such directory")
    path = root / "dataset.json"
    content = _read_json(path)
    modalities = content.get("modality", content.get("channel_names"))
    if not isinstance(modalities, dict) or not modalities:
        raise InputError(f"{path}: 'modality' (or 'channel_names') must be an object such as {{\"0\": \"MRI\"}}")
    classes = _classes(content.get("labels"), path)
    training = content.get("training")
    if not isinstance(training, list) or len(training) < 2:
        raise InputError(f"{path}: 'training' must list at least 2 patients, one to train and one held out")
    patients = tuple(_patient(root, entry, len(modalities), path) for entry in training)
    if len({patient.image for patient in patients}) < len(patients):
        raise InputError(f"{path}: 'training' lists an image twice; a patient could be trained on and held out")
    return Folder(str(content.get("name", root.name)), classes, len(modalities), patients)


def _read_volume(path: Path) -> tuple[npt.NDArray[np.float32], tuple[float, float, float]]:
    """Voxels as finite float32, axes turned to right, front, up, and the voxel size in mm."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nibabel.as_closest_canonical(nibabel.load(path))
        voxels = image.get_fdata(dtype=np.float32, caching="unchanged")
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: is not a readable NIfTI file: {_first_line(error)}") from error
    if not np.isfinite(voxels).all():
        raise InputError(f"{path}: holds NaN or infinite voxels")
    x, y, z = (float(size) for size in image.header.get_zooms()[:3])
    return voxels, (x, y, z)


def load_case(patient: Patient, classes: int) -> Case:
    """The volumes of one patient, its labels checked against the number of classes.

    Raises:
        InputError: for voxels that cannot be read or are no labels of the data set.
    """
    voxels, spacing = _read_volume(patient.image)
    label, _ = _read_volume(patient.label)
    allowed = f"{patient.label.parent.parent / 'dataset.json'} allows 0 to {classes - 1}"
    if label.max() >= classes or label.min() < 0:
        wrong = label.max() if label.max() >= classes else label.min()
        raise InputError(f"{patient.label}: holds label {wrong:g}, {allowed}")
    if (label != np.rint(label)).any():
        raise InputError(f"{patient.label}: holds labels that are not whole numbers, {allowed}")
    channels_first = np.moveaxis(voxels.reshape(*voxels.shape[:3], -1), -1, 0)
    image = torch.from_numpy(scale_intensity(np.ascontiguousarray(channels_first)))
    return Case(patient.name, image, torch.from_numpy(label.astype(np.uint8)), spacing)


def _sample(patients: tuple[Patient, ...], rng: np.random.Generator) -> list[Patient]:
    """Patients in random order, as many as `MAX_VOXELS` holds."""
    drawn: list[Patient] = []
    voxels = 0
    for index in rng.permutation(len(patients)):
        voxels += int(np.prod(patients[index].shape))
        if voxels > MAX_VOXELS and len(drawn) >= MIN_PATIENTS:
            break
        drawn.append(patients[index])
    return drawn


def load_split(root: Path, seed: int) -> Split:
    """Patients of a folder, a fifth of them held out, drawn by `seed`.

    Raises:
        InputError: for input that cannot be used; see `read_folder` and `load_case`.
    """
    folder = read_folder(root)
    patients = _sample(folder.patients, np.random.default_rng(seed))
    cases = [load_case(patient, len(folder.classes)) for patient in patients]
    held_out = max(1, round(HELD_OUT * len(cases)))
    used = "" if len(cases) == len(folder.patients) else f" (a sample of {len(folder.patients)})"
    return Split(
        title=folder.name,
        description=f"trained on {len(cases) - held_out} patients, tested on {held_out} others{used}",
        classes=folder.classes,
        train=tuple(cases[held_out:]),
        test=tuple(cases[:held_out]),
        flip_axes=(0,),  # bodies are alike left and right, not front and back or up and down
    )
