"""`fastmed demo`: train a U-Net on a real volume and measure it, and the loss that trained it."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..demo.errors import InputError
from .parser import Commands

if TYPE_CHECKING:
    from rich.console import Console

    from ..demo.cases import Split
    from ..demo.training import Loss

_DEFAULT_STEPS = 160
_PACKAGES = ("monai", "nilearn", "nibabel", "matplotlib", "rich")


def _steps(text: str) -> int:
    steps = int(text)
    if steps < 1:
        raise argparse.ArgumentTypeError(f"got {steps}, allowed is 1 or more")
    return steps


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 2**32:
        raise argparse.ArgumentTypeError(f"got {seed}, allowed is 0 to 2**32 - 1")
    return seed


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "demo",
        help="train a U-Net on a real MRI volume, and compare the fused loss with MONAI's",
        description="Trains a U-Net on the MNI152 T1 volume that nilearn ships (or on --data) and reports "
        "held-out metrics, the fused loss beside MONAI's, and a picture.",
    )
    parser.add_argument("--approach", choices=("2d", "3d"), default="3d", help="train on slices or on volumes")
    parser.add_argument("--steps", type=_steps, default=_DEFAULT_STEPS, help="training steps (%(default)s)")
    parser.add_argument("--seed", type=_seed, default=0, help="of weights, patches and split (%(default)s)")
    parser.add_argument("--loss", choices=("fastmed", "monai"), default="fastmed", help="loss that trains")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder in the Medical Segmentation Decathlon layout")
    parser.add_argument("--output", type=Path, metavar="DIR", default=Path("out"), help="for demo.png and demo.json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load and check everything, train, measure, report; files are written at the very end."""
    missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(f"the demo needs {', '.join(missing)}: pip install 'fastmed[demo]'")
    _check_output(options.output)
    with warnings.catch_warnings():
        # Deprecations inside these packages, of which the user can mend none.
        warnings.filterwarnings("ignore", module=r"(monai|nilearn|nibabel|torch)(\.|$)")
        _demonstrate(options)
    return 0


def _check_output(folder: Path) -> None:
    """Refuse what could only fail after the training."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"{existing}: is not a directory")
    if not os.access(existing, os.W_OK):
        raise InputError(f"{existing}: is not writable")


def _load(data: Path | None, seed: int) -> Split:
    if data is None:
        from ..demo import mni152

        return mni152.load_split()
    from ..demo import decathlon

    return decathlon.load_split(data, seed)


def _demonstrate(options: argparse.Namespace) -> None:
    split = _load(options.data, options.seed)

    import torch
    from rich.console import Console

    from ..demo import comparison, figure, report, training
    from ..functional import confusion_counts

    console = Console(highlight=False)
    console.print(f"{split.title}: {split.description}\n", markup=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = training.plan(split.train, int(options.approach[0]))
    fused, monai = comparison.fused_dice_ce(), comparison.monai_dice_ce()
    loss: Loss = fused if options.loss == "fastmed" else monai
    with _progress(console, options.steps, "training") as on_step:
        trained = training.train(
            split, sizes, loss, steps=options.steps, seed=options.seed, device=device, on_step=on_step
        )
    with console.status("segmenting what was held out"):
        predictions = [training.predict(trained.model, case, sizes, device) for case in split.test]
    counts = torch.cat(
        [
            confusion_counts(prediction[None], case.label[None], len(split.classes))
            for prediction, case in zip(predictions, split.test, strict=True)
        ]
    )
    scores = report.score(split.classes, [case.name for case in split.test], counts)
    report.print_scores(console, scores)

    losses = {"MONAI": monai}
    with console.status("compiling MONAI's loss"):
        compiled = comparison.compiled(monai, trained.logits, trained.labels)
    if compiled is None:
        console.print("torch.compile found no working compiler here: MONAI's compiled loss is left out.")
    else:
        losses["MONAI, compiled"] = compiled
    losses["fastmed"] = fused
    rows = comparison.compare(losses, trained.logits, trained.labels)
    report.print_comparison(console, rows, trained.logits.shape)

    picture, figures = options.output / "demo.png", options.output / "demo.json"
    content = {
        "data": split.title,
        "split": split.description,
        "approach": options.approach,
        "steps": options.steps,
        "seed": options.seed,
        "loss": options.loss,
        "patch": sizes.patch,
        "batch": sizes.batch,
        **report.as_json(scores, rows, trained.losses),
    }
    subtitle = f"{split.test[0].name}: held out; {report.summary(scores)}"
    _write(
        {
            picture: lambda path: figure.draw(
                path, split.title, subtitle, split.test[0], predictions[0], scores, trained.losses
            ),
            figures: lambda path: path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n"),
        }
    )
    console.print(f"\nWrote {picture} and {figures}")


@contextlib.contextmanager
def _progress(console: Console, steps: int, description: str) -> Iterator[Callable[[float], None]]:
    """A bar that a call advances by one step and labels with the loss."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=steps, loss=float("nan"))
        yield lambda loss: progress.update(task, advance=1, loss=loss)


def _write(files: dict[Path, Callable[[Path], object]]) -> None:
    """Write every file, then move all into place: none is ever seen half-written."""
    folder = next(iter(files)).parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        written = {path: Path(scratch) / path.name for path in files}
        for path, write in files.items():
            write(written[path])
        for path, temporary in written.items():
            os.replace(temporary, path)
