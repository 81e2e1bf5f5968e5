"""Real label tables of chest X-rays, as the wheel of torchxrayvision ships them; no image is read or downloaded.

PadChest (Bustos et al., 2020): Spanish reports with up to 194 labels, written by physicians or by a recurrent network.
CheXpert (Irvin et al., 2019): findings that a report confirms (1), excludes (0), leaves open (-1) or never mentions.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
CHEXPERT = "chexpert_train.csv.gz"
LEAST_POSITIVES = 100
INSTALL = "pip install --no-deps torchxrayvision==1.5.7"

Indices = npt.NDArray[np.int64]


class TablesMissingError(Exception):
    """The label tables are not on this machine."""


class Reports(NamedTuple):
    """Studies with their report; images of one study share it, so that a study counts once.

    Attributes:
        texts: report of each of N studies, stemmed and in lower case.
        patients: number of each study's patient (N,).
        physician: whether a physician wrote the labels (N,); elsewhere a network read them from the report.
        labels: 1 where the study has the label, else 0, (N, T).
        tasks: names of the T labels.
    """

    texts: npt.NDArray[np.object_]
    patients: Indices
    physician: npt.NDArray[np.bool_]
    labels: Tensor
    tasks: tuple[str, ...]


class Findings(NamedTuple):
    """Images with what is known of them besides their pixels.

    Attributes:
        features: age, sex and view of each of N images (N, F).
        patients: number of each image's patient (N,).
        labels: 1, 0, -1 for uncertain and NaN for a finding that the report never mentions, (N, T).
        tasks: names of the T findings.
    """

    features: Tensor
    patients: Indices
    labels: Tensor
    tasks: tuple[str, ...]


def find_tables() -> Path:
    """The data folder of torchxrayvision, which is found but never imported: its imports need torchvision.

    Raises:
        TablesMissingError: if the package is not installed.
    """
    package = importlib.util.find_spec("torchxrayvision")
    if package is None or package.origin is None:
        raise TablesMissingError(f"the label tables come with torchxrayvision, which is not installed: {INSTALL}")
    return Path(package.origin).parent / "data"


def _sample(table: pd.DataFrame, rows: int | None) -> pd.DataFrame:
    """Some rows at random, the same ones each time."""
    return table if rows is None else table.sample(min(rows, len(table)), random_state=0)


def read_padchest(folder: Path, studies: int | None = None) -> Reports:
    """Studies that have a report and labels, and the labels that at least `LEAST_POSITIVES` of them have.

    Args:
        folder: where the table is.
        studies: how many to keep; all by default.
    """
    columns = ["StudyID", "PatientID", "Report", "MethodLabel", "Labels"]
    table = pd.read_csv(folder / PADCHEST, usecols=columns, dtype=str)
    table = table.dropna(subset=["Report", "Labels"]).drop_duplicates("StudyID")
    table = _sample(table, studies)
    names = [{name.strip() for name in ast.literal_eval(text)} - {""} for text in table["Labels"]]
    counts = pd.Series([name for of_study in names for name in of_study]).value_counts()
    tasks = tuple(sorted(counts.index[counts >= LEAST_POSITIVES]))
    column = {task: index for index, task in enumerate(tasks)}
    labels = torch.zeros(len(table), len(tasks))
    for row, of_study in enumerate(names):
        labels[row, [column[name] for name in of_study if name in column]] = 1.0
    return Reports(
        table["Report"].to_numpy(object),
        pd.factorize(table["PatientID"])[0],
        (table["MethodLabel"] == "Physician").to_numpy(),
        labels,
        tasks,
    )


def read_chexpert(folder: Path, images: int | None = None) -> Findings:
    """Age, sex and view of every image, or of as many as asked for, and its findings as the table has them."""
    table = _sample(pd.read_csv(folder / CHEXPERT), images)
    view = table["AP/PA"].fillna("lateral")
    age = (table["Age"].to_numpy(np.float32) - 60.0) / 20.0
    features = np.stack(
        [age, age**2, table["Sex"] == "Male", view == "AP", view == "PA"],
        axis=1,
    )
    tasks = tuple(table.columns[table.columns.get_loc("No Finding") + 1 :])
    patients = table["Path"].str.extract(r"/(patient\d+)/", expand=False)
    return Findings(
        torch.from_numpy(features.astype(np.float32)),
        pd.factorize(patients)[0],
        torch.from_numpy(table[list(tasks)].to_numpy(np.float32)),
        tasks,
    )


def split_by_patient(patients: Indices, held_out: float, seed: int) -> tuple[Indices, Indices]:
    """Rows that train and rows held out, with no patient in both."""
    unique = np.random.default_rng(seed).permutation(np.unique(patients))
    test = np.isin(patients, unique[: round(held_out * len(unique))])
    return np.flatnonzero(~test), np.flatnonzero(test)
