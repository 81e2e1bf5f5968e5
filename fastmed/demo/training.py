"""A U-Net trained on patches, and its prediction of whole volumes by a sliding window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .cases import Case, Split

Loss = Callable[[Tensor, Tensor], Tensor]

CHANNELS = (8, 16, 32, 64)
STRIDES = (1, 2, 2)
LARGEST_PATCH = {2: 96, 3: 32}
VOXELS_PER_STEP = {2: 2**17, 3: 2**18}
LEARNING_RATE = 1e-2
MAX_ROTATION = math.radians(15)
_CANDIDATES = 20_000


class Plan(NamedTuple):
    """Size of what one step sees: `patch` has 2 or 3 axes, 2 for axial slices."""

    patch: tuple[int, ...]
    batch: int

    @property
    def spatial_dims(self) -> int:
        """2 for slices, 3 for volumes."""
        return len(self.patch)


class Trained(NamedTuple):
    """The network, the loss of each step, and the tensors of the last one."""

    model: nn.Module
    losses: list[float]
    logits: Tensor
    labels: Tensor


def plan(cases: Sequence[Case], spatial_dims: int) -> Plan:
    """Patches that fit the median case, and as many of them a step as make up the same number of voxels."""
    median = np.median([case.label.shape for case in cases], axis=0)[:spatial_dims]
    multiple = math.prod(STRIDES)
    patch = tuple(min(LARGEST_PATCH[spatial_dims], multiple * math.ceil(size / multiple)) for size in median)
    return Plan(patch, max(1, round(VOXELS_PER_STEP[spatial_dims] / math.prod(patch))))


def unet(spatial_dims: int, channels: int, classes: int) -> nn.Module:
    """A small U-Net.

    Batch norm keeps what instance norm would remove from a patch: how bright it is, which tells tissues apart.
    """
    from monai.networks.nets import UNet

    network: nn.Module = UNet(spatial_dims, channels, classes, CHANNELS, STRIDES, norm="batch")
    return network


def augmentation(spatial_dims: int, flip_axes: Sequence[int]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Rotations, flips and intensity noise. Only axes within the patch are flipped."""
    from monai import transforms

    keys = ("image", "label")
    ranges = {f"range_{axis}": MAX_ROTATION for axis in "xyz"[: 1 if spatial_dims == 2 else 3]}
    compose: Callable[[dict[str, Tensor]], dict[str, Tensor]] = transforms.Compose(
        [
            transforms.RandRotated(keys, prob=0.3, mode=("bilinear", "nearest"), padding_mode="reflection", **ranges),
            *[transforms.RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in flip_axes if axis < spatial_dims],
            transforms.RandScaleIntensityd("image", factors=0.1, prob=0.5),
            transforms.RandAdjustContrastd("image", gamma=(0.9, 1.1), prob=0.3),
            transforms.RandGaussianNoised("image", std=0.03, prob=0.5),
            transforms.EnsureTyped(keys, dtype=(torch.float32, torch.uint8), track_meta=False),
        ]
    )
    return compose


class PatchSampler:
    """Random patches, each centred on a voxel of a class drawn evenly, so that small classes are seen too.

    Args:
        cases: volumes to draw from, each equally likely.
        patch: size in voxels; with 2 axes patches are parts of axial slices.
        rng: source of the draws.
    """

    def __init__(self, cases: Sequence[Case], patch: tuple[int, ...], rng: np.random.Generator) -> None:
        self._cases = cases
        self._patch = patch
        self._rng = rng
        self._centres = [self._candidates(case.label) for case in cases]

    def _candidates(self, label: Tensor) -> list[Tensor]:
        """Coordinates of up to `_CANDIDATES` voxels of each class that the case has."""
        flat = label.flatten()
        centres = []
        for value in torch.unique(flat):
            positions = (flat == value).nonzero().squeeze(1)
            drawn = torch.from_numpy(self._rng.permutation(len(positions))[:_CANDIDATES])
            centres.append(torch.stack(torch.unravel_index(positions[drawn], label.shape), dim=1))
        return centres

    def draw(self) -> dict[str, Tensor]:
        """Image (channels, *patch) and label (1, *patch) of one patch."""
        index = int(self._rng.integers(len(self._cases)))
        case = self._cases[index]
        by_class = self._centres[index]
        candidates = by_class[self._rng.integers(len(by_class))]
        centre = candidates[self._rng.integers(len(candidates))].tolist()
        size = (*self._patch, 1)[:3]
        image, label = _crop(case.image, centre, size), _crop(case.label[None], centre, size)
        if len(self._patch) == 2:
            image, label = image.squeeze(-1), label.squeeze(-1)
        return {"image": image, "label": label}


