"""Train on several processes what one process would train on all of their patches.

    python examples/train_ddp.py --data Task04_Hippocampus --output out
    torchrun --nproc-per-node 2 examples/train_ddp.py --data Task04_Hippocampus --output out

A Dice over the batch is no mean over the ranks: with `process_group` the sums of all ranks are added before the ratio
is taken, by one all-reduce of a few hundred bytes, and the training is that of one process, whatever the number of
ranks and however unequal their shares. Every run draws the same patches, and deals them out to its ranks. The runs of
one folder with the same settings are compared: `train-ddp.json` has their curves and Dice, `train-ddp.png` shows them.

Batch norm would look at the patches of its own rank only, so this network has instance norm.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curves_figure import draw
from monai.networks.nets import UNet
from rich.progress import Progress
from torch import Tensor, distributed, nn
from torch.distributed.elastic.multiprocessing.errors import record

import fastmed
from fastmed.demo.cases import Split
from fastmed.demo.decathlon import load_split
from fastmed.demo.errors import InputError
from fastmed.demo.training import CHANNELS, STRIDES, PatchSampler, Plan, augmentation, plan, predict
from fastmed.metrics import SegmentationScores

LEARNING_RATE = 1e-3
# A rank that waits longer for another one gives up, with an error that says so.
TIMEOUT = timedelta(minutes=2)


class Shares:
    """Patches of a step, the same for any number of ranks, and of these the share of one rank.

    Args:
        split: cases that train.
        sizes: patches of a step, of all ranks together.
        seed: of patches and augmentation.
    """

    def __init__(self, split: Split, sizes: Plan, seed: int) -> None:
        self._sampler = PatchSampler(split.train, sizes.patch, np.random.default_rng(seed))
        self._augment: Any = augmentation(sizes.spatial_dims, split.flip_axes)
        self._batch, self._seed, self._drawn = sizes.batch, seed, 0

    def draw(self, rank: int, ranks: int) -> tuple[Tensor, Tensor]:
        """Images and labels of this rank; ranks may have one patch more or less than others."""
        own = []
        for index in range(self._batch):
            patch = self._sampler.draw()
            if index % ranks == rank:
                self._augment.set_random_state(self._seed + self._drawn + index)
                own.append(self._augment(patch))
        self._drawn += self._batch
        return torch.stack([patch["image"] for patch in own]), torch.stack([patch["label"] for patch in own])


def fit(split: Split, sizes: Plan, *, steps: int, seed: int, on_step: Callable[[], None]) -> dict[str, Any]:
    """One training over the ranks of this run: its curve, its time, and the Dice of the held-out cases."""
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    torch.manual_seed(seed)
    channels, classes = split.train[0].image.shape[0], len(split.classes)
    network = UNet(3, channels, classes, CHANNELS, STRIDES, norm="instance").to(device)
    parallel = nn.parallel.DistributedDataParallel(network)
    loss = fastmed.DiceCELoss(pool="batch", process_group=distributed.group.WORLD)
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=LEARNING_RATE)
    shares = Shares(split, sizes, seed)
    losses = []
    start = time.perf_counter()
    for _ in range(steps):
        images, labels = shares.draw(rank, ranks)
        value = loss(parallel(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
        on_step()
    seconds = time.perf_counter() - start
    # Each rank scores its share of the cases; compute() adds the counts of all ranks.
    scores = SegmentationScores(classes, figures="dice", include_background=False)
    for case in split.test[rank::ranks]:
        scores.update(predict(network, case, sizes, device)[None], case.label[None])
    dice = dict(zip(split.classes[1:], scores.compute().tolist(), strict=True))
    return {"losses": losses, "training_seconds": round(seconds, 1), "dice": dice}


def merged(path: Path, settings: dict[str, Any], ranks: int, run: dict[str, Any]) -> dict[str, Any]:
    """The run beside those of the same settings that the file has."""
    before = json.loads(path.read_text()) if path.exists() else {}
    runs = before["runs"] if before.get("settings") == settings else {}
    runs = {**runs, str(ranks): run}
    return {"settings": settings, "runs": {number: runs[number] for number in sorted(runs, key=int)}}


def _named(ranks: int | str) -> str:
    return f"{ranks} process{'' if int(ranks) == 1 else 'es'}"


def report(content: dict[str, Any]) -> list[str]:
    """A line for each run: its Dice, and how far its curve lies from that of the fewest ranks."""
    lines = []
    (fewest, reference), *_ = content["runs"].items()
    for number, run in content["runs"].items():
        apart = max(abs(a - b) for a, b in zip(run["losses"], reference["losses"], strict=True))
        dice = ", ".join(f"{name} {value:.4f}" for name, value in run["dice"].items())
        lines.append(
            f"{_named(number)}: Dice {dice}; curve within {apart:.1e} of that of {fewest}; "
            f"{run['training_seconds']:.0f} s"
        )
    return lines


@record
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 where the data cannot be used, which one line on stderr says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with dataset.json, imagesTr and labelsTr")
    parser.add_argument("--output", type=Path, default=Path("out/ddp"), help="folder of results (%(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="of the training (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, patches, augmentation (%(default)s)")
    options = parser.parse_args(arguments)
    if not distributed.is_torchelastic_launched():
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    elif torch.cuda.is_available():
        torch.cuda.set_device(distributed.get_node_local_rank())
        distributed.init_process_group("nccl", timeout=TIMEOUT)
    else:
        distributed.init_process_group("gloo", timeout=TIMEOUT)
    try:
        return _run(parser, options)
    finally:
        distributed.destroy_process_group()


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    try:
        split = load_split(options.data, options.seed)
        sizes = plan(split.train, 3)
        if ranks > sizes.batch:
            raise InputError(f"{ranks} processes: a step has {sizes.batch} patches, and each process needs one")
    except InputError as error:
        if rank == 0:
            print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    with Progress(disable=rank != 0) as progress:
        bar = progress.add_task(_named(ranks), total=options.steps)
        run = fit(split, sizes, steps=options.steps, seed=options.seed, on_step=lambda: progress.advance(bar))
    if rank == 0:
        settings = {
            "data": split.title,
            "patch": list(sizes.patch),
            "batch": sizes.batch,
            "steps": options.steps,
            "learning_rate": LEARNING_RATE,
            "seed": options.seed,
            "torch": torch.__version__,
        }
        options.output.mkdir(parents=True, exist_ok=True)
        path = options.output / "train-ddp.json"
        content = merged(path, settings, ranks, run)
        path.write_text(json.dumps(content, indent=1) + "\n")
        curves = {_named(number): of["losses"] for number, of in content["runs"].items()}
        draw(curves, "Dice + cross entropy", path.with_suffix(".png"))
        print("\n".join(report(content)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
