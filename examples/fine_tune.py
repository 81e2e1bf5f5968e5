"""Transfer learning: a network that knows the whole organ learns its parts from a few patients.

    python examples/fine_tune.py --data Task04_Hippocampus [--few 4] [--steps 60] [--output out/fine-tune]

Many patients have a cheap label, everything but the background as one class; a few others have all classes. The
network is trained on the many, and saved. Then it is trained on the few alone, with all classes: from the checkpoint
with a new last layer, and from scratch, with the same patches, steps and learning rate. Both are scored on the same
held-out patients; intervals are of the bootstrap over these, and that of the difference is paired. Every number is in
`fine-tune.json`, and `fine-tune.png` is the picture.
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

import fine_tune_figure
import torch
from rich.console import Console
from rich.progress import Progress, track
from torch import Tensor, nn

import fastmed
from fastmed.demo.cases import Case, Split
from fastmed.demo.decathlon import load_split
from fastmed.demo.errors import InputError
from fastmed.demo.report import dice_of_case
from fastmed.demo.training import Plan, Trained, plan, predict, train, unet
from fastmed.metrics import Scores
from fastmed.metrics import functional as metrics

STARTS = ("from scratch", "fine-tuned")
DIFFERENCE = "fine-tuned - scratch"


class Outcome(NamedTuple):
    """Loss of each step, and Dice of each held-out case and class without the background, (N, C - 1)."""

    losses: list[float]
    dice: Tensor


def foreground(case: Case) -> Case:
    """The case with one class for all that is not background."""
    return case._replace(label=(case.label > 0).to(torch.uint8))


def head_name(network: nn.Module) -> str:
    """Name of the last layer, which alone knows the classes."""
    return [name for name, module in network.named_modules() if any(True for _ in module.parameters(recurse=False))][-1]


def load_body(network: nn.Module, checkpoint: Path) -> None:
    """Weights of a checkpoint into a network whose last layer stays as it is.

    Raises:
        RuntimeError: if any other layer is not that of the checkpoint.
    """
    head = head_name(network) + "."
    body = {
        name: value for name, value in torch.load(checkpoint, weights_only=True).items() if not name.startswith(head)
    }
    found = network.load_state_dict(body, strict=False)
    missing = [name for name in found.missing_keys if not name.startswith(head)]
    if missing or found.unexpected_keys:
        raise RuntimeError(f"{checkpoint}: lacks {missing}, and has {found.unexpected_keys} besides")


def follow(title: str, split: Split, sizes: Plan, steps: int, seed: int, initial: nn.Module | None = None) -> Trained:
    """Train with a progress bar."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loss = fastmed.DiceCELoss(pool="batch")
    with Progress() as progress:
        bar = progress.add_task(title, total=steps)
        return train(
            split,
            sizes,
            loss,
            steps=steps,
            seed=seed,
            device=device,
            on_step=lambda _: progress.advance(bar),
            initial=initial,
        )


def evaluate(title: str, trained: Trained, split: Split, sizes: Plan) -> Outcome:
    """Dice of the held-out cases."""
    device = next(trained.model.parameters()).device
    dice = [
        dice_of_case(predict(trained.model, case, sizes, device), case.label, len(split.classes))
        for case in track(split.test, title)
    ]
    return Outcome(trained.losses, torch.stack(dice))


def compare(split: Split, outcomes: dict[str, Outcome], seed: int) -> Scores:
    """Mean Dice over cases of each class, and what the checkpoint gains in the same cases."""
    by_case = {name: outcome.dice for name, outcome in outcomes.items()}
    by_case[DIFFERENCE] = outcomes["fine-tuned"].dice - outcomes["from scratch"].dice
    return Scores(
        split.classes[1:],
        {name: dice.nanmean(0) for name, dice in by_case.items()},
        {
            name: metrics.bootstrap_mean_interval(dice, generator=torch.Generator().manual_seed(seed))
            for name, dice in by_case.items()
        },
    )


def report(split: Split, outcomes: dict[str, Outcome], scores: Scores) -> dict[str, Any]:
    """Every number of both trainings."""
    return {
        "losses": {name: outcome.losses for name, outcome in outcomes.items()},
        "dice": {
            name: {
                case.name: [None if math.isnan(value) else value for value in values.tolist()]
                for case, values in zip(split.test, outcome.dice, strict=True)
            }
            for name, outcome in outcomes.items()
        },
        "classes": {
            name: {
                figure: {
                    "value": values[index].item(),
                    "interval": [limit[index].item() for limit in scores.intervals[figure]],
                }
                for figure, values in scores.values.items()
            }
            for index, name in enumerate(scores.names)
        },
    }


def run(split: Split, few: int, pretraining: int, steps: int, output: Path, seed: int, console: Console) -> None:
    """Train on the many, then twice on the few; files are written at the end."""
    start = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = output / "pretrained.pt"
    sizes = plan(split.train, 3)
    many = split._replace(
        classes=("background", "foreground"), train=tuple(foreground(case) for case in split.train[few:])
    )
    target = split._replace(train=split.train[:few])
    title = f"{len(many.train)} patients, one class"
    torch.save(follow(title, many, sizes, pretraining, seed).model.state_dict(), checkpoint)
    outcomes = {}
    for name in STARTS:
        torch.manual_seed(seed)
        network = unet(3, split.train[0].image.shape[0], len(split.classes))
        if name == "fine-tuned":
            load_body(network, checkpoint)
        trained = follow(f"{few} patients, {name}", target, sizes, steps, seed, network)
        outcomes[name] = evaluate(f"{name}, segmenting {len(split.test)} cases", trained, split, sizes)
    scores = compare(split, outcomes, seed)
    console.print(scores)
    content = {
        "data": split.title,
        "patients": {"pre-training": len(many.train), "few": few, "held out": len(split.test)},
        "steps": {"pre-training": pretraining, "few": steps},
        "seconds": round(time.perf_counter() - start, 1),
        **report(split, outcomes, scores),
    }
    (output / "fine-tune.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    fine_tune_figure.draw(output / "fine-tune.png", content)
    console.print(f"Wrote {output / 'fine-tune.png'}, {output / 'fine-tune.json'} and {checkpoint}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 where the data cannot be used, which one line on stderr says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with dataset.json, imagesTr and labelsTr")
    parser.add_argument("--few", type=int, default=4, help="patients with all classes (%(default)s)")
    parser.add_argument("--pretraining", type=int, default=120, help="steps on the others (%(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="on the few (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("out/fine-tune"), help="for picture, numbers, checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of patients, weights, patches, bootstrap (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        split = load_split(options.data, options.seed)
        if len(split.test) < 2 or not 0 < options.few < len(split.train):
            raise InputError(
                f"{options.data}: {len(split.train)} patients train and {len(split.test)} are held out; --few "
                f"{options.few} must leave one to pre-train with, and an interval takes two held out"
            )
    except InputError as error:
        print(f"{parser.prog}: error: {error} (any task of http://medicaldecathlon.com will do)", file=sys.stderr)
        return 2
    console = Console(highlight=False)
    run(split, options.few, options.pretraining, options.steps, options.output, options.seed, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
