"""Many findings at once: rare ones, unannotated ones and uncertain ones, on the real labels of PadChest and CheXpert.

    pip install --no-deps torchxrayvision==1.5.7
    python examples/chest_xray_multitask.py [--output out/chest]

1. PadChest reports to labels: plain and weighted cross entropy, over- and undersampling, at the same number of steps.
2. Labels that a network read from the reports pre-train, 1 % of those that physicians wrote fine-tune.
3. CheXpert: what to make of an uncertain finding.
4. How long the loss takes, beside torchxrayvision's loop over the tasks.

The terminal shows a selection; every number is in `chest.json`, and `chest.png` shows each label by its prevalence.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import chest_figure
import chest_report
import numpy as np
import numpy.typing as npt
import torch
from chest_models import (
    FeatureNetwork,
    Loss,
    Ranking,
    ReportNetwork,
    Schedule,
    calibration,
    encode,
    predict,
    ranking,
    shuffled,
    train,
)
from chest_tables import (
    Findings,
    Reports,
    TablesMissingError,
    find_tables,
    read_chexpert,
    read_padchest,
    split_by_patient,
)
from rich.console import Console
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

import fastmed
from fastmed.compat.torchxrayvision import multitask_loss
from fastmed.demo.comparison import compare
from fastmed.sampling import BalancedSampler

HELD_OUT = 0.2
PADCHEST = Schedule(batch=512, epochs=4, rate=1e-3)

BANDS = {"below 1 %": 0.01, "1 to 10 %": 0.1, "above 10 %": math.inf}

FEW = 0.01
# Few studies alone need many epochs; a network that already reads reports needs few, and small steps.
ALONE = Schedule(batch=32, epochs=60, rate=1e-3)
FINE_TUNING = Schedule(batch=32, epochs=10, rate=1e-4)
LEAST_HELD_OUT = 10

POLICIES = {"ignore": "ignore", "zeros": "zeros", "ones": "ones", "smooth": fastmed.Smooth(0.55, 0.85)}
CHEXPERT = Schedule(batch=4096, epochs=4, rate=1e-2)

AGREEMENT = 1e-5
ROUNDS = 100

Bar = Callable[[str, int], Callable[[float], None]]
Content = dict[str, Any]


def _mean(values: npt.ArrayLike) -> float:
    """Mean of what is defined, NaN if nothing is."""
    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    return float(defined.mean()) if defined.size else math.nan


def _network(reports: Reports, seed: int) -> ReportNetwork:
    torch.manual_seed(seed)
    return ReportNetwork(len(reports.tasks))


def compare_balancing(reports: Reports, words: csr_matrix, seed: int, bar: Bar) -> Content:
    """Four ways with rare labels, each from the same weights and for the same number of steps."""
    training, held_out = split_by_patient(reports.patients, HELD_OUT, seed)
    labels = reports.labels[training]
    w_pos, w_neg = fastmed.class_balance(labels)
    plain = fastmed.MultiTaskBCELoss(reduction="sum")
    weighted = fastmed.MultiTaskBCELoss(w_pos, w_neg, reduction="sum")
    ways: dict[str, tuple[Loss, Iterable[int]]] = {
        "plain": (plain, shuffled(len(training), seed)),
        "weighted": (weighted, shuffled(len(training), seed)),
        "oversampled": (plain, BalancedSampler(labels, mode="oversample", seed=seed)),
        "undersampled": (plain, BalancedSampler(labels, mode="undersample", seed=seed)),
    }
    steps = PADCHEST.steps(len(training))
    seconds: dict[str, float] = {}
    rankings: dict[str, Ranking] = {}
    for way, (loss, sampler) in ways.items():
        network = _network(reports, seed)
        seconds[way] = train(network, words[training], labels, loss, PADCHEST, sampler, bar(way, steps))
        rankings[way] = ranking(predict(network, words[held_out]), reports.labels[held_out])
    prevalence = labels.mean(0)
    tasks = [
        {
            "task": reports.tasks[index],
            "prevalence": prevalence[index].item(),
            "w_pos": w_pos[index].item(),
            "w_neg": w_neg[index].item(),
            "auroc": {way: of_way.auroc[index] for way, of_way in rankings.items()},
            "average_precision": {way: of_way.average_precision[index] for way, of_way in rankings.items()},
        }
        for index in prevalence.argsort().tolist()
    ]
    return {
        "studies": len(training),
        "held_out_studies": len(held_out),
        "held_out_patients": len(np.unique(reports.patients[held_out])),
        "held_out_texts_seen": float(np.isin(reports.texts[held_out], reports.texts[training]).mean()),
        "steps": steps,
        "batch": PADCHEST.batch,
        "seconds": seconds,
        "bands": _bands(tasks, list(ways)),
        "tasks": tasks,
    }


def _bands(tasks: list[Content], ways: list[str]) -> list[Content]:
    """Means over the tasks of each range of prevalence."""
    bands = []
    low = 0.0
    for name, high in BANDS.items():
        within = [task for task in tasks if low <= task["prevalence"] < high]
        means = {
            metric: {way: _mean([task[metric][way] for task in within]) for way in ways}
            for metric in ("auroc", "average_precision")
        }
        bands.append({"band": name, "tasks": len(within), **means})
        low = high
    return bands


def compare_transfer(reports: Reports, words: csr_matrix, seed: int, bar: Bar) -> Content:
    """Whether labels that a network read help where physicians wrote few; scored on patients that trained neither."""
    rest, held_out = split_by_patient(reports.patients, HELD_OUT, seed)
    held_out = held_out[reports.physician[held_out]]
    machine, physician = rest[~reports.physician[rest]], rest[reports.physician[rest]]
    few = physician[split_by_patient(reports.patients[physician], FEW, seed)[1]]
    alone, transferred = _network(reports, seed), _network(reports, seed)
    stages = {
        "physicians' 1 % alone": (alone, few, ALONE),
        "machine labels alone": (transferred, machine, PADCHEST),
        "machine labels, then physicians' 1 %": (transferred, few, FINE_TUNING),
    }
    loss = fastmed.MultiTaskBCELoss(reduction="sum")
    truth = reports.labels[held_out]
    scored = truth.sum(0) >= LEAST_HELD_OUT
    models = {}
    for title, (network, rows, schedule) in stages.items():
        on_step = bar(title, schedule.steps(len(rows)))
        train(network, words[rows], reports.labels[rows], loss, schedule, shuffled(len(rows), seed), on_step)
        found = ranking(predict(network, words[held_out])[:, scored], truth[:, scored])
        models[title] = {metric: _mean(values) for metric, values in found._asdict().items()}
    return {
        "machine_studies": len(machine),
        "fine_tuning_studies": len(few),
        "held_out_studies": len(held_out),
        "tasks": int(scored.sum()),
        "models": models,
    }


def compare_policies(findings: Findings, seed: int, bar: Bar) -> Content:
    """Each way to read an uncertain finding: what becomes of the labels, and of predictions of certain findings."""
    training, held_out = split_by_patient(findings.patients, HELD_OUT, seed)
    labels, truth = findings.labels[training], findings.labels[held_out]
    steps = CHEXPERT.steps(len(training))
    by_policy: dict[str, list[Content]] = {}
    for name, policy in POLICIES.items():
        torch.manual_seed(seed)
        network = FeatureNetwork(findings.features.shape[1], len(findings.tasks))
        loss = fastmed.MultiTaskBCELoss(missing=policy, reduction="sum")
        sampler = shuffled(len(training), seed)
        train(network, findings.features[training], labels, loss, CHEXPERT, sampler, bar(name, steps))
        probabilities = predict(network, findings.features[held_out]).sigmoid()
        # The weight of negatives is the share of positives.
        _, prevalence = fastmed.class_balance(labels, missing=policy)
        by_policy[name] = [
            {"prevalence": share, **calibration(probabilities[:, task], truth[:, task])._asdict()}
            for task, share in enumerate(prevalence.tolist())
        ]
    uncertain, annotated = (labels == -1).sum(0), (~labels.isnan()).sum(0)
    _, observed = fastmed.class_balance(truth)
    return {
        "images": len(training),
        "held_out_images": len(held_out),
        "steps": steps,
        "mean_calibration_error": {
            name: _mean([task["calibration_error"] for task in tasks]) for name, tasks in by_policy.items()
        },
        "findings": [
            {
                "finding": findings.tasks[task],
                "uncertain": (uncertain[task] / annotated[task]).item(),
                "blank": labels[:, task].isnan().float().mean().item(),
                "observed": observed[task].item(),
                "policies": {name: tasks[task] for name, tasks in by_policy.items()},
            }
            for task in uncertain.argsort(descending=True).tolist()
        ],
    }


def looped(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss as torchxrayvision's training script has it: one task after the other."""
    loss = outputs.new_zeros(())
    for task in range(targets.shape[1]):
        annotated = ~targets[:, task].isnan()
        if annotated.any():
            loss = loss + binary_cross_entropy_with_logits(outputs[annotated, task], targets[annotated, task])
    return loss


