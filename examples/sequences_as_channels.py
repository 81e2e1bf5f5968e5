"""Sequences of one patient are channels of one image: T1w, T2w and both, for the same network.

    pip install --no-deps hippunfold==0.5.11        # the volumes are files of its package; it is not imported
    pip install 'fastmed[demo,metrics]'
    python examples/sequences_as_channels.py [--steps 40] [--seeds 1] [--output out/sequences]

The CITI168 template (Pauli et al., "A high-resolution probabilistic in vivo atlas of human subcortical brain nuclei",
2018), as hippunfold ships it: T1w, T2w and a mask of the hippocampus of both hemispheres. Each hemisphere trains once
and is held out once. A channel is a place in the network, so that sequences stand in one order always and slices of a
volume are never shuffled. One head shows that a second sequence takes one more channel and nothing else, and what it
does here; not which sequence is better on other heads, which takes patients. So there is no interval, only seeds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import sequences_figure
import torch
from nibabel.processing import resample_from_to
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

import fastmed
from fastmed.demo.cases import Case, Split, scale_intensity
from fastmed.demo.errors import InputError
from fastmed.demo.report import dice_of_case
from fastmed.demo.training import plan, predict, train

SEQUENCES = ("T1w", "T2w")
INPUTS = {"T1w": [0], "T2w": [1], "T1w + T2w": [0, 1]}
HEMISPHERES = {"L": "left", "R": "right"}
# 0.3 mm is finer than a small network needs: 2 x 2 x 2 voxels become one.
COARSER = 2
# Patches of a step: half of the demonstration's, for six trainings.
BATCH = 4

OnStep = Callable[[float], None]


def find_data() -> Path:
    """Folder of the template in the installed package.

    Raises:
        InputError: where the package is not installed.
    """
    package = importlib.util.find_spec("hippunfold")
    if package is None or package.origin is None:
        raise InputError("no hippunfold with the CITI168 template: pip install --no-deps hippunfold==0.5.11")
    return Path(package.origin).parent / "resources" / "CITI168"


def read(folder: Path, kind: str, hemisphere: str) -> Any:
    """A volume, its axes turned to right, front, up.

    Raises:
        InputError: for a file that is missing.
    """
    path = folder / f"{kind}_300umCoronalOblique_hemi-{hemisphere}.nii.gz"
    if not path.is_file():
        raise InputError(f"{path}: no such file; pip install --no-deps hippunfold==0.5.11")
    return nibabel.as_closest_canonical(nibabel.load(path))


def on_grid(image: Any, grid: Any, order: int) -> np.ndarray:
    """Voxels of an image on the grid of another: channels must show the same place."""
    same = image.shape == grid.shape and np.allclose(image.affine, grid.affine, atol=1e-3)
    voxels = (image if same else resample_from_to(image, grid, order=order)).get_fdata(dtype=np.float32)
    return np.ascontiguousarray(voxels)


def coarser(volume: Tensor) -> Tensor:
    """Mean of each block of a volume (channels, X, Y, Z)."""
    return torch.nn.functional.avg_pool3d(volume, COARSER)


def load_case(folder: Path, hemisphere: str) -> Case:
    """Both sequences of a hemisphere as the channels of one image, with the mask of the hippocampus."""
    grid = read(folder, SEQUENCES[0], hemisphere)
    sequences = np.stack([on_grid(read(folder, name, hemisphere), grid, 1) for name in SEQUENCES])
    mask = on_grid(read(folder, "Mask", hemisphere), grid, 0)
    # Interpolation leaves small negative values around the head, which is air.
    image = coarser(torch.from_numpy(scale_intensity(sequences.clip(min=0.0))))
    label = coarser(torch.from_numpy(mask[None]))[0].round().to(torch.uint8)
    x, y, z = (float(size) * COARSER for size in grid.header.get_zooms())
    return Case(HEMISPHERES[hemisphere], image, label, (x, y, z))


def choose(case: Case, channels: list[int]) -> Case:
    """The case with these channels of its image."""
    return case._replace(image=case.image[channels])


def fit(
    cases: Sequence[Case], channels: list[int], steps: int, seed: int, on_step: OnStep
) -> list[tuple[float, Tensor]]:
    """Dice and prediction of each hemisphere, after training on the other.

    Flips from left to right make the one hemisphere look like the other.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = [choose(case, channels) for case in cases]
    found = []
    for held_out, other in zip(chosen, reversed(chosen), strict=True):
        split = Split("CITI168", "", ("background", "hippocampus"), (other,), (held_out,), (0,))
        sizes = plan(split.train, 3)._replace(batch=BATCH)
        loss = fastmed.DiceCELoss(pool="batch")
        trained = train(split, sizes, loss, steps=steps, seed=seed, device=device, on_step=on_step)
        prediction = predict(trained.model, held_out, sizes, device)
        found.append((dice_of_case(prediction, held_out.label, 2).item(), prediction))
    return found


def run(cases: Sequence[Case], steps: int, seeds: int, output: Path, console: Console) -> None:
    """Every input with every seed; files are written at the end."""
    dice: dict[str, dict[str, list[float]]] = {}
    predictions = {}
    with Progress(console=console) as progress:
        for name, channels in INPUTS.items():
            bar = progress.add_task(name, total=seeds * len(cases) * steps)
            runs = [
                fit(cases, channels, steps, seed, lambda _, bar=bar: progress.advance(bar)) for seed in range(seeds)
            ]
            dice[name] = {case.name: [of[index][0] for of in runs] for index, case in enumerate(cases)}
            predictions[name] = runs[0][-1][1]
    table = Table("input", *(f"{case.name} held out" for case in cases), "mean", title="Dice of the hippocampus")
    for name, of in dice.items():
        means = [statistics.mean(values) for values in of.values()]
        table.add_row(name, *(f"{value:.3f}" for value in (*means, statistics.mean(means))))
    console.print(table)
    console.print("One head, both hemispheres: a working pipeline, not a finding about sequences.")
    shape = list(cases[0].label.shape)
    content = {"data": "CITI168", "shape": shape, "steps": steps, "seeds": seeds, "dice": dice}
    output.mkdir(parents=True, exist_ok=True)
    (output / "sequences.json").write_text(json.dumps(content, indent=1) + "\n")
    sequences_figure.draw(output / "sequences.png", content, cases[-1], predictions)
    console.print(f"Wrote {output / 'sequences.png'} and {output / 'sequences.json'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 where the data cannot be used, which one line on stderr says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="of each training (%(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("out/sequences"), help="for the picture and the numbers")
    options = parser.parse_args(arguments)
    try:
        folder = find_data()
        cases = [load_case(folder, hemisphere) for hemisphere in HEMISPHERES]
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    run(cases, options.steps, options.seeds, options.output, Console(highlight=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
