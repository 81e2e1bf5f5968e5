"""Registration before training: Colin27 onto MNI152, its labels carried over, and how well it fits.

    sudo apt-get install mricron-data        # Colin27 with AAL and Brodmann labels
    pip install 'fastmed[demo,metrics]' SimpleITK
    python examples/register_atlas.py [--atlas /usr/share/mricron/templates] [--output out/register]

An affine transform by mutual information, then diffeomorphic demons, both from coarse to fine. Before and after,
Colin27's tissue, by Otsu's thresholds, is scored against the tissue maps of MNI152: how well the images fit, not how
right each label is. Labels are carried by nearest neighbour, so that no label arises between two others. Every number
is in `register-atlas.json`, and `register-atlas.png` is the picture.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import register_figure
import SimpleITK as sitk
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from fastmed.demo.errors import InputError
from fastmed.demo.mni152 import load_atlas
from fastmed.functional import confusion_counts
from fastmed.metrics import Scores
from fastmed.metrics import functional as metrics

BRAIN = "ch2bet.nii.gz"
LABELS = {"AAL": "aal.nii.gz", "Brodmann": "brodmann.nii.gz"}
TISSUES = ("CSF", "grey matter", "white matter")
MASKS = {"brain": 1, "grey and white matter": 2}
AFFINE_STEPS = 100
# Shrink factor and iterations of each level, and the smoothness of the field in voxels: less of it folds.
DEMONS = ((4, 40), (2, 40), (1, 20))
SMOOTHNESS = 1.5


class Template(NamedTuple):
    """What is registered to: its brain, float32, and its tissues, 0 to 3, on one grid."""

    brain: sitk.Image
    tissues: sitk.Image


def load_template() -> Template:
    """MNI152 at 1 mm, as nilearn ships it; ITK's axes run to the left and to the back."""
    from nilearn import datasets

    affine = np.diag([-1, -1, 1, 1]) @ datasets.load_mni152_template(resolution=1).affine
    atlas = load_atlas()
    images = [sitk.GetImageFromArray(np.ascontiguousarray(array.T)) for array in (atlas.image, atlas.label)]
    for image in images:
        image.SetOrigin(affine[:3, 3].tolist())
        image.SetDirection(affine[:3, :3].ravel().tolist())
    return Template(*images)


def read_atlas(folder: Path) -> tuple[sitk.Image, dict[str, sitk.Image]]:
    """Colin27's brain, and its label maps by name.

    Raises:
        InputError: for a file that is missing or no image.
    """
    images = []
    for name in (BRAIN, *LABELS.values()):
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: no such file; Debian has it: apt-get install mricron-data")
        try:
            images.append(sitk.ReadImage(path))
        except RuntimeError as error:
            raise InputError(f"{path}: is not a readable image") from error
    brain, *labels = images
    return sitk.Cast(brain, sitk.sitkFloat32), dict(zip(LABELS, labels, strict=True))


def tissues_by_otsu(brain: sitk.Image) -> sitk.Image:
    """CSF, grey and white matter (1, 2, 3) of a brain that is 0 outside, by the two thresholds that part it best."""
    voxels = sitk.GetArrayFromImage(brain)
    otsu = sitk.OtsuMultipleThresholdsImageFilter()
    otsu.SetNumberOfThresholds(2)
    otsu.Execute(sitk.GetImageFromArray(voxels[voxels > 0][None]))
    labels = np.where(voxels > 0, 1 + np.digitize(voxels, otsu.GetThresholds()), 0)
    image = sitk.GetImageFromArray(labels.astype(np.uint8))
    image.CopyInformation(brain)
    return image


def shrink(image: sitk.Image, factor: int) -> sitk.Image:
    """The image at a coarser grid, smoothed before."""
    return sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, factor / 2), [factor] * 3) if factor > 1 else image


