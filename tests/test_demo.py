"""The demonstration: its data rules on the real volume, and whole runs on small synthetic patients."""

import importlib.util
import json
import shutil
import warnings

import numpy as np
import pytest
import torch

from fastmed.cli import main
from fastmed.demo.cases import Case, scale_intensity
from fastmed.demo.errors import InputError

_PACKAGES = ("nibabel", "monai", "nilearn", "matplotlib", "rich")
_MISSING = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"the demo needs {', '.join(_MISSING)}")
if not _MISSING:
    # Light: these import the packages above only when they are called.
    from fastmed.demo import comparison, decathlon, mni152, report, training

SHAPE = (20, 18, 16)
PATIENTS = 5


def write_volume(path, voxels):
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.5, 2.0, 1.0])), path)


def edit_json(folder, **changes):
    path = folder / "dataset.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Five patients of two modalities, a bright ball in each."""
    folder = tmp_path_factory.mktemp("Task99_Balls")
    rng = np.random.default_rng(0)
    training_list = []
    for index in range(PATIENTS):
        centre = rng.uniform(6, 10, 3)
        distance = np.linalg.norm(np.indices(SHAPE).T - centre, axis=-1).T
        label = (distance < 5).astype(np.uint8) + (distance < 3)
        image = 100.0 * label[..., None] + rng.uniform(1, 50, (*SHAPE, 2))
        write_volume(folder / f"imagesTr/ball_{index}.nii.gz", image.astype(np.float32))
        write_volume(folder / f"labelsTr/ball_{index}.nii.gz", label.astype(np.uint8))
        training_list.append({"image": f"./imagesTr/ball_{index}.nii.gz", "label": f"./labelsTr/ball_{index}.nii.gz"})
    content = {
        "name": "Balls",
        "modality": {"0": "T1", "1": "T2"},
        "labels": {"0": "background", "1": "shell", "2": "core"},
        "training": training_list,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def folder(patients, tmp_path):
    """A copy of the patients to spoil."""
    return shutil.copytree(patients, tmp_path / "Task99_Balls")


@pytest.fixture(scope="module")
def atlas():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(nilearn|nibabel|sklearn|scipy)(\.|$)")
        return mni152.load_atlas()


class TestMNI152:
    def test_the_label_is_the_most_probable_tissue_within_the_brain(self):
        brain = np.array([0, 1, 1, 1, 1], np.float32)
        grey = np.array([0.9, 0.2, 0.7, 0.1, 0.4], np.float32)
        white = np.array([0.0, 0.1, 0.2, 0.9, 0.35], np.float32)
        assert mni152.tissue_labels(brain, grey, white).tolist() == [0, 1, 2, 3, 2]

    def test_tissues_are_as_bright_as_in_a_t1_image(self, atlas):
        air, csf, grey, white = (np.median(atlas.image[atlas.label == tissue]) for tissue in range(4))
        assert air == 0.0 < csf < grey < white

    def test_hemispheres_are_disjoint_with_a_gap_at_the_midline(self, atlas, monkeypatch):
        monkeypatch.setattr(mni152, "load_atlas", lambda: atlas)
        split = mni152.load_split()
        sides = {name: (atlas.x_mm * side > mni152.GAP_MM) for name, side in (("left", -1), ("right", 1))}
        assert not (sides["left"] & sides["right"]).any()
        assert np.diff(atlas.x_mm[~sides["left"] & ~sides["right"]]).sum() == 2 * mni152.GAP_MM
        for (case,), side in ((split.train, "left"), (split.test, "right")):
            assert case.name == f"{side} hemisphere"
            assert int((case.label > 0).sum()) == int((atlas.label[sides[side]] > 0).sum())

    def test_no_flip_turns_the_template_into_what_is_held_out(self, atlas, monkeypatch):
        monkeypatch.setattr(mni152, "load_atlas", lambda: atlas)
        assert (atlas.label == atlas.label[::-1]).all()
        assert 0 not in mni152.load_split().flip_axes


class TestIntensity:
    def test_air_stays_zero_in_an_mri(self):
        image = np.zeros((1, 10, 10, 10), np.float32)
        image[:, 3:7] = np.random.default_rng(0).uniform(500, 1000, (1, 4, 10, 10))
        scaled = scale_intensity(image)
        assert (scaled[image == 0] == 0).all()
        assert scaled.max() == 1.0
        assert scaled[image > 0].min() > 0.45

    def test_ct_is_windowed(self):
        image = np.random.default_rng(0).normal(40, 20, (1, 10, 10, 10)).astype(np.float32)
        image[0, 0] = -1000.0
        scaled = scale_intensity(image)
        assert (scaled[0, 0] == 0).all()
        assert 0.3 < np.median(scaled[0, 1:]) < 0.7

    def test_each_channel_by_itself_and_a_constant_one_is_zero(self):
        image = np.stack([np.arange(1000.0).reshape(10, 10, 10), np.full((10, 10, 10), 7.0)]).astype(np.float32)
        scaled = scale_intensity(image)
        assert scaled[0].max() == 1.0
        assert (scaled[1] == 0).all()


class TestDecathlon:
    def test_modalities_become_channels(self, patients):
        case = decathlon.load_case(decathlon.read_folder(patients).patients[0], 3)
        assert case.image.shape == (2, *SHAPE)
        assert case.label.shape == SHAPE
        assert case.label.unique().tolist() == [0, 1, 2]
        assert case.spacing == (1.0, 1.5, 2.0)

    def test_patients_are_split_by_seed_and_never_shared(self, patients):
        names = {}
        for seed in (0, 0, 1):
            split = decathlon.load_split(patients, seed)
            train, test = ({case.name for case in cases} for cases in (split.train, split.test))
            assert not train & test
            assert (len(train), len(test)) == (4, 1)
            assert names.setdefault((seed, "test"), test) == test
        assert any(
            decathlon.load_split(patients, seed).test[0].name != next(iter(names[0, "test"])) for seed in range(1, 6)
        )

    def test_a_large_data_set_is_sampled(self, patients, monkeypatch):
        monkeypatch.setattr(decathlon, "MAX_VOXELS", 3 * int(np.prod(SHAPE)))
        monkeypatch.setattr(decathlon, "MIN_PATIENTS", 2)
        split = decathlon.load_split(patients, 0)
        assert len(split.train) + len(split.test) == 3
        assert "a sample of 5" in split.description

    def test_labels_of_nnunet(self, folder):
        edit_json(folder, labels={"background": 0, "core": 2, "shell": 1}, modality=None)
        edit_json(folder, channel_names={"0": "T1", "1": "T2"})
        assert decathlon.read_folder(folder).classes == ("background", "shell", "core")

    def test_axes_are_turned_to_right_front_and_up(self, tmp_path):
        voxels = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        import nibabel

        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, 1.0, 1.0, 1.0])), tmp_path / "a.nii")
        turned, _ = decathlon._read_volume(tmp_path / "a.nii")
        np.testing.assert_array_equal(turned, voxels[::-1])


