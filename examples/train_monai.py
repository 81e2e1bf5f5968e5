"""Train MONAI's U-Net with MONAI's loss and with the fused one in its place, from the same seeds.

    pip install 'fastmed[demo,metrics]'
    python examples/train_monai.py --data Task04_Hippocampus --output out

The script takes its loss from MONAI. One line, `fastmed.compat.monai.patch()`, puts the fused loss there. Both
trainings see the same patches, of data in the layout of the Medical Segmentation Decathlon, and start from the same
weights: their curves differ by rounding, and their scores by no more than those of other seeds. Training amplifies
rounding, the more the larger its learning rate, so this one is a cautious rate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import monai
import torch
from curves_figure import draw
from rich.progress import Progress

from fastmed.compat.monai import patch
from fastmed.demo.cases import Split
from fastmed.demo.decathlon import load_split
from fastmed.demo.errors import InputError
from fastmed.demo.training import Plan, plan, predict, train
from fastmed.metrics import SegmentationScores

LEARNING_RATE = 1e-3

TRAININGS: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "MONAI": contextlib.nullcontext,
    "patched": patch,
}


def fit(split: Split, sizes: Plan, *, steps: int, seed: int, on_step: Callable[[float], None]) -> dict[str, Any]:
    """One training with the loss that `monai.losses` holds: its curve, its time, and the Dice of the held-out cases.

    Args:
        split: cases that train, and cases held out.
        sizes: patches of a step.
        steps: of the optimiser.
        seed: of weights, patches and augmentation.
        on_step: called after each step with its loss.
    """
    device = torch.device("cpu")
    loss = monai.losses.DiceCELoss(softmax=True, to_onehot_y=True, squared_pred=True)
    start = time.perf_counter()
    trained = train(
        split, sizes, loss, steps=steps, seed=seed, device=device, on_step=on_step, learning_rate=LEARNING_RATE
    )
    seconds = time.perf_counter() - start
    scores = SegmentationScores(len(split.classes), figures="dice", include_background=False)
    for case in split.test:
        scores.update(predict(trained.model, case, sizes, device)[None], case.label[None])
    dice = dict(zip(split.classes[1:], scores.compute().tolist(), strict=True))
    # MONAI's own loss has no choice of a backend.
    fused = hasattr(loss, "backend")
    return {"fused": fused, "losses": trained.losses, "training_seconds": seconds, "dice": dice}


def compare(split: Split, sizes: Plan, *, steps: int, seeds: int) -> dict[str, Any]:
    """Both trainings for each seed, and by how much their curves differ at most."""
    runs = []
    with Progress() as progress:
        for seed in range(seeds):
            run: dict[str, Any] = {"seed": seed}
            for name, losses_of in TRAININGS.items():
                bar = progress.add_task(f"seed {seed}, {name}", total=steps)
                with losses_of():
                    run[name] = fit(
                        split, sizes, steps=steps, seed=seed, on_step=lambda _, bar=bar: progress.advance(bar)
                    )
            both = zip(*(run[name]["losses"] for name in TRAININGS), strict=True)
            run["largest_difference"] = max(abs(a - b) for a, b in both)
            runs.append(run)
    return {
        "data": split.title,
        "patch": sizes.patch,
        "batch": sizes.batch,
        "steps": steps,
        "learning_rate": LEARNING_RATE,
        "runs": runs,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 where the data cannot be used, which one line on stderr says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with dataset.json, imagesTr and labelsTr")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results and the picture")
    parser.add_argument("--steps", type=int, default=50, help="of each training (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(%(default)s)")
    options = parser.parse_args(arguments)
    try:
        split = load_split(options.data, 0)
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    result = compare(split, plan(split.train, 3), steps=options.steps, seeds=options.seeds)
    result |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "monai": monai.__version__}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "train-monai.json").write_text(json.dumps(result, indent=1) + "\n")
    first = result["runs"][0]
    draw(
        {name: first[name]["losses"] for name in TRAININGS}, "Dice + cross entropy", options.output / "train-monai.png"
    )
    for run in result["runs"]:
        dice = ", ".join(f"{name} {sum(run[name]['dice'].values()) / len(run[name]['dice']):.4f}" for name in TRAININGS)
        print(f"seed {run['seed']}: curves differ by at most {run['largest_difference']:.1e}; mean Dice {dice}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