def vectorised(outputs: Tensor, targets: Tensor) -> Tensor:
    """All tasks at once, in torch."""
    annotated = ~targets.isnan()
    losses = binary_cross_entropy_with_logits(outputs, targets.nan_to_num(), reduction="none") * annotated
    return (losses.sum(0) / annotated.sum(0).clamp(min=1)).sum()


def time_losses(table: str, labels: Tensor, seed: int) -> Content:
    """Value, gradient, time and memory of the loss of one batch; none is reported unless all agree.

    Raises:
        ArithmeticError: if a loss differs.
    """
    torch.manual_seed(seed)
    losses = {"torchxrayvision's loop": looped, "torch, vectorised": vectorised, "fastmed": multitask_loss}
    rows = compare(losses, torch.randn(labels.shape), labels, ROUNDS)
    for row in rows:
        if row.gradient_difference > AGREEMENT or not math.isclose(row.value, rows[0].value, rel_tol=AGREEMENT):
            raise ArithmeticError(f"{row.name}: {row.value} is not {rows[0].value} of {rows[0].name}")
    return {"table": table, "shape": list(labels.shape), "losses": [row._asdict() for row in rows]}


def _compile_losses(tasks: int) -> None:
    """Numba compiles kernels at their first call, and keeps them: no part of any training."""
    weights = torch.ones(tasks)
    for loss in (fastmed.MultiTaskBCELoss(), fastmed.MultiTaskBCELoss(weights, weights)):
        loss(torch.zeros(PADCHEST.batch, tasks, requires_grad=True), torch.zeros(PADCHEST.batch, tasks)).backward()


