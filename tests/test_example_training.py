"""The examples that train on a folder of volumes, for a few steps on small synthetic patients."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from balls import write_patients

# The example's files import one another by name, as they do where it runs as a script.
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

# What the libraries say of one another, not of the examples.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    return write_patients(tmp_path_factory.mktemp("data") / "Task99_Balls")


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    from fastmed.demo import training

    monkeypatch.setattr(training, "VOXELS_PER_STEP", {2: 2**12, 3: 2**13})


class TestLightning:
    @pytest.mark.parametrize("dims", [2, 3])
    def test_trains_with_our_loss_and_metric(self, patients, dims):
        import train_lightning as example

        import fastmed
        from fastmed.demo.decathlon import load_split
        from fastmed.demo.training import plan, unet

        split = load_split(patients, 0)
        sizes = plan(split.train, dims)
        module, logged = example.fit(split, sizes, epochs=1, steps=2, seed=0)
        assert isinstance(module.loss, fastmed.DiceCELoss)
        assert {"loss", "Dice shell", "Dice core"} <= set(logged)
        assert all(0.0 <= logged[f"Dice {name}"] <= 1.0 for name in split.classes[1:])
        torch.manual_seed(0)
        untrained = unet(dims, 1, 3).state_dict()
        assert any(not torch.equal(value, untrained[name]) for name, value in module.network.state_dict().items())

    def test_the_dice_is_that_of_whole_volumes(self, patients):
        import train_lightning as example

        from fastmed.demo.decathlon import load_split
        from fastmed.demo.training import plan, predict

        split = load_split(patients, 0)
        module, logged = example.fit(split, plan(split.train, 3), epochs=1, steps=1, seed=0)
        found = []
        for case in split.test:
            labels = predict(module.network, case, module.sizes, torch.device("cpu"))
            both, either = ((labels == 2) & (case.label == 2)).sum(), (labels == 2).sum() + (case.label == 2).sum()
            found.append(2.0 * both / either)
        assert logged["Dice core"] == pytest.approx(torch.stack(found).mean().item(), abs=1e-6)

    def test_missing_data_is_one_line(self, tmp_path, capsys):
        import train_lightning as example

        assert example.main(["--data", str(tmp_path / "nothing")]) == 2
        assert capsys.readouterr().err.count("\n") == 1


class TestApproach:
    def test_both_see_the_same_voxels(self, patients, tmp_path, capsys):
        import approach_2d_3d as example

        assert example.main(["--data", str(patients), "--steps", "1", "--output", str(tmp_path)]) == 0
        content = json.loads((tmp_path / "approach.json").read_text())
        steps = [content["approaches"][name]["steps"] for name in ("2D slices", "3D volumes")]
        assert steps == [2, 1]
        assert (tmp_path / "approach.png").read_bytes().startswith(b"\x89PNG")
        shown = capsys.readouterr().out
        assert all(word in shown for word in ("shell", "core", "2D slices", "3D volumes"))
        for name, figures in content["classes"].items():
            index = list(content["classes"]).index(name)
            for approach in ("2D slices", "3D volumes"):
                low, high = figures[approach]["interval"]
                cases = [values[index] for values in content["approaches"][approach]["dice"].values()]
                assert len(cases) == 2
                assert figures[approach]["value"] == pytest.approx(sum(cases) / 2)
                assert low <= figures[approach]["value"] <= high

    def test_dice_of_a_case(self):
        import approach_2d_3d as example

        label = torch.tensor([[[0, 0, 1, 1, 2, 2]]], dtype=torch.uint8)
        prediction = torch.tensor([[[0, 1, 1, 1, 2, 0]]], dtype=torch.uint8)
        assert example.dice_of_case(prediction, label, 3).tolist() == pytest.approx([0.8, 2 / 3])

    def test_one_held_out_case_has_no_interval(self, tmp_path, capsys):
        import approach_2d_3d as example

        assert example.main(["--data", str(write_patients(tmp_path / "few", 4))]) == 2
        assert "an interval takes two" in capsys.readouterr().err


@pytest.mark.slow
def test_nnunet_with_both_trainers(patients, tmp_path, monkeypatch):
    pytest.importorskip("nnunetv2")
    import train_nnunet as example

    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_n_proc_DA"):
        monkeypatch.setenv(variable, "1")  # so that what the example sets is undone
    arguments = ["--data", str(patients), "--output", str(tmp_path), "--cases", "2", "--iterations", "2"]
    assert example.main(arguments) == 0
    content = json.loads((tmp_path / "train-nnunet.json").read_text())
    assert [run["loss"].split(".")[0] for run in content["runs"].values()] == ["nnunetv2", "fastmed"]
    assert all(len(run["losses"]) == 2 for run in content["runs"].values())
    assert content["largest_difference"] < 1e-4
    assert (tmp_path / "train-nnunet.png").stat().st_size > 0


def test_monai_with_both_losses(patients, tmp_path, capsys):
    import train_monai as example

    assert example.main(["--data", str(patients), "--output", str(tmp_path), "--steps", "3", "--seeds", "1"]) == 0
    assert "seed 0: curves differ by at most" in capsys.readouterr().out
    (run,) = json.loads((tmp_path / "train-monai.json").read_text())["runs"]
    assert [run[name]["fused"] for name in ("MONAI", "patched")] == [False, True]
    assert len(run["MONAI"]["losses"]) == 3
    assert run["largest_difference"] < 1e-4
    assert (tmp_path / "train-monai.png").stat().st_size > 0
    assert example.main(["--data", str(tmp_path), "--output", str(tmp_path)]) == 2
