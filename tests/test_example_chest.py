"""The example on chest X-rays, on tiny tables in the format of the real ones."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import report_chest

# The example's files import one another by name, as they do where it runs as a script.
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import chest_models
import chest_tables
import chest_xray_multitask as example

WORDS = {"cardiomegaly": "cardiomegali", "nodule": "nodul", "normal": "sin hallazg", "goiter": "boci"}
STUDIES, IMAGES = 400, 300


def write_padchest(path):
    """Two images a study, two studies a patient, and the odd row that lacks something."""
    rng = np.random.default_rng(0)
    rows = []
    for study in range(STUDIES):
        share = {"cardiomegaly": 0.3, "nodule": 0.1, "normal": 0.5, "goiter": 0.02}
        names = [name for name in WORDS if rng.random() < share[name]] or ["normal"]
        row = {
            "StudyID": f"2{study:036d}",
            "PatientID": f"8{study // 2:036d}",
            "Report": " ".join(WORDS[name] for name in names) + f" . palabr{rng.integers(20)} .",
            "MethodLabel": "Physician" if study % 3 else "RNN_model",
            "Labels": str([*names[:1], *(f" {name}" for name in names[1:]), ""]),
        }
        rows += [row, row]
    rows += [{**row, "StudyID": "a", "Report": None}, {**row, "StudyID": "b", "Labels": None}]
    pd.DataFrame(rows).to_csv(path / chest_tables.PADCHEST)


def write_chexpert(path):
    rng = np.random.default_rng(1)
    patient = np.arange(IMAGES) // 2
    table = pd.DataFrame(
        {
            "Path": [f"CheXpert-v1.0-small/train/patient{number:05d}/study1/view1.jpg" for number in patient],
            "Sex": rng.choice(["Female", "Male"], IMAGES),
            "Age": rng.integers(20, 90, IMAGES),
            "Frontal/Lateral": "Frontal",
            "AP/PA": rng.choice(["AP", "PA", None], IMAGES),
            "No Finding": 1.0,
        }
    )
    for finding in ("Edema", "Atelectasis", "Pleural Effusion"):
        table[finding] = rng.choice([1.0, 0.0, -1.0, np.nan], IMAGES)
    table["Edema"] = rng.choice([1.0, 0.0, -1.0], IMAGES, p=[0.2, 0.2, 0.6])
    table.to_csv(path / chest_tables.CHEXPERT, index=False)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    write_padchest(path)
    write_chexpert(path)
    return path


@pytest.fixture
def _quick(monkeypatch):
    """A small network and few rounds."""
    monkeypatch.setattr(chest_models, "BUCKETS", 2**10)
    monkeypatch.setattr(chest_models, "WIDTH", 16)
    monkeypatch.setattr(example, "PADCHEST", chest_models.Schedule(batch=64, epochs=8, rate=1e-2))
    monkeypatch.setattr(example, "FEW", 0.2)
    monkeypatch.setattr(example, "ROUNDS", 2)
    monkeypatch.setattr(chest_tables, "LEAST_POSITIVES", 5)


class TestTables:
    def test_a_study_counts_once_and_an_empty_label_is_none(self, tables):
        reports = chest_tables.read_padchest(tables)
        assert len(reports.texts) == STUDIES
        assert len(np.unique(reports.patients)) == STUDIES // 2
        assert reports.physician.sum() == sum(study % 3 > 0 for study in range(STUDIES))
        assert reports.tasks == ("cardiomegaly", "normal")  # nodules and goitres are fewer than 100
        for text, row in zip(reports.texts, reports.labels, strict=True):
            assert [WORDS[task] in text for task in reports.tasks] == row.bool().tolist()

    def test_chexpert_keeps_uncertain_and_blank(self, tables):
        findings = chest_tables.read_chexpert(tables)
        table = pd.read_csv(tables / chest_tables.CHEXPERT)
        assert findings.tasks == ("Edema", "Atelectasis", "Pleural Effusion")
        np.testing.assert_array_equal(findings.labels.numpy(), table[list(findings.tasks)])
        assert findings.features.shape == (IMAGES, 5)
        assert len(np.unique(findings.patients)) == IMAGES // 2

    def test_a_subset_is_the_same_each_time(self, tables):
        first, second = (chest_tables.read_padchest(tables, 50) for _ in range(2))
        assert len(first.texts) == 50
        assert (first.texts == second.texts).all()

    @pytest.mark.parametrize("seed", range(3))
    def test_no_patient_is_on_both_sides(self, seed):
        patients = np.random.default_rng(seed).integers(0, 100, 1000)
        training, held_out = chest_tables.split_by_patient(patients, 0.2, seed)
        assert not set(patients[training]) & set(patients[held_out])
        assert sorted([*training, *held_out]) == list(range(1000))
        assert len(np.unique(patients[held_out])) == 20


class TestScores:
    def test_ranking_skips_a_task_without_both_classes(self):
        logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0]])
        labels = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
        auroc, average_precision = chest_models.ranking(logits, labels)
        np.testing.assert_array_equal(auroc, [1.0, np.nan])
        np.testing.assert_array_equal(average_precision, [1.0, np.nan])

    def test_calibration_of_certain_labels_only(self):
        probabilities = torch.tensor([0.2, 0.2, 0.8, 0.8, 0.5, 0.5])
        labels = torch.tensor([0.0, 1.0, 1.0, 1.0, -1.0, torch.nan])
        found = chest_models.calibration(probabilities, labels, bins=2)
        assert found.predicted == pytest.approx(0.5)
        assert found.calibration_error == pytest.approx((0.3 + 0.2) / 2)

    def test_batches_are_full_over_epochs(self):
        assert list(chest_models.batches(range(3), 2, 4)) == [[0, 1], [2, 0], [1, 2], [0, 1]]


def test_losses_agree():
    labels = torch.randint(2, (30, 5)).float().where(torch.rand(30, 5) > 0.3, torch.nan)
    labels[:, 2] = torch.nan
    found = example.time_losses("random", labels, 0)
    assert [row["name"] for row in found["losses"]] == ["torchxrayvision's loop", "torch, vectorised", "fastmed"]


def test_a_loss_that_differs_is_not_reported(monkeypatch):
    monkeypatch.setattr(example, "multitask_loss", lambda *operands: 1.001 * example.vectorised(*operands))
    with pytest.raises(ArithmeticError, match="fastmed"):
        example.time_losses("random", torch.ones(4, 3), 0)


@pytest.mark.usefixtures("_quick")
def test_the_whole_example(tables, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(example, "find_tables", lambda: tables)
    assert example.main(["--output", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "cardiomegaly" in captured.out
    assert (tmp_path / "out/chest.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "out/chest.json").read_text())
    assert content["seconds"] > sum(content["balancing"]["seconds"].values())
    assert f"{content['seconds']:.0f} s" in report_chest.duration(content)
    tasks = content["balancing"]["tasks"]
    assert [task["task"] for task in tasks] == ["goiter", "nodule", "cardiomegaly", "normal"]
    for task in tasks[1:]:
        assert task["auroc"]["weighted"] > 0.9
        assert task["w_pos"] + task["w_neg"] == pytest.approx(1.0)
    assert len(content["transfer"]["models"]) == 3
    prevalence = {name: by["prevalence"] for name, by in content["policies"]["findings"][0]["policies"].items()}
    assert content["policies"]["findings"][0]["finding"] == "Edema"
    assert prevalence["zeros"] < prevalence["ignore"] < prevalence["smooth"] < prevalence["ones"]


def test_absent_tables_are_one_line(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert example.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.endswith("which is not installed: pip install --no-deps torchxrayvision==1.5.7\n")


def test_the_version_is_the_one_that_make_installs():
    pinned = re.search(
        r"^torchxrayvision==.*$", (Path(__file__).parent.parent / "constraints.txt").read_text(), re.MULTILINE
    )
    assert chest_tables.INSTALL.endswith(pinned[0])
