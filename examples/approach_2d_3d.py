"""Slices or volumes: a 2D and a 3D network on the same MRI volumes, with the same training budget.

    python examples/approach_2d_3d.py --data Task04_Hippocampus [--steps 150] [--output out/approach]

Both are the same small U-Net, of the same widths, with the same loss; one sees axial slices, the other blocks. The
budget is the number of voxels that training shows to each. The Dice of every held-out case is counted over the whole
volume; intervals are of the bootstrap over cases, and that of the difference is paired. The terminal shows the table;
every number is in `approach.json`, and `approach.png` is the picture.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import approach_figure

# Here, so that the time of the first network is that of its training alone.
import monai.networks.nets
import monai.transforms  # noqa: F401
import torch
from rich.console import Console
from rich.progress import Progress, track
from torch import Tensor

import fastmed
from fastmed.demo.cases import Split
from fastmed.demo.decathlon import load_split
from fastmed.demo.errors import InputError
from fastmed.demo.report import dice_of_case
from fastmed.demo.training import Plan, plan, predict, train
from fastmed.metrics import Scores
from fastmed.metrics import functional as metrics

NAMES = {2: "2D slices", 3: "3D volumes"}


class Approach(NamedTuple):
    """A trained network on the held-out cases.

    Attributes:
        steps: of the optimiser.
        parameters: of the network.
        seconds: of training.
        predictions: labels uint8 (X, Y, Z) of each case.
        dice: of each case and class without the background, float64 (N, C - 1); NaN where a case has none of it.
    """

    steps: int
    parameters: int
    seconds: float
    predictions: list[Tensor]
    dice: Tensor


def follow(split: Split, sizes: Plan, steps: int, seed: int, console: Console) -> Approach:
    """Train on the one kind of patches, and segment the held-out cases."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = NAMES[sizes.spatial_dims]
    start = time.perf_counter()
    with Progress(console=console) as progress:
        task = progress.add_task(f"{name}, {steps} steps", total=steps)
        trained = train(
            split,
            sizes,
            fastmed.DiceCELoss(),
            steps=steps,
            seed=seed,
            device=device,
            on_step=lambda loss: progress.advance(task),
        )
    seconds = time.perf_counter() - start
    cases = track(split.test, f"{name}, segmenting {len(split.test)} cases", console=console)
    predictions = [predict(trained.model, case, sizes, device) for case in cases]
    dice = [
        dice_of_case(each, case.label, len(split.classes)) for each, case in zip(predictions, split.test, strict=True)
    ]
    parameters = sum(parameter.numel() for parameter in trained.model.parameters())
    return Approach(steps, parameters, seconds, predictions, torch.stack(dice))


def compare(split: Split, approaches: dict[int, Approach], seed: int) -> Scores:
    """Mean Dice over cases of each class, and how much the volumes gain in the same cases."""
    by_case = {NAMES[dims]: approach.dice for dims, approach in approaches.items()}
    by_case["3D - 2D"] = approaches[3].dice - approaches[2].dice
    return Scores(
        split.classes[1:],
        {name: dice.nanmean(0) for name, dice in by_case.items()},
        {
            name: metrics.bootstrap_mean_interval(dice, generator=torch.Generator().manual_seed(seed))
            for name, dice in by_case.items()
        },
    )


def report(split: Split, approaches: dict[int, Approach], scores: Scores) -> dict[str, Any]:
    """Every number."""
    return {
        "data": split.title,
        "split": split.description,
        "approaches": {
            NAMES[dims]: {
                "steps": approach.steps,
                "parameters": approach.parameters,
                "seconds": round(approach.seconds, 1),
                "dice": {
                    case.name: [None if math.isnan(dice) else dice for dice in values.tolist()]
                    for case, values in zip(split.test, approach.dice, strict=True)
                },
            }
            for dims, approach in approaches.items()
        },
        "classes": {
            name: {
                figure: {
                    "value": scores.values[figure][index].item(),
                    "interval": [limit[index].item() for limit in scores.intervals[figure]],
                }
                for figure in scores.values
            }
            for index, name in enumerate(scores.names)
        },
    }


def run(split: Split, steps: int, output: Path, seed: int, console: Console) -> None:
    """Both approaches one after the other; files are written at the end."""
    sizes = {dims: plan(split.train, dims) for dims in (2, 3)}
    voxels = {dims: math.prod(each.patch) * each.batch for dims, each in sizes.items()}
    budget = steps * voxels[3]
    console.print(f"{split.title}: {split.description}; {budget / 1e6:.1f} million voxels to train each network")
    approaches = {
        dims: follow(split, sizes[dims], max(1, round(budget / voxels[dims])), seed, console) for dims in (2, 3)
    }
    scores = compare(split, approaches, seed)
    console.print(scores)
    for dims, approach in approaches.items():
        console.print(f"{NAMES[dims]}: {approach.parameters:,} parameters, trained in {approach.seconds:.0f} s")
    output.mkdir(parents=True, exist_ok=True)
    content = report(split, approaches, scores)
    (output / "approach.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    predictions = {NAMES[dims]: approach.predictions[0] for dims, approach in approaches.items()}
    approach_figure.draw(output / "approach.png", content, split.test[0], predictions)
    console.print(f"Wrote {output / 'approach.png'} and {output / 'approach.json'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 where the data cannot be used, which one line on stderr says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with dataset.json, imagesTr and labelsTr")
    parser.add_argument("--steps", type=int, default=150, help="of the 3D network (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("out/approach"), help="for approach.png and .json")
    parser.add_argument("--seed", type=int, default=0, help="of weights, patches and bootstrap (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        split = load_split(options.data, options.seed)
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    if len(split.test) < 2:
        print(f"{parser.prog}: error: {options.data}: holds out one case, an interval takes two", file=sys.stderr)
        return 2
    run(split, options.steps, options.output, options.seed, Console(highlight=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
