"""The examples that prepare data or carry weights over, on small synthetic volumes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from balls import write_patients

# The example's files import one another by name, as they do where it runs as a script.
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

# What the libraries say of one another, not of the examples.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    from fastmed.demo import training

    monkeypatch.setattr(training, "VOXELS_PER_STEP", {2: 2**12, 3: 2**13})


def brain(centre, radii, size=48):
    """White matter within grey within CSF within air: an image, and its tissues (X, Y, Z)."""
    offset = np.indices((size,) * 3).T - np.array(centre)
    distance = np.sqrt(((offset / np.array(radii)) ** 2).sum(-1)).T
    tissues = sum((distance < radius).astype(np.uint8) for radius in (1.0, 0.85, 0.6))
    noise = np.random.default_rng(0).uniform(0, 6, tissues.shape)
    return (np.array([0, 30, 70, 110])[tissues] + noise * (tissues > 0)).astype(np.float32), tissues


class TestRegister:
    @pytest.fixture
    def atlas(self, tmp_path):
        """A brain beside the template's place, with two labels on a smaller grid."""
        pytest.importorskip("SimpleITK")
        image, tissues = brain((20, 25, 23), (14, 17, 14))
        labels = tissues.copy()
        labels[tissues == 2] = 7
        labels[tissues == 1] = 0
        for name, voxels in (("ch2bet", image), ("aal", labels), ("brodmann", labels)):
            image_on_disk = nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 1.0, 1.0]))
            nibabel.save(image_on_disk, tmp_path / f"{name}.nii.gz")
        return tmp_path

    @pytest.fixture
    def template(self, atlas):
        import register_atlas as example
        import SimpleITK as sitk

        images = []
        for voxels in brain((24, 24, 24), (17, 18, 16)):
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), atlas / "template.nii.gz")
            images.append(sitk.ReadImage(atlas / "template.nii.gz"))
        return example.Template(*images)

    def test_labels_follow_the_brain(self, atlas, template, tmp_path, monkeypatch, capsys):
        import register_atlas as example

        monkeypatch.setattr(example, "load_template", lambda: template)
        monkeypatch.setattr(example, "DEMONS", ((2, 20), (1, 10)))
        output = tmp_path / "out"
        assert example.main(["--atlas", str(atlas), "--output", str(output)]) == 0
        content = json.loads((output / "register-atlas.json").read_text())
        before, *_, after = content["dice"].values()
        for structure in before:
            assert after[structure] > before[structure]
        assert after["brain"] > 0.95 > before["brain"]
        assert content["folded"] == 0.0
        assert set(content["volumes_ml"]["AAL"]) == {"3", "7"}
        for original, carried in content["volumes_ml"]["AAL"].values():
            # The template's brain is larger by the product of the radii.
            assert carried / original == pytest.approx(17 * 18 * 16 / (14 * 17 * 14), rel=0.15)
        assert (output / "register-atlas.png").read_bytes().startswith(b"\x89PNG")
        assert "2 of 2 labels" in capsys.readouterr().out

    def test_labels_are_never_mixed(self, atlas, template):
        import register_atlas as example
        import SimpleITK as sitk

        _, labels = example.read_atlas(atlas)
        shift = sitk.TranslationTransform(3, [0.5, -0.3, 0.4])
        assert example.carry(labels["AAL"], template, shift).unique().tolist() == [0, 3, 7]

    def test_tissues_by_otsu(self, atlas):
        import register_atlas as example
        import SimpleITK as sitk

        found, _ = example.read_atlas(atlas)
        _, tissues = brain((20, 25, 23), (14, 17, 14))
        assert (tissues == sitk.GetArrayFromImage(example.tissues_by_otsu(found)).T).all()

    def test_dice_of_tissues_and_masks(self):
        pytest.importorskip("SimpleITK")
        import register_atlas as example

        prediction, truth = torch.tensor([0, 1, 1, 2, 3, 3]), torch.tensor([0, 1, 2, 2, 3, 0])
        found = example.tissue_dice(prediction, truth)
        expected = {"CSF": 2 / 3, "grey matter": 2 / 3, "white matter": 2 / 3}
        assert found == pytest.approx({**expected, "brain": 8 / 9, "grey and white matter": 4 / 6})

    def test_missing_data_is_one_line(self, tmp_path, capsys):
        pytest.importorskip("SimpleITK")
        import register_atlas as example

        assert example.main(["--atlas", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "apt-get install mricron-data" in error


class TestSequences:
    @pytest.fixture
    def folder(self, tmp_path):
        """Two hemispheres of 0.5 mm; the T2w of the right one lies on a shifted grid."""
        rng = np.random.default_rng(0)
        for index, hemisphere in enumerate("LR"):
            distance = np.linalg.norm(np.indices((32, 48, 32)).T - rng.uniform(15, 18, 3), axis=-1).T
            mask = (distance < 9).astype(np.float32)
            affine = np.diag([-0.5, 0.5, 0.5, 1.0])
            shifted = affine.copy()
            shifted[1, 3] = 2.0 * index  # of 4 voxels
            volumes = {
                "T1w": (100 - 60 * mask + rng.uniform(0, 9, mask.shape), affine),
                "T2w": (np.roll(40 + 60 * mask, -4 * index, 1), shifted),
                "Mask": (mask, affine),
            }
            for kind, (voxels, of) in volumes.items():
                path = tmp_path / f"{kind}_300umCoronalOblique_hemi-{hemisphere}.nii.gz"
                nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), of), path)
        return tmp_path

    def test_every_input_is_scored_on_the_other_hemisphere(self, folder, tmp_path, monkeypatch, capsys):
        import sequences_as_channels as example

        monkeypatch.setattr(example, "find_data", lambda: folder)
        output = tmp_path / "out"
        assert example.main(["--steps", "2", "--seeds", "1", "--output", str(output)]) == 0
        content = json.loads((output / "sequences.json").read_text())
        assert list(content["dice"]) == ["T1w", "T2w", "T1w + T2w"]
        for of in content["dice"].values():
            assert list(of) == ["left", "right"]
            assert all(0.0 <= value <= 1.0 for values in of.values() for value in values)
        assert (output / "sequences.png").read_bytes().startswith(b"\x89PNG")
        assert "not a finding" in capsys.readouterr().out

    def test_channels_show_the_same_place(self, folder):
        import sequences_as_channels as example

        case = example.load_case(folder, "R")
        assert case.image.shape == (2, 16, 24, 16)
        assert case.spacing == (1.0, 1.0, 1.0)
        inside, outside = (case.image[1, 2:-2, 4:-4][case.label[2:-2, 4:-4] == value] for value in (1, 0))
        # Where it was not shifted back, a quarter of the ball would be as dark as its surroundings.
        assert (inside > 0.65).float().mean() > 0.99
        assert (outside < 0.75).float().mean() > 0.95

    def test_the_network_sees_the_chosen_sequence(self, folder):
        import sequences_as_channels as example

        case = example.load_case(folder, "L")
        assert torch.equal(example.choose(case, example.INPUTS["T2w"]).image, case.image[1:])
        assert torch.equal(example.choose(case, example.INPUTS["T1w + T2w"]).image, case.image)

    @pytest.mark.parametrize("installed", [False, True])
    def test_missing_data_is_one_line(self, installed, tmp_path, monkeypatch, capsys):
        import sequences_as_channels as example

        if installed:
            monkeypatch.setattr(example, "find_data", lambda: tmp_path)
        else:
            monkeypatch.setattr(example.importlib.util, "find_spec", lambda name: None)
        assert example.main([]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "pip install --no-deps hippunfold" in error


class TestFineTune:
    def test_both_starts_are_scored(self, tmp_path, capsys):
        import fine_tune as example

        data = write_patients(tmp_path / "Task99_Balls")
        output = tmp_path / "out"
        short = ["--few", "2", "--pretraining", "3", "--steps", "2"]
        assert example.main(["--data", str(data), "--output", str(output), *short]) == 0
        content = json.loads((output / "fine-tune.json").read_text())
        assert content["patients"] == {"pre-training": 6, "few": 2, "held out": 2}
        assert {name: len(losses) for name, losses in content["losses"].items()} == dict.fromkeys(example.STARTS, 2)
        for index, figures in enumerate(content["classes"].values()):
            scratch, tuned = ([dice[index] for dice in content["dice"][name].values()] for name in example.STARTS)
            gain = figures[example.DIFFERENCE]
            assert gain["value"] == pytest.approx(sum(tuned) / 2 - sum(scratch) / 2)
            assert gain["interval"][0] <= gain["value"] <= gain["interval"][1]
        assert (output / "fine-tune.png").read_bytes().startswith(b"\x89PNG")
        assert "shell" in capsys.readouterr().out

    @pytest.mark.parametrize("classes", [2, 3])
    def test_all_but_the_last_layer_is_carried_over(self, classes, tmp_path):
        import fine_tune as example

        from fastmed.demo.training import unet

        torch.manual_seed(0)
        before, network = unet(3, 1, 2), unet(3, 1, classes)
        own = {name: value.clone() for name, value in network.state_dict().items()}
        torch.save(before.state_dict(), tmp_path / "pretrained.pt")
        example.load_body(network, tmp_path / "pretrained.pt")
        head = example.head_name(network)
        assert own[f"{head}.bias"].shape == (classes,)
        for name, value in network.state_dict().items():
            expected = own if name.startswith(head) else before.state_dict()
            assert torch.equal(value, expected[name]), name

    def test_another_body_is_refused(self, tmp_path):
        import fine_tune as example

        from fastmed.demo.training import unet

        state = unet(3, 1, 2).state_dict()
        del state[next(iter(state))]
        torch.save(state, tmp_path / "pretrained.pt")
        with pytest.raises(RuntimeError, match="lacks"):
            example.load_body(unet(3, 1, 2), tmp_path / "pretrained.pt")

    def test_the_cheap_label_is_all_foreground(self, tmp_path):
        import fine_tune as example

        from fastmed.demo.decathlon import load_split

        case = load_split(write_patients(tmp_path / "balls"), 0).train[0]
        assert torch.equal(example.foreground(case).label.bool(), case.label > 0)

    @pytest.mark.parametrize("few", ["0", "8"])
    def test_unusable_data_is_one_line(self, few, tmp_path, capsys):
        import fine_tune as example

        assert example.main(["--data", str(write_patients(tmp_path / "balls")), "--few", few]) == 2
        assert example.main(["--data", str(tmp_path / "nothing")]) == 2
        assert capsys.readouterr().err.count("\n") == 2
