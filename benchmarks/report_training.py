"""The tables of `docs/training.md`, from what the examples wrote."""

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


TABLES = {"training-monai": curves}
