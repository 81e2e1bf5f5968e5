"""Patients in the layout of the Medical Segmentation Decathlon, a bright ball in each."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

SHAPE = (18, 16, 14)


def write_patients(folder: Path, patients: int = 10) -> Path:
    """Volumes of one modality with a shell (1) around a core (2); a fifth of the patients is held out."""
    rng = np.random.default_rng(0)
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    training = []
    for index in range(patients):
        names = {"image": f"imagesTr/ball_{index}.nii.gz", "label": f"labelsTr/ball_{index}.nii.gz"}
        distance = np.linalg.norm(np.indices(SHAPE).T - rng.uniform(6, 9, 3), axis=-1).T
        label = (distance < 5).astype(np.uint8) + (distance < 3)
        image = 100.0 * label + rng.uniform(1, 50, SHAPE)
        for name, voxels in ((names["image"], image.astype(np.float32)), (names["label"], label.astype(np.uint8))):
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / name)
        training.append(names)
    labels = {"0": "background", "1": "shell", "2": "core"}
    content = {"name": "Balls", "modality": {"0": "MRI"}, "labels": labels, "training": training}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
