"""What the terminal shows: a bar for each training, and the most telling part of each table."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

RAREST = MOST_FREQUENT = 8
MOST_UNCERTAIN = 6
METRICS = {"auroc": "AUROC", "average_precision": "average precision"}

Content = dict[str, Any]
Bar = Callable[[str, int], Callable[[float], None]]


@contextlib.contextmanager
def bars(console: Console) -> Iterator[Bar]:
    """A function that adds a bar; what it returns advances the bar by one step and labels it with the loss."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:

        def bar(title: str, steps: int) -> Callable[[float], None]:
            task = progress.add_task(title, total=steps, loss=float("nan"))
            return lambda loss: progress.update(task, advance=1, loss=loss)

        yield bar


def _table(title: str, first: str, *others: str) -> Table:
    """A table that fits 80 columns."""
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True
    )
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _shortened(name: str, width: int = 24) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def _print(console: Console, table: Table, note: str = "") -> None:
    console.print()
    console.print(table)
    console.print(note, end="\n\n" if note else "\n")


def print_balancing(console: Console, content: Content) -> None:
    """The rarest and most frequent labels, and means over ranges of prevalence."""
    ways, tasks = list(content["seconds"]), content["tasks"]
    headers = [way.replace("sampled", "-\nsampled") for way in ways]
    for metric, title in METRICS.items():
        table = _table(f"Held-out {title}", "label", "%", "w_pos", "w_neg", *headers)
        for task in (*tasks[:RAREST], *tasks[RAREST:][-MOST_FREQUENT:]):
            numbers = [f"{100 * task['prevalence']:.2f}", f"{task['w_pos']:.3f}", f"{task['w_neg']:.3f}"]
            table.add_row(_shortened(task["task"]), *numbers, *(f"{task[metric][way]:.3f}" for way in ways))
        _print(console, table)
    for metric, title in METRICS.items():
        table = _table(f"Mean {title}", "prevalence", "labels", *headers)
        for band in content["bands"]:
            table.add_row(band["band"], str(band["tasks"]), *(f"{band[metric][way]:.4f}" for way in ways))
        _print(console, table)
    console.print("Training: " + ", ".join(f"{way} {seconds:.1f} s" for way, seconds in content["seconds"].items()))
    console.print(
        f"{content['steps']} steps of {content['batch']} of {content['studies']:,} studies; "
        f"{content['held_out_studies']:,} studies of other patients held out, "
        f"{content['held_out_texts_seen']:.0%} of them with a report whose words were seen before.\n"
    )


def print_transfer(console: Console, content: Content) -> None:
    """One row for each way to train."""
    title = f"Physicians' labels of held-out studies, mean over {content['tasks']}"
    table = _table(title, "trained on", "AUROC", "average precision")
    for model, scores in content["models"].items():
        table.add_row(model, f"{scores['auroc']:.4f}", f"{scores['average_precision']:.4f}")
    counts = [content[f"{part}_studies"] for part in ("machine", "fine_tuning", "held_out")]
    _print(console, table, "{:,} studies have machine labels, {:,} physicians'; {:,} are held out.".format(*counts))


def print_policies(console: Console, content: Content) -> None:
    """The findings that are uncertain most often."""
    policies = list(content["findings"][0]["policies"])
    table = _table("Where -1 becomes ...", "finding", "-1", "observed", *policies)
    for finding in content["findings"][:MOST_UNCERTAIN]:
        by_policy = finding["policies"].values()
        table.add_row(finding["finding"], f"{finding['uncertain']:.0%}")
        table.add_row("  in training", "", "", *(f"{each['prevalence']:.3f}" for each in by_policy))
        observed = f"{finding['observed']:.3f}"
        table.add_row("  predicted", "", observed, *(f"{each['predicted']:.3f}" for each in by_policy))
        table.add_row("  calibration error", "", "", *(f"{each['calibration_error']:.3f}" for each in by_policy))
    table.add_section()
    errors = content["mean_calibration_error"].values()
    table.add_row(f"mean error of {len(content['findings'])}", "", "", *(f"{error:.3f}" for error in errors))
    _print(console, table, "Observed and predicted rates are of held-out findings that are certain.")


def print_losses(console: Console, tables: list[Content]) -> None:
    """One row for each loss, time as a multiple of the last row's, which is the fused loss."""
    for content in tables:
        fused = content["losses"][-1]["seconds"]
        shape = " x ".join(map(str, content["shape"]))
        table = _table(
            f"A batch of {content['table']}, {shape}", "loss", "value", "gradient diff.", "fwd + bwd", "ratio"
        )
        for row in content["losses"]:
            numbers = (f"{row['value']:.5f}", f"{row['gradient_difference']:.0e}", f"{row['seconds'] * 1e3:.3f} ms")
            table.add_row(row["name"], *numbers, f"{row['seconds'] / fused:.1f}x")
        _print(console, table)
