"""Train a segmentation with Lightning on data in the layout of the Medical Segmentation Decathlon.

    pip install lightning 'fastmed[demo,metrics]'
    python examples/train_lightning.py --data Task04_Hippocampus [--spatial-dims 2] [--epochs 5]

fastmed is one line of a LightningModule that trains with MONAI's loss:

    -        self.loss = monai.losses.DiceCELoss(softmax=True, to_onehot_y=True)
    +        self.loss = fastmed.DiceCELoss()

and its metrics are torchmetrics, which Lightning moves, resets and reduces over processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import fastmed
from fastmed.demo.cases import Case, Split
from fastmed.demo.decathlon import load_split
from fastmed.demo.errors import InputError
from fastmed.demo.training import LEARNING_RATE, PatchSampler, Plan, augmentation, plan, predict, unet
from fastmed.metrics import SegmentationScores


class Segmentation(lightning.LightningModule):
    """A U-Net on patches, validated on whole volumes.

    Args:
        channels: of the images.
        classes: name of each label, background first.
        sizes: patches of a step.
    """

    def __init__(self, channels: int, classes: Sequence[str], sizes: Plan) -> None:
        super().__init__()
        self.network = unet(sizes.spatial_dims, channels, len(classes))
        self.loss = fastmed.DiceCELoss()
        self.scores = SegmentationScores(len(classes), figures="dice", include_background=False)
        self.names, self.sizes = classes[1:], sizes

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """The loss of a batch of patches."""
        loss: Tensor = self.loss(self.network(batch["image"]), batch["label"])
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, case: Case, index: int) -> None:
        """Counts the voxels of a whole volume, predicted by a sliding window."""
        labels = predict(self.network, case, self.sizes, self.device)
        self.scores.update(labels[None].to(self.device), case.label[None].to(self.device))

    def on_validation_epoch_end(self) -> None:
        """The Dice of each class, the mean over cases."""
        for name, dice in zip(self.names, self.scores.compute(), strict=True):
            self.log(f"Dice {name}", dice.float(), prog_bar=True)
        self.scores.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.network.parameters(), lr=LEARNING_RATE)


class Patches(Dataset[dict[str, Tensor]]):
    """Random patches of the training cases, as many an epoch as were asked for."""

    def __init__(self, split: Split, sizes: Plan, number: int, seed: int) -> None:
        self._sampler = PatchSampler(split.train, sizes.patch, np.random.default_rng(seed))
        self._augment = augmentation(sizes.spatial_dims, split.flip_axes)
        self._number = number

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._augment(self._sampler.draw())


def fit(split: Split, sizes: Plan, *, epochs: int, steps: int, seed: int) -> tuple[Segmentation, dict[str, float]]:
    """The trained module, and what it logged last.

    Args:
        split: cases that train, and cases held out.
        sizes: patches of a step.
        epochs: how often the held-out cases are scored.
        steps: of the optimiser in an epoch.
        seed: of weights and patches.
    """
    lightning.seed_everything(seed, verbose=False)
    module = Segmentation(split.train[0].image.shape[0], split.classes, sizes)
    trainer = lightning.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_model_summary=False, num_sanity_val_steps=0
    )
    trainer.fit(
        module,
        DataLoader(Patches(split, sizes, steps * sizes.batch, seed), sizes.batch),
        DataLoader(split.test, batch_size=None),
    )
    return module, {name: float(value) for name, value in trainer.callback_metrics.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 where the data cannot be used, which one line on stderr says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with dataset.json, imagesTr and labelsTr")
    parser.add_argument("--spatial-dims", type=int, choices=(2, 3), default=3, help="slices or volumes (%(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of each epoch (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    options = parser.parse_args(arguments)
    try:
        split = load_split(options.data, options.seed)
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(f"{split.title}: {split.description}")
    sizes = plan(split.train, options.spatial_dims)
    _, logged = fit(split, sizes, epochs=options.epochs, steps=options.steps, seed=options.seed)
    for name in split.classes[1:]:
        print(f"{name}: Dice {logged[f'Dice {name}']:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