def register_affine(fixed: sitk.Image, moving: sitk.Image, progress: Progress) -> sitk.Transform:
    """The affine transform of most mutual information."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    # Even regular samples are moved at random within their voxels.
    method.SetMetricSamplingPercentage(0.2, seed=1)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, AFFINE_STEPS)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 0])
    method.SetInitialTransform(sitk.AffineTransform(3), True)
    bar = progress.add_task("affine", total=3 * AFFINE_STEPS)
    method.AddCommand(sitk.sitkIterationEvent, lambda: progress.advance(bar))
    found = method.Execute(fixed, moving)
    progress.update(bar, completed=3 * AFFINE_STEPS)
    return found


def register_demons(fixed: sitk.Image, moving: sitk.Image, progress: Progress) -> sitk.Image:
    """The displacement field of an image that is affinely aligned, on the grid of `fixed`, from coarse to fine."""
    alike = sitk.HistogramMatching(moving, fixed, 256, 15, True)
    bar = progress.add_task("demons", total=sum(iterations for _, iterations in DEMONS))
    field = None
    for factor, iterations in DEMONS:
        demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfIterations(iterations)
        demons.SetStandardDeviations(SMOOTHNESS)
        demons.AddCommand(sitk.sitkIterationEvent, lambda: progress.advance(bar))
        levels = shrink(fixed, factor), shrink(alike, factor)
        field = demons.Execute(*levels) if field is None else demons.Execute(*levels, sitk.Resample(field, levels[0]))
    return field


def register(fixed: sitk.Image, moving: sitk.Image) -> tuple[dict[str, sitk.Transform], float]:
    """Transforms after each stage, and the share of voxels where the last one folds space."""
    fixed, moving = shrink(fixed, 2), shrink(moving, 2)
    with Progress() as progress:
        affine = register_affine(fixed, moving, progress)
        field = register_demons(fixed, sitk.Resample(moving, fixed, affine), progress)
    folded = float((sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field)) <= 0).mean())
    demons = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    stages = {"as it comes": sitk.Transform(3, sitk.sitkIdentity), "affine": affine}
    return {**stages, "affine, then demons": sitk.CompositeTransform([affine, demons])}, folded


def carry(labels: sitk.Image, template: Template, transform: sitk.Transform) -> Tensor:
    """Labels on the grid of the template, uint8 (X, Y, Z)."""
    carried = sitk.Resample(labels, template.tissues, transform, sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
    return torch.from_numpy(sitk.GetArrayFromImage(carried).T)


def tissue_dice(prediction: Tensor, truth: Tensor) -> dict[str, float]:
    """Dice of each tissue, and of masks of several."""
    table = metrics.one_versus_rest(confusion_counts(prediction[None], truth[None], 1 + len(TISSUES)).sum(0))
    found = dict(zip(TISSUES, metrics.dice(table)[1:].tolist(), strict=True))
    for name, lowest in MASKS.items():
        counts = confusion_counts((prediction >= lowest)[None], (truth >= lowest)[None], 2).sum(0)
        found[name] = metrics.dice(metrics.one_versus_rest(counts))[1].item()
    return found


def volumes(original: sitk.Image, carried: Tensor, voxel_ml: float) -> dict[str, list[float]]:
    """Millilitres of each label before and after it was carried over."""
    before = np.bincount(sitk.GetArrayViewFromImage(original).ravel(), minlength=256)
    after = torch.bincount(carried.flatten(), minlength=256)
    original_ml = float(np.prod(original.GetSpacing())) / 1000
    return {
        str(value): [round(before[value] * original_ml, 3), round(after[value].item() * voxel_ml, 3)]
        for value in np.flatnonzero(before)[1:]
    }


def run(template: Template, brain: sitk.Image, labels: dict[str, sitk.Image], output: Path, console: Console) -> None:
    """Register, carry over, score; files are written at the end."""
    start = time.perf_counter()
    stages, folded = register(template.brain, brain)
    seconds = time.perf_counter() - start
    truth = torch.from_numpy(sitk.GetArrayFromImage(template.tissues).T)
    tissues = tissues_by_otsu(brain)
    dice = {name: tissue_dice(carry(tissues, template, transform), truth) for name, transform in stages.items()}
    final = list(stages.values())[-1]
    carried = {name: carry(image, template, final) for name, image in labels.items()}
    voxel_ml = float(np.prod(template.tissues.GetSpacing())) / 1000
    ml = {name: volumes(image, carried[name], voxel_ml) for name, image in labels.items()}
    structures = (*TISSUES, *MASKS)
    by_stage = {name: torch.tensor([of[each] for each in structures]).double() for name, of in dice.items()}
    console.print("Dice against the tissues of MNI152", Scores(structures, by_stage))
    for name, of in ml.items():
        kept = sum(after > 0 for _, after in of.values())
        console.print(f"{name}: {kept} of {len(of)} labels carried over")
    console.print(f"{seconds:.0f} s; the field folds {folded:.2%} of the voxels")
    content = {"seconds": round(seconds, 1), "folded": folded, "dice": dice, "volumes_ml": ml}
    output.mkdir(parents=True, exist_ok=True)
    (output / "register-atlas.json").write_text(json.dumps(content, indent=1) + "\n")
    warped = {
        name: torch.from_numpy(sitk.GetArrayFromImage(sitk.Resample(brain, template.brain, transform)).T)
        for name, transform in stages.items()
    }
    target = torch.from_numpy(sitk.GetArrayFromImage(template.brain).T)
    register_figure.draw(output / "register-atlas.png", content, target, truth, warped, carried["AAL"])
    console.print(f"Wrote {output / 'register-atlas.png'} and {output / 'register-atlas.json'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 where the data cannot be used, which one line on stderr says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atlas", type=Path, default=Path("/usr/share/mricron/templates"), help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("out/register"), help="for the picture and the numbers")
    options = parser.parse_args(arguments)
    try:
        brain, labels = read_atlas(options.atlas)
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    run(load_template(), brain, labels, options.output, Console(highlight=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