def _crop(volume: Tensor, centre: Sequence[int], size: Sequence[int]) -> Tensor:
    """Part of a volume (channels, X, Y, Z), moved inside where it can be and padded with 0 where not."""
    padding: list[int] = []
    for axis, (middle, width) in enumerate(zip(centre, size, strict=True), start=1):
        length = volume.shape[axis]
        start = min(max(middle - width // 2, 0), max(length - width, 0))
        volume = volume.narrow(axis, start, min(width, length))
        missing = max(width - length, 0)
        padding = [missing // 2, missing - missing // 2, *padding]
    return nn.functional.pad(volume, padding)


def train(
    split: Split,
    sizes: Plan,
    loss: Loss,
    *,
    steps: int,
    seed: int,
    device: torch.device,
    on_step: Callable[[float], None],
    learning_rate: float = LEARNING_RATE,
    initial: nn.Module | None = None,
) -> Trained:
    """A network trained for a number of steps of AdamW under a one-cycle learning rate.

    Args:
        split: the cases.
        sizes: patches of a step.
        loss: of logits (N, C, *patch) and integer labels (N, 1, *patch).
        steps: number of optimiser steps, at least 1.
        seed: of weights, patches and augmentation.
        device: where the network runs.
        on_step: called after each step with its loss.
        learning_rate: the largest of the cycle.
        initial: network to go on with, which is changed in place; None makes a new `unet`.
    """
    torch.manual_seed(seed)
    network = initial or unet(sizes.spatial_dims, split.train[0].image.shape[0], len(split.classes))
    network = network.to(device)
    augment = augmentation(sizes.spatial_dims, split.flip_axes)
    augment.set_random_state(seed)  # type: ignore[attr-defined]
    sampler = PatchSampler(split.train, sizes.patch, np.random.default_rng(seed))
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.2)
    losses = []
    for _ in range(steps):
        samples = [augment(sampler.draw()) for _ in range(sizes.batch)]
        images = torch.stack([sample["image"] for sample in samples]).to(device)
        labels = torch.stack([sample["label"] for sample in samples]).to(device)
        logits = network(images)
        value = loss(logits, labels)
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
        schedule.step()
        losses.append(value.item())
        on_step(losses[-1])
    return Trained(network, losses, logits.detach(), labels)


@torch.inference_mode()
def predict(model: nn.Module, case: Case, sizes: Plan, device: torch.device) -> Tensor:
    """Labels uint8 (X, Y, Z) of a whole case; slices are taken in their order and put back so."""
    from monai.inferers import sliding_window_inference

    model.eval()
    slices = sizes.spatial_dims == 2
    inputs = case.image.movedim(-1, 0) if slices else case.image[None]
    labels = []
    for part in torch.split(inputs, sizes.batch):
        logits = sliding_window_inference(
            part.to(device), sizes.patch, sizes.batch, model, overlap=0.25, mode="gaussian"
        )
        labels.append(logits.argmax(1).to(torch.uint8).cpu())
    label = torch.cat(labels)
    return label.movedim(0, -1) if slices else label[0]


def smoothed(losses: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` losses at each step."""
    sums = [0.0, *itertools.accumulate(losses)]
    return [(sums[i + 1] - sums[max(0, i + 1 - window)]) / min(i + 1, window) for i in range(len(losses))]
