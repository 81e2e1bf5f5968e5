"""The tables of `docs/training.md` and `docs/nnunet.md`, from what the examples wrote."""

from __future__ import annotations

from typing import Any

from .markdown import table

_TRAININGS = ("MONAI", "patched")


def curves(content: dict[str, Any]) -> str:
    """How far the curves lie apart, and the Dice of both trainings, for each seed."""
    classes = list(content["runs"][0][_TRAININGS[0]]["dice"])
    rows = []
    for run in content["runs"]:
        scores = [f"{run[name]['dice'][label]:.4f}" for label in classes for name in _TRAININGS]
        rows.append([str(run["seed"]), f"{run['largest_difference']:.1e}", *scores])
    header = ["seed", "largest difference of the losses"]
    header += [f"Dice {label}, {name}" for label in classes for name in _TRAININGS]
    patch = " x ".join(map(str, content["patch"]))
    return (
        f"{content['data']}, {content['steps']} steps of {content['batch']} patches of {patch}, "
        f"learning rate {content['learning_rate']:g}, MONAI {content['monai']}, "
        f"torch {content['torch']}, {content['threads']} threads.\n\n{table(header, rows)}"
    )


def registration(content: dict[str, Any]) -> str:
    """Dice against the tissues of the template after each stage, and what became of the labels."""
    stages = content["dice"]
    rows = [[each, *(f"{of[each]:.3f}" for of in stages.values())] for each in next(iter(stages.values()))]
    labels = []
    for name, of in content["volumes_ml"].items():
        ratios = sorted(after / before for before, after in of.values())
        kept = sum(ratio > 0 for ratio in ratios)
        labels.append(
            f"{name}: {kept} of {len(of)} labels carried over, volume {ratios[0]:.2f} to {ratios[-1]:.2f} times the "
            f"original, median {ratios[len(ratios) // 2]:.2f}"
        )
    return (
        f"{table(['Dice with MNI152', *stages], rows)}\n{'; '.join(labels)}. Registered in {content['seconds']:.0f} s; "
        f"the field folds {content['folded']:.2%} of the voxels.\n"
    )


def sequences(content: dict[str, Any]) -> str:
    """Dice of each input on both held-out hemispheres, the mean and each seed."""
    hemispheres = list(next(iter(content["dice"].values())))
    rows = [
        [name, *(", ".join(f"{value:.3f}" for value in of[each]) for each in hemispheres)]
        for name, of in content["dice"].items()
    ]
    shape = " x ".join(map(str, content["shape"]))
    seeds = "one seed" if content["seeds"] == 1 else f"{content['seeds']} seeds, each one number"
    return (
        f"{content['data']}, hemispheres of {shape} voxels, {content['steps']} steps, {seeds}.\n\n"
        f"{table(['Dice', *(f'{each} held out' for each in hemispheres)], rows)}"
    )


def fine_tuning(content: dict[str, Any]) -> str:
    """Mean Dice of both starts, and the paired difference, with intervals."""
    rows = []
    for label, figures in content["classes"].items():
        limits = [(each["value"], *each["interval"]) for each in figures.values()]
        rows.append([label, *(f"{value:.3f} ({low:.3f} to {high:.3f})" for value, low, high in limits)])
    patients, steps = content["patients"], content["steps"]
    header = ["mean Dice (95 % interval)", *next(iter(content["classes"].values()))]
    return (
        f"{content['data']}: {steps['pre-training']} steps on {patients['pre-training']} patients with one class, then "
        f"{steps['few']} steps on {patients['few']} others; {patients['held out']} held out. "
        f"{content['seconds']:.0f} s in all.\n\n{table(header, rows)}"
    )


def processes(content: dict[str, Any]) -> str:
    """Dice and curve of the same training on each number of processes."""
    settings, runs = content["settings"], content["runs"]
    (fewest, reference), *_ = runs.items()
    rows = []
    for number, run in runs.items():
        apart = max(abs(a - b) for a, b in zip(run["losses"], reference["losses"], strict=True))
        scores = [f"{value:.4f}" for value in run["dice"].values()]
        rows.append([number, "-" if number == fewest else f"{apart:.1e}", *scores])
    header = ["processes", f"largest difference of the losses from {fewest}"]
    header += [f"Dice {label}" for label in reference["dice"]]
    patch = " x ".join(map(str, settings["patch"]))
    return (
        f"{settings['data']}, {settings['steps']} steps of {settings['batch']} patches of {patch} on all processes "
        f"together, learning rate {settings['learning_rate']:g}, torch {settings['torch']}.\n\n{table(header, rows)}"
    )


def iterations(content: dict[str, Any]) -> str:
    """The loss of each iteration with both trainers of nnU-Net."""
    runs = content["runs"]
    plan = next(iter(runs.values()))
    losses = enumerate(zip(*(run["losses"] for run in runs.values()), strict=True), start=1)
    rows = [[str(number), *(f"{value:.6f}" for value in of)] for number, of in losses]
    patch = " x ".join(map(str, plan["patch"]))
    return (
        f"{content['data']}, {content['cases']} cases, batches of {plan['batch']} patches of {patch}, learning rate "
        f"{plan['learning_rate']:g}, nnU-Net {content['nnunet']}, torch {content['torch']}, {content['threads']} "
        f"threads. The losses differ by at most {content['largest_difference']:.1e}.\n\n"
        f"{table(['iteration', *runs], rows)}"
    )


# Each part by its name: the file of results, and what makes the table of it.
TABLES = {
    "training-monai": ("train-monai", curves),
    "training-register": ("register-atlas", registration),
    "training-sequences": ("sequences", sequences),
    "training-fine-tune": ("fine-tune", fine_tuning),
    "training-nnunet": ("train-nnunet", iterations),
    "training-ddp": ("train-ddp", processes),
}
