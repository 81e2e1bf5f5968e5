"""One option of nnU-Net's command line: its trainer and the fused one on the same patches, their losses overlaid.

    python examples/train_nnunet.py --data Task04_Hippocampus --output nnunet [--cases 8] [--iterations 10]

Makes a small nnU-Net data set from a folder in the layout of the Medical Segmentation Decathlon, plans and preprocesses
it as nnU-Net does, and trains with both trainers from one seed. `--output` then holds the losses, `train-nnunet.json`,
and their picture, `train-nnunet.png`, beside nnU-Net's own folders.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from curves_figure import draw

DATASET = 999
NAME = f"Dataset{DATASET}_Example"
CONFIGURATION = "3d_fullres"


def make_dataset(data: Path, raw: Path, cases: int) -> str:
    """Copies the first cases under the names that nnU-Net wants, and returns the name of the data."""
    described = json.loads((data / "dataset.json").read_text())
    if len(described["modality"]) != 1:
        raise SystemExit(f"{data}: holds images of {len(described['modality'])} channels, this example takes one")
    for folder in ("imagesTr", "labelsTr"):
        (raw / NAME / folder).mkdir(parents=True, exist_ok=True)
    entries = described["training"][:cases]
    for entry in entries:
        label = data / entry["label"]
        shutil.copy(data / entry["image"], raw / NAME / "imagesTr" / label.name.replace(".nii.gz", "_0000.nii.gz"))
        shutil.copy(label, raw / NAME / "labelsTr" / label.name)
    dataset = {
        "channel_names": described["modality"],
        "labels": {name: int(value) for value, name in described["labels"].items()},
        "numTraining": len(entries),
        "file_ending": ".nii.gz",
    }
    (raw / NAME / "dataset.json").write_text(json.dumps(dataset, indent=2))
    name: str = described["name"]
    return name


def plan_and_preprocess() -> None:
    """What `nnUNetv2_plan_and_preprocess` does, for one configuration."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    api.extract_fingerprints([DATASET], num_processes=1)
    api.plan_experiments([DATASET])
    api.preprocess([DATASET], configurations=[CONFIGURATION], num_processes=[1])


def train(trainer_class: type, preprocessed: Path, iterations: int) -> dict[str, Any]:
    """The first iterations on the CPU: which loss they took, its values, and what an iteration was."""
    import numpy as np
    import torch

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    plans = json.loads((preprocessed / NAME / "nnUNetPlans.json").read_text())
    dataset = json.loads((preprocessed / NAME / "dataset.json").read_text())
    trainer = trainer_class(plans | {"continue_training": False}, CONFIGURATION, "all", dataset, torch.device("cpu"))
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    losses = []
    for iteration in range(iterations):
        losses.append(float(trainer.train_step(next(trainer.dataloader_train))["loss"]))
        print(
            f"{trainer_class.__name__:22s} iteration {iteration + 1:3d}/{iterations}  loss {losses[-1]:.6f}", flush=True
        )
    plan = trainer.configuration_manager
    level = trainer.loss.loss if trainer.enable_deep_supervision else trainer.loss
    return {
        "loss": f"{type(level).__module__}.{type(level).__qualname__}",
        "losses": losses,
        "patch": list(plan.patch_size),
        "batch": plan.batch_size,
        "learning_rate": trainer.initial_lr,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the data set, trains twice, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with dataset.json, imagesTr and labelsTr")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results, the picture and nnU-Net")
    parser.add_argument("--cases", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--iterations", type=int, default=10, help="of each training (%(default)s)")
    options = parser.parse_args(arguments)
    folders = {name: options.output.resolve() / name for name in ("raw", "preprocessed", "results")}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        os.environ |= {f"nnUNet_{name}": str(folder)}
    data = make_dataset(options.data, folders["raw"], options.cases)
    plan_and_preprocess()
    # No process besides this one, so that both trainers draw the same patches.
    os.environ |= {"nnUNet_n_proc_DA": "0"}

    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from fastmed.compat.nnunet.trainer import nnUNetTrainerFastmed

    trainers = (nnUNetTrainer, nnUNetTrainerFastmed)
    runs = {trainer.__name__: train(trainer, folders["preprocessed"], options.iterations) for trainer in trainers}
    both = zip(*(run["losses"] for run in runs.values()), strict=True)
    result = {
        "data": data,
        "cases": options.cases,
        "runs": runs,
        "largest_difference": max(abs(a - b) for a, b in both),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "nnunet": metadata.version("nnunetv2"),
    }
    print(f"largest difference of the losses: {result['largest_difference']:.1e}")
    (options.output / "train-nnunet.json").write_text(json.dumps(result, indent=1) + "\n")
    curves = {name: run["losses"] for name, run in runs.items()}
    draw(curves, "loss (cross entropy minus Dice)", options.output / "train-nnunet.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
