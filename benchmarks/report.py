"""`make docs`: the tables of README and docs, from the files in `benchmarks/results` and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent
_RESULTS = _ROOT / "benchmarks" / "results"
_NOT_MEASURED = "Not measured yet.\n"


def _table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown, the first column left and the others right."""
    align = [":--", *["--:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, align, *rows])


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def measured(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Results of a CPU or a GPU: the newest file of each machine, by name."""
    newest: dict[tuple[str, int], tuple[str, dict[str, Any]]] = {}
    for path in sorted(_RESULTS.glob("*.json")):
        content = _read(path)
        about = content.get("environment", {})
        if "results" not in content or ("compute_capability" in about) != (kind == "gpu"):
            continue
        machine = about["device"], about["cores"]
        if machine not in newest or about["date"] >= newest[machine][1]["environment"]["date"]:
            newest[machine] = path.name, content
    return sorted(newest.values())


def benchmark_table(kind: str) -> str:
    """Every case and provider of the newest file of each machine."""
    parts = []
    for name, content in measured(kind):
        about = content["environment"]
        versions = about["versions"]
        rows = []
        for row in content["results"]:
            if "failed" in row:
                rows.append([row["case"], row["provider"], f"failed: {row['failed']}", "", ""])
                continue
            time = f"{row['median_s'] * 1e3:.3g} ± {row['iqr_s'] * 1e3:.2g}"
            cells = [row["case"], row["provider"], time, f"{row['times_fastmed']:.2f}", f"{row['share_of_copy']:.0%}"]
            rows.append(cells)
        parts.append(
            f"{about['device']}, {about['cores']} cores, torch {versions['torch']}, MONAI {versions.get('monai', '-')}, "
            f"{about['date']}; copy {content['copy_bandwidth_bytes_s'] / 1e9:.1f} GB/s (`{name}`).\n\n"
            + _table(["case", "provider", "ms, median ± IQR", "times fastmed's", "of copy bandwidth"], rows)
        )
    return "\n".join(parts) or _NOT_MEASURED


def demo_tables() -> str:
    """What `fastmed demo` found on the held-out hemisphere, and the loss beside MONAI's."""
    path = _RESULTS / "demo.json"
    if not path.exists():
        return _NOT_MEASURED
    content = _read(path)
    by_class = content["by_class"]
    classes = content["classes"]
    scores = [[name, *(f"{by_class[metric][i]:.3f}" for metric in by_class)] for i, name in enumerate(classes)]
    losses = []
    for row in content["comparison"]:
        cells = [row["name"], f"{row['value']:.6f}", f"{row['gradient_difference']:.1e}", f"{row['seconds'] * 1e3:.1f}"]
        losses.append([*cells, f"{row['ratio']:.1f}", f"{row['bytes_kept'] / 1e6:.2f}"])
    header = ["loss", "value", "largest gradient difference", "ms, forward + backward", "times fastmed's", "MB kept"]
    return (
        f"{_table(['class', *by_class], scores)}\nMean foreground Dice {content['mean_foreground_dice']:.3f} after "
        f"{content['steps']} steps (`benchmarks/results/demo.json`).\n\n{_table(header, losses)}"
    )


def static_table() -> str:
    """Registers, instructions and the predicted bound of every Triton kernel."""
    path = _RESULTS / "gpu-static.json"
    return _read(path)["markdown"] if path.exists() else _NOT_MEASURED


_GENERATED = {
    "bench-cpu": lambda: benchmark_table("cpu"),
    "bench-gpu": lambda: benchmark_table("gpu"),
    "demo": demo_tables,
    "gpu-static": static_table,
}


def main() -> None:
    """Rewrites what stands between the marks of each generated part."""
    for path in (_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))):
        text = before = path.read_text()
        for name, make in _GENERATED.items():
            marks = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
            text = re.sub(marks, lambda match, make=make: f"{match[1]}\n{make()}\n{match[2]}", text, flags=re.DOTALL)
        if text != before:
            path.write_text(text)
            print(f"rewritten: {path.relative_to(_ROOT)}")


if __name__ == "__main__":
    main()
