"""Instructions per element of the loops over tiles, read from the assembly that Numba makes for this processor.

    python -m benchmarks.cpu_static --output benchmarks/results/cpu-static.json

The kernels on the CPU are bound by instructions, not by memory, so this is what a change of theirs is predicted from.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from fastmed.backends.cpu_numba import few_classes, label_map, pointwise, softmax
from fastmed.contract import STATISTICS

from . import environment

_BLOCK = re.compile(r"^(\.LBB\d+_\d+):(.*?)(?=^\.LBB|\Z)", re.MULTILINE | re.DOTALL)
_STEP = re.compile(r"^(?:addq|subq)\s+\$-?(\d+), %r\w+$")
_WIDE = re.compile(r"%[yz]mm\d")


def hot_loop(assembly: str) -> tuple[int, int] | None:
    """Instructions of the widest loop, and elements of one turn of it; None where nothing was vectorised."""
    best = None
    for label, body in _BLOCK.findall(assembly):
        instructions = [line.strip() for line in body.splitlines() if re.match(r"\t[a-z]", line)]
        back = [at for at, line in enumerate(instructions) if re.fullmatch(rf"j\w+\s+{re.escape(label)}", line)]
        if not back or not any(_WIDE.search(line) for line in instructions[: back[0]]):
            continue
        turn = instructions[: back[0] + 1]
        steps = [int(match[1]) for line in turn if (match := _STEP.match(line.replace("\t", " ")))]
        # Indices count elements here: every array of a tile has four bytes a number, which addresses scale by.
        if steps and (best is None or steps[0] > best[1]):
            best = len(turn), steps[0]
    return best


def _loops() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Every loop of an ordinary pass, with arguments of its types."""
    tile, labels, one = np.ones(64, np.float32), np.ones(64, np.int32), np.float32(1.0)
    sums, by, c = np.zeros(STATISTICS), np.ones((STATISTICS, 2, 2), np.float32)[:, 0, 0], np.int32(1)
    of_classes = np.ones((STATISTICS, 4), np.float32)
    return {
        "sigmoid, sums": (pointwise._add_sigmoid_and_nll, (tile, tile, None, one, sums)),
        "sigmoid, gradient": (pointwise._sigmoid_gradient, (tile, tile, None, one, by, tile.copy())),
        "label map of two classes, probabilities": (
            few_classes._probabilities_of_two,
            (tile, tile, labels, tile, *(tile.copy() for _ in range(4))),
        ),
        "label map of four classes, probabilities": (
            few_classes._probabilities_of_four,
            (*[tile] * 4, labels, tile, *(tile.copy() for _ in range(6))),
        ),
        "label map of few classes, nll": (few_classes._nll, (tile, tile.copy())),
        "label map of few classes, sums of one": (few_classes._add_with_nll, (tile, labels, c, tile, sums)),
        "label map of four classes, gradient": (
            few_classes._gradient_of_four,
            (*[tile] * 4, labels, tile, of_classes, *(tile.copy() for _ in range(4))),
        ),
        "label map, highest of two classes more": (label_map._highest_of_three, (tile, tile, tile, tile.copy())),
        "label map, exponentials": (label_map._exponentials, (tile, tile, tile.copy(), tile.copy())),
        "label map, sums": (label_map._add_with_nll, (tile, tile, labels, c, tile, tile, tile, sums)),
        "label map, own term": (label_map._products, (tile.copy(), tile, labels, c, by, tile.copy())),
        "label map, gradient": (label_map._gradient, (tile, labels, c, by, tile, tile.copy())),
        "softmax of any target, exponentials": (softmax._exponentials, (tile.copy(), tile, tile.copy(), tile.copy())),
        "softmax of any target, sums": (softmax._add, (tile, tile, tile, sums)),
        "softmax of any target, nll": (softmax._add_nll, (tile, tile, tile, tile, one, one, sums)),
        "softmax of any target, own term": (
            softmax._products,
            (tile, tile, tile, one, one, by, tile.copy(), tile.copy()),
        ),
    }


def _assembly(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """That of a function compiled anew: it is not kept with cached code."""
    fresh = function.__class__(function.py_func, targetoptions={**function.targetoptions})  # type: ignore[attr-defined]
    fresh(*arguments)
    return "\n".join(fresh.inspect_asm().values())


def main() -> None:
    """Prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    output = parser.parse_args().output
    rows = []
    for name, (function, arguments) in _loops().items():
        found = hot_loop(_assembly(function, arguments))
        count = None if found is None else found[0] / found[1]
        rows.append({"loop": name, "instructions_per_element": count})
        print(f"{name:<40} {'scalar' if count is None else f'{count:6.2f}'}")
    about = {"processor": environment.processor(), "architecture": platform.machine()}
    content = {**about, "numba": metadata.version("numba"), "loops": rows}
    output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
