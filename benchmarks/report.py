"""`make docs`: the tables of README and docs, from the files in `benchmarks/results` and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from . import report_agreement, report_benchmarks, report_chest, report_robustness, report_training
from .markdown import table as _table

_ROOT = Path(__file__).parent.parent
_RESULTS = _ROOT / "benchmarks" / "results"
_NOT_MEASURED = "Not measured yet.\n"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def measured(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Results of a CPU or a GPU: the newest file of each machine, the newest first."""
    newest: dict[tuple[str, int], tuple[str, dict[str, Any]]] = {}
    for path in sorted(_RESULTS.glob("*.json")):
        content = _read(path)
        about = content.get("environment", {})
        if "results" not in content or ("compute_capability" in about) != (kind == "gpu"):
            continue
        machine = about["device"], about["cores"]
        if machine not in newest or about["date"] >= newest[machine][1]["environment"]["date"]:
            newest[machine] = path.name, content
    by_name = sorted(newest.values())
    return sorted(by_name, key=lambda named: named[1]["environment"]["date"], reverse=True)


def _of_machines(kind: str, make: Callable[[str, dict[str, Any]], str]) -> str:
    """A part for the newest file of each machine."""
    return "\n".join(make(name, content) for name, content in measured(kind)) or _NOT_MEASURED


def demo_tables() -> str:
    """What `fastmed demo` found on the held-out hemisphere, and the loss beside MONAI's."""
    path = _RESULTS / "demo.json"
    if not path.exists():
        return _NOT_MEASURED
    content = _read(path)
    scores = [[label, *(f"{value:.3f}" for value in by.values())] for label, by in content["by_class"].items()]
    metrics = list(next(iter(content["by_class"].values())))
    losses = []
    fused = content["loss_comparison"][-1]
    for row in content["loss_comparison"]:
        time = f"{row['seconds'] * 1e3:.1f}"
        cells = [row["name"], f"{row['value']:.6f}", f"{row['gradient_difference']:.1e}", time]
        losses.append([*cells, f"{row['seconds'] / fused['seconds']:.1f}", f"{row['kept_bytes'] / 1e6:.2f}"])
    header = [
        "loss",
        "value",
        "gradient difference",
        "ms, forward + backward",
        "times fastmed's",
        "MB kept for backward",
    ]
    return (
        f"{_table(['class', *metrics], scores)}\nMean foreground Dice {content['mean_foreground_dice']:.3f} after "
        f"{content['steps']} steps, {content['threads']} threads, torch {content['torch']}. The losses, on the tensors "
        f"of the last training step:\n\n{_table(header, losses)}\n(`{path.relative_to(_ROOT)}`)\n"
    )


def static_table() -> str:
    """Registers, instructions and the predicted bound of every Triton kernel."""
    path = _RESULTS / "gpu-static.json"
    if not path.exists():
        return _NOT_MEASURED
    content = _read(path)
    rows = []
    for kernel in content["kernels"]:
        predictions = kernel["predictions"].items()
        expected = ", ".join(f"{gpu} {each['share']:.0%} {each['bound']}" for gpu, each in predictions)
        numbers = [f"sm_{kernel['capability']}", kernel["registers"], kernel["stack"], kernel["load_bytes"]]
        per_element = [f"{kernel['instructions']:.1f}", f"{kernel['mufu']:.2f}", f"{kernel['bytes']:.2f}"]
        name = kernel["kernel"].removeprefix("region_").replace("_kernel_", " ")
        rows.append([name, kernel["variant"], *map(str, numbers), *per_element, expected or "-"])
    header = ["kernel", "operands", "architecture", "registers", "stack, bytes", "widest load, bytes"]
    header += ["instructions", "MUFU", "bytes", "share of the roofline, and bound"]
    return f"Triton {content['versions']['triton']} (`{path.relative_to(_ROOT)}`).\n\n{_table(header, rows)}"


def _example(name: str, make: Callable[[dict[str, Any]], str]) -> str:
    """A table of one file."""
    path = _RESULTS / f"{name}.json"
    return f"{make(_read(path))}\n(`{path.relative_to(_ROOT)}`)\n" if path.exists() else _NOT_MEASURED


_GENERATED = {
    "bench-cpu": lambda: _of_machines("cpu", report_benchmarks.outline),
    "bench-gpu": lambda: _of_machines("gpu", report_benchmarks.outline),
    "bench-cpu-all": lambda: _of_machines("cpu", report_benchmarks.every_row),
    "bench-gpu-all": lambda: _of_machines("gpu", report_benchmarks.every_row),
    "first-step": lambda: _of_machines("cpu", report_benchmarks.first_step),
    "demo": demo_tables,
    **{name: partial(_example, "chest", make) for name, make in report_chest.TABLES.items()},
    **{name: partial(_example, "agreement", make) for name, make in report_agreement.TABLES.items()},
    **{name: partial(_example, file, make) for name, (file, make) in report_training.TABLES.items()},
    **{name: partial(_example, file, make) for name, (file, make) in report_robustness.TABLES.items()},
    "gpu-static": static_table,
    "cpu-static": partial(_example, "cpu-static", report_benchmarks.instructions),
}


def pages() -> list[Path]:
    """README and docs."""
    return [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]


def generated(text: str) -> str:
    """The text of a page with new tables between the marks of each generated part."""
    for name, make in _GENERATED.items():
        marks = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
        text = re.sub(marks, lambda match, make=make: f"{match[1]}\n{make()}\n{match[2]}", text, flags=re.DOTALL)
    return text


def main() -> None:
    """Rewrites every page whose results have changed, and draws the picture of the benchmarks."""
    for path in pages():
        before = path.read_text()
        text = generated(before)
        if text != before:
            path.write_text(text)
            print(f"rewritten: {path.relative_to(_ROOT)}")
    for _, content in measured("cpu")[:1]:
        report_benchmarks.draw(_ROOT / "docs" / "benchmarks.png", content)


if __name__ == "__main__":
    main()
