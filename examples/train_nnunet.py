"""One option of nnU-Net's command line: its trainer and the fused one on the same patches, their losses overlaid.

    python examples/train_nnunet.py --data Task04_Hippocampus --out nnunet [--cases 8] [--iterations 10]

Makes a small nnU-Net data set from a folder in the layout of the Medical Segmentation Decathlon, plans and preprocesses
it as nnU-Net does, and trains with both trainers from one seed. The picture is `losses.png` in `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
from pathlib import Path

from curves_figure import draw

DATASET = 999
NAME = f"Dataset{DATASET}_Example"
CONFIGURATION = "3d_fullres"


def make_dataset(data: Path, raw: Path, cases: int) -> None:
    """Copies the first cases under the names that nnU-Net wants."""
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


def plan_and_preprocess() -> None:
    """What `nnUNetv2_plan_and_preprocess` does, for one configuration."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    api.extract_fingerprints([DATASET], num_processes=1)
    api.plan_experiments([DATASET])
    api.preprocess([DATASET], configurations=[CONFIGURATION], num_processes=[1])


def train(trainer_class: type, preprocessed: Path, iterations: int) -> list[float]:
    """The loss of each of the first iterations, on the CPU."""
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
    return losses


def main() -> None:
    """Makes the data set, trains twice, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with dataset.json, imagesTr and labelsTr")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=10)
    arguments = parser.parse_args()
    folders = {name: arguments.out.resolve() / name for name in ("raw", "preprocessed", "results")}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        os.environ |= {f"nnUNet_{name}": str(folder)}
    make_dataset(arguments.data, folders["raw"], arguments.cases)
    plan_and_preprocess()
    # No process besides this one, so that both trainers draw the same patches.
    os.environ |= {"nnUNet_n_proc_DA": "0"}

    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from fastmed.compat.nnunet.trainer import nnUNetTrainerFastmed

    losses = {
        trainer.__name__: train(trainer, folders["preprocessed"], arguments.iterations)
        for trainer in (nnUNetTrainer, nnUNetTrainerFastmed)
    }
    theirs, ours = losses.values()
    print(f"largest difference of the losses: {max(abs(a - b) for a, b in zip(theirs, ours, strict=True)):.1e}")
    draw(losses, "loss (cross entropy minus Dice)", arguments.out / "losses.png")


if __name__ == "__main__":
    main()
