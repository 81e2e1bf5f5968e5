"""The tables of `docs/chest-xray.md`, from what `examples/chest_xray_multitask.py` wrote."""

from __future__ import annotations

from typing import Any

from .markdown import table

_METRICS = {"auroc": "AUROC", "average_precision": "average precision"}
_RAREST = _MOST_FREQUENT = 8
_MOST_UNCERTAIN = 6


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def bands(content: dict[str, Any]) -> str:
    """Means over ranges of prevalence, and how long each training took."""
    found = content["balancing"]
    ways = list(found["seconds"])
    rows = [
        [f"{name}, {band['band']}", str(band["tasks"]), *(_number(band[metric][way]) for way in ways)]
        for metric, name in _METRICS.items()
        for band in found["bands"]
    ]
    seconds = ["seconds of training", "", *(f"{found['seconds'][way]:.1f}" for way in ways)]
    return (
        f"{found['steps']} steps of {found['batch']} of {found['studies']:,} studies each; "
        f"{found['held_out_studies']:,} studies of {found['held_out_patients']:,} other patients are held out, "
        f"{found['held_out_texts_seen']:.0%} of them with a report that the training had too, word by word.\n\n"
        + table(["mean over labels, by prevalence", "labels", *ways], [*rows, seconds])
    )


def duration(content: dict[str, Any]) -> str:
    """How long the whole example took."""
    if "seconds" not in content:
        return "How long the whole run takes was not measured yet.\n"
    return f"The whole run took {content['seconds']:.0f} s: {content['threads']} threads, torch {content['torch']}.\n"


def _task_table(found: dict[str, Any], tasks: list[dict[str, Any]]) -> str:
    ways = list(found["seconds"])
    scores = [f"{short}, {way}" for short in ("AUROC", "AP") for way in ways]
    rows = []
    for task in tasks:
        weights = [f"{100 * task['prevalence']:.2f} %", _number(task["w_pos"]), _number(task["w_neg"])]
        rows.append([task["task"], *weights, *(_number(task[metric][way], 3) for metric in _METRICS for way in ways)])
    return table(["label", "prevalence", "w_pos", "w_neg", *scores], rows)


def selected_tasks(content: dict[str, Any]) -> str:
    """The rarest and the most frequent labels."""
    found = content["balancing"]
    return _task_table(found, [*found["tasks"][:_RAREST], *found["tasks"][_RAREST:][-_MOST_FREQUENT:]])


def tasks(content: dict[str, Any]) -> str:
    """Every label."""
    return _task_table(content["balancing"], content["balancing"]["tasks"])


def transfer(content: dict[str, Any]) -> str:
    """One row for each way to train."""
    found = content["transfer"]
    rows = [[name, *(_number(scores[metric]) for metric in _METRICS)] for name, scores in found["models"].items()]
    return (
        f"{found['machine_studies']:,} studies with machine labels, {found['fine_tuning_studies']:,} with physicians'; "
        f"means over {found['tasks']} labels of {found['held_out_studies']:,} studies that physicians labelled, of "
        f"other patients.\n\n" + table(["trained on", *_METRICS.values()], rows)
    )


def policies(content: dict[str, Any]) -> str:
    """What each policy makes of the findings that are uncertain most often."""
    found = content["policies"]
    names = list(found["findings"][0]["policies"])
    rows = []
    for finding in found["findings"][:_MOST_UNCERTAIN]:
        rows.append([f"**{finding['finding']}**, {finding['uncertain']:.0%} uncertain", "", *[""] * len(names)])
        for key, title in (
            ("prevalence", "prevalence in training"),
            ("predicted", "mean prediction"),
            ("calibration_error", "calibration error"),
        ):
            observed = _number(finding["observed"], 3) if key == "predicted" else ""
            rows.append([title, observed, *(_number(finding["policies"][name][key], 3) for name in names)])
    errors = (_number(found["mean_calibration_error"][name], 3) for name in names)
    rows.append([f"**mean calibration error of {len(found['findings'])} findings**", "", *errors])
    return (
        f"{found['images']:,} images train, {found['held_out_images']:,} of other patients are held out.\n\n"
        + table(["finding", "observed", *names], rows)
    )


def losses(content: dict[str, Any]) -> str:
    """Value, gradient and time of the loss of one batch, and the time in a whole training."""
    rows = []
    for batch in content["losses"]:
        fused = batch["losses"][-1]["seconds"]
        shape = " x ".join(map(str, batch["shape"]))
        for row in batch["losses"]:
            numbers = [f"{row['value']:.5f}", f"{row['gradient_difference']:.0e}", f"{row['seconds'] * 1e3:.3f}"]
            rows.append([f"{batch['table']}, {shape}", row["name"], *numbers, f"{row['seconds'] / fused:.1f}"])
    header = ["batch", "loss", "value", "gradient difference", "ms, forward + backward", "times fastmed's"]
    training = content["balancing"]
    seconds = [f"{row['seconds'] * training['steps']:.1f} s" for row in content["losses"][0]["losses"]]
    return (
        f"{table(header, rows)}\nOver the {training['steps']} steps of a training on PadChest, which took "
        f"{training['seconds']['plain']:.1f} s with the last of them, that makes {', '.join(seconds[:-1])} and "
        f"{seconds[-1]}; {content['threads']} threads, torch {content['torch']}.\n"
    )


TABLES = {
    "chest-duration": duration,
    "chest-bands": bands,
    "chest-selected": selected_tasks,
    "chest-tasks": tasks,
    "chest-transfer": transfer,
    "chest-policies": policies,
    "chest-losses": losses,
}