def _truncate(path):
    path.write_bytes(path.read_bytes()[:200])


def _first(folder, kind):
    return folder / f"{kind}Tr" / "ball_0.nii.gz"


BAD_INPUTS = {
    "no directory": (lambda folder: shutil.rmtree(folder), "Task99_Balls: no such directory"),
    "no dataset.json": (lambda folder: (folder / "dataset.json").unlink(), "dataset.json: cannot be read"),
    "not JSON": (lambda folder: (folder / "dataset.json").write_text("{"), "dataset.json: is not JSON"),
    "a JSON list": (lambda folder: (folder / "dataset.json").write_text("[]"), "dataset.json: holds a list"),
    "no modality": (lambda folder: edit_json(folder, modality=None), "dataset.json: 'modality'"),
    "no labels": (lambda folder: edit_json(folder, labels=None), "dataset.json: 'labels'"),
    "labels with a gap": (lambda folder: edit_json(folder, labels={"0": "a", "2": "b"}), "without a gap"),
    "labels without a number": (lambda folder: edit_json(folder, labels={"a": "b"}), "one number to each class"),
    "no training": (lambda folder: edit_json(folder, training=None), "dataset.json: 'training'"),
    "one patient": (
        lambda folder: edit_json(
            folder, training=[{"image": "imagesTr/ball_0.nii.gz", "label": "labelsTr/ball_0.nii.gz"}]
        ),
        "at least 2 patients",
    ),
    "items of training": (lambda folder: edit_json(folder, training=["a", "b"]), "must name an 'image'"),
    "a patient twice": (
        lambda folder: edit_json(
            folder, training=2 * [{"image": "imagesTr/ball_0.nii.gz", "label": "labelsTr/ball_0.nii.gz"}]
        ),
        "lists an image twice",
    ),
    "no image": (lambda folder: _first(folder, "images").unlink(), "imagesTr/ball_0.nii.gz: no such file"),
    "no label": (lambda folder: _first(folder, "labels").unlink(), "labelsTr/ball_0.nii.gz: no such file"),
    "no NIfTI": (
        lambda folder: _first(folder, "images").write_text("text"),
        "imagesTr/ball_0.nii.gz: is not a readable",
    ),
    "cut short": (lambda folder: _truncate(_first(folder, "images")), "imagesTr/ball_0.nii.gz: is not a readable"),
    "one modality of two": (
        lambda folder: write_volume(_first(folder, "images"), np.ones(SHAPE, np.float32)),
        "imagesTr/ball_0.nii.gz: has shape (20, 18, 16, 1), expected (X, Y, Z, 2)",
    ),
    "shapes that differ": (
        lambda folder: write_volume(_first(folder, "labels"), np.ones((20, 18, 15), np.uint8)),
        "labelsTr/ball_0.nii.gz: has shape (20, 18, 15), but its image",
    ),
    "label above the class count": (
        lambda folder: write_volume(_first(folder, "labels"), np.full(SHAPE, 3, np.uint8)),
        "labelsTr/ball_0.nii.gz: holds label 3",
    ),
    "negative label": (
        lambda folder: write_volume(_first(folder, "labels"), np.full(SHAPE, -1, np.int16)),
        "labelsTr/ball_0.nii.gz: holds label -1",
    ),
    "fractional label": (
        lambda folder: write_volume(_first(folder, "labels"), np.full(SHAPE, 0.5, np.float32)),
        "labelsTr/ball_0.nii.gz: holds labels that are not whole numbers",
    ),
    "NaN in an image": (
        lambda folder: write_volume(_first(folder, "images"), np.full((*SHAPE, 2), np.nan, np.float32)),
        "imagesTr/ball_0.nii.gz: holds NaN",
    ),
}