def run(tables: Path, output: Path, studies: int | None, seed: int, console: Console) -> None:
    """Every experiment, each reported as soon as it is done; files are written at the end."""
    start = time.perf_counter()
    with console.status("reading PadChest and CheXpert"):
        reports, findings = read_padchest(tables, studies), read_chexpert(tables, studies)
        words = encode(reports.texts)
    with console.status("compiling the losses"):
        _compile_losses(len(reports.tasks))
    content: Content = {"seed": seed, "torch": torch.__version__, "threads": torch.get_num_threads()}

    console.rule("1. PadChest: rare labels")
    with chest_report.bars(console) as bar:
        content["balancing"] = compare_balancing(reports, words, seed, bar)
    chest_report.print_balancing(console, content["balancing"])

    console.rule("2. PadChest: from machine labels to physicians'")
    with chest_report.bars(console) as bar:
        content["transfer"] = compare_transfer(reports, words, seed, bar)
    chest_report.print_transfer(console, content["transfer"])

    console.rule("3. CheXpert: uncertain findings")
    with chest_report.bars(console) as bar:
        content["policies"] = compare_policies(findings, seed, bar)
    chest_report.print_policies(console, content["policies"])

    console.rule("4. The loss alone")
    certain = findings.labels.where(findings.labels != -1, torch.nan)
    content["losses"] = [
        time_losses("PadChest", reports.labels[: PADCHEST.batch], seed),
        time_losses("CheXpert", certain[: CHEXPERT.batch], seed),
    ]
    chest_report.print_losses(console, content["losses"])

    output.mkdir(parents=True, exist_ok=True)
    chest_figure.draw(output / "chest.png", content["balancing"])
    content["seconds"] = time.perf_counter() - start
    (output / "chest.json").write_text(json.dumps(_defined(content), indent=2, allow_nan=False) + "\n")
    console.print(f"Wrote {output / 'chest.png'} and {output / 'chest.json'} after {content['seconds']:.0f} s in all")


def _defined(value: Any) -> Any:
    """The same content with null for NaN, of which JSON has none."""
    if isinstance(value, dict):
        return {key: _defined(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_defined(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 where the label tables are missing, which one line on stderr says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/chest"), help="for chest.png and chest.json")
    parser.add_argument("--studies", type=int, help="how many of each table to use (all)")
    parser.add_argument("--seed", type=int, default=0, help="of split, weights and order (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        tables = find_tables()
    except TablesMissingError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    run(tables, options.output, options.studies, options.seed, Console(highlight=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