class TestBadInput:
    @pytest.mark.parametrize(("spoil", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
    def test_is_one_line_that_names_the_file(self, spoil, message, folder, tmp_path, capsys):
        spoil(folder)
        assert main(["demo", "--data", str(folder), "--output", str(tmp_path / "out")]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert len(captured.err.splitlines()) == 1
        assert captured.out == ""
        assert not (tmp_path / "out").exists()

    def test_an_output_that_is_a_file(self, patients, tmp_path, capsys):
        (tmp_path / "out").write_text("")
        assert main(["demo", "--data", str(patients), "--output", str(tmp_path / "out")]) == 2
        assert "out: is not a directory" in capsys.readouterr().err

    def test_a_missing_package(self, monkeypatch, capsys):
        monkeypatch.setattr("fastmed.cli.demo._PACKAGES", ("rich", "no_such_package"))
        assert main(["demo"]) == 2
        assert capsys.readouterr().err == (
            "fastmed: error: the demo needs no_such_package: pip install 'fastmed[demo]'\n"
        )


class TestRun:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch):
        """A small batch, and the loss as it is in place of the compiled one, which takes half a minute."""
        monkeypatch.setattr(training, "VOXELS_PER_STEP", {2: 2**10, 3: 2**13})
        monkeypatch.setattr(torch, "compile", lambda loss: loss)

    @pytest.mark.parametrize("approach", ["2d", "3d"])
    @pytest.mark.parametrize("loss", ["fastmed", "monai"])
    def test_two_steps_on_patients(self, approach, loss, patients, tmp_path, capsys):
        arguments = ["--data", str(patients), "--steps", "2", "--approach", approach, "--loss", loss]
        assert main(["demo", *arguments, "--output", str(tmp_path / "out")]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        assert "shell" in captured.out
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"demo.png", "demo.json"}
        assert (tmp_path / "out/demo.png").read_bytes().startswith(b"\x89PNG")
        figures = json.loads((tmp_path / "out/demo.json").read_text())
        assert figures["by_class"].keys() == {"background", "shell", "core"}
        assert len(figures["training_loss"]) == 2
        monai, _, fused = figures["loss_comparison"]
        assert fused["value"] == pytest.approx(monai["value"], rel=1e-5)
        assert fused["gradient_difference"] < 1e-4
        assert fused["kept_bytes"] < monai["kept_bytes"]

    def test_a_seed_gives_the_same_figures_again(self, patients, tmp_path, capsys):
        runs = []
        for seed in (3, 3, 4):
            arguments = ["--data", str(patients), "--steps", "3", "--seed", str(seed), "--output", str(tmp_path)]
            assert main(["demo", *arguments]) == 0
            runs.append(json.loads((tmp_path / "demo.json").read_text()))
        assert runs[0]["training_loss"] == runs[1]["training_loss"]
        assert runs[0]["by_class"] == runs[1]["by_class"]
        assert runs[0]["training_loss"] != runs[2]["training_loss"]


def _ramp(shape):
    """A case whose image says which voxel it is."""
    image = torch.arange(float(np.prod(shape))).view(1, *shape)
    return Case("ramp", image, (image[0] % 3).to(torch.uint8), (1.0, 1.0, 1.0))


class TestTraining:
    @pytest.mark.parametrize("patch", [(8, 8, 8), (24, 8, 24), (8, 24)])
    def test_patches_keep_image_and_label_together(self, patch):
        sampler = training.PatchSampler([_ramp((20, 18, 16))], patch, np.random.default_rng(0))
        for _ in range(10):
            sample = sampler.draw()
            assert sample["image"].shape == sample["label"].shape == (1, *patch)
            assert ((sample["image"] % 3).to(torch.uint8) == sample["label"]).all()

    def test_every_class_is_drawn_as_often(self):
        label = torch.zeros(16, 16, 16, dtype=torch.uint8)
        label[8, 8, 8] = 1
        case = Case("rare", torch.zeros(1, 16, 16, 16), label, (1.0, 1.0, 1.0))
        sampler = training.PatchSampler([case], (1, 1, 1), np.random.default_rng(0))
        assert 60 < sum(int(sampler.draw()["label"]) for _ in range(200)) < 140

    @pytest.mark.parametrize("patch", [(16, 16, 16), (24, 24)])
    def test_a_window_puts_every_voxel_back_in_its_place(self, patch):
        case = _ramp((20, 18, 33))
        case = case._replace(image=case.label[None].float())

        def network(image):
            return torch.cat([-((image - value) ** 2) for value in range(3)], 1)

        model = torch.nn.Module()
        model.forward = network
        prediction = training.predict(model, case, training.Plan(patch, 4), torch.device("cpu"))
        assert prediction.dtype == torch.uint8
        assert (prediction == case.label).all()

    def test_smoothed(self):
        assert training.smoothed([4.0, 2.0, 0.0, 1.0], 2) == [4.0, 3.0, 1.0, 0.5]


class TestComparison:
    def test_memory_kept_counts_a_storage_once_and_no_operand(self):
        logits, labels = torch.randn(1, 2, 10), torch.zeros(1, 1, 10, dtype=torch.uint8)

        def loss(logits, labels):
            doubled = logits * 2.0  # kept by both products below
            return (doubled * doubled).sum() + (doubled * logits).sum()

        assert comparison.kept_bytes(loss, logits, labels) == logits.nbytes

    def test_gradient_difference_is_relative_to_the_largest_element(self):
        logits, labels = torch.ones(1, 2, 4), torch.zeros(1, 1, 4, dtype=torch.uint8)
        losses = {
            "a": lambda logits, labels: (4.0 * logits).sum(),
            "b": lambda logits, labels: (3.0 * logits).sum(),
        }
        first, second = comparison.compare(losses, logits, labels, rounds=1)
        assert (first.gradient_difference, second.gradient_difference) == (0.0, 0.25)
        assert (first.value, second.value) == (32.0, 24.0)

    @pytest.mark.usefixtures("no_batch_is_small")
    def test_fused_loss_keeps_next_to_nothing(self):
        logits, labels = torch.randn(1, 4, 16, 16, 16), torch.randint(4, (1, 1, 16, 16, 16), dtype=torch.uint8)
        assert comparison.kept_bytes(comparison.fused_dice_ce(), logits, labels) < 1024

    def test_monai_has_the_same_value_and_gradient(self):
        logits, labels = torch.randn(2, 4, 8, 8, 8), torch.randint(4, (2, 1, 8, 8, 8), dtype=torch.uint8)
        losses = {"MONAI": comparison.monai_dice_ce(), "fastmed": comparison.fused_dice_ce()}
        monai, fused = comparison.compare(losses, logits, labels, rounds=1)
        assert fused.value == pytest.approx(monai.value, rel=1e-6)
        assert fused.gradient_difference < 1e-5


def test_a_patient_without_a_class_does_not_count_for_it():
    counts = torch.tensor([[[8, 0, 0], [0, 4, 0], [0, 0, 0]], [[8, 0, 0], [0, 2, 2], [0, 0, 4]]])
    scores = report.score(("background", "a", "b"), ("first", "second"), counts)
    assert scores.foreground_dice["first"] == 1.0
    assert scores.foreground_dice["second"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert scores.by_class["Dice"] == pytest.approx([1.0, 12 / 14, 0.8])


def test_an_unreadable_volume_is_an_input_error(tmp_path):
    (tmp_path / "a.nii").write_bytes(bytes(400))
    with pytest.raises(InputError, match=r"a\.nii: is not a readable NIfTI file"):
        decathlon._read_volume(tmp_path / "a.nii")
