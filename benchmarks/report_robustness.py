"""The tables of `docs/robustness.md`, from what the generated tests wrote."""

from __future__ import annotations

from typing import Any

from .markdown import table


def _by_backend(rows: dict[str, dict[str, int]]) -> tuple[list[str], list[list[str]]]:
    """Backends, and for each row its name and number for each of them."""
    backends = sorted({backend for numbers in rows.values() for backend in numbers})
    cells = [[name, *(f"{numbers[b]:,}" if b in numbers else "-" for b in backends)] for name, numbers in rows.items()]
    return backends, cells


def cases(content: dict[str, Any]) -> str:
    """How many cases each operator was called with on each backend."""
    backends, rows = _by_backend(content["cases"])
    for row, numbers in zip(rows, content["cases"].values(), strict=True):
        row.append(f"{sum(numbers.values()):,}")
    total = sum(sum(numbers.values()) for numbers in content["cases"].values())
    outcomes = ", ".join(f"{number} {outcome}" for outcome, number in content["outcomes"].items())
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return (
        f"{total:,} distinct cases; of the tests that hold them and the properties below, {outcomes}, in "
        f"{content['seconds']} s; {versions}.\n\n{table(['operator', *backends, 'all'], rows)}"
    )


def properties(content: dict[str, Any]) -> str:
    """How often each property was tried on each backend."""
    held = content["properties"]
    backends, rows = _by_backend({name: each["draws"] for name, each in held.items()})
    rows = [[name, f"`{held[name]['op']}`", *numbers] for name, *numbers in rows]
    return table(["property", "operator", *backends], sorted(rows, key=lambda row: row[1]))


def skipped(content: dict[str, Any]) -> str:
    """Tests that did not run, with the reason."""
    if not content["skipped"]:
        return "None of these tests was skipped.\n"
    return table(["reason", "tests"], [[reason, str(number)] for reason, number in content["skipped"].items()])


_PACKAGES = ("python", "torch", "numpy", "numba", "triton")
_OUTCOMES = ("passed", "failed", "skipped")


def versions(content: dict[str, Any]) -> str:
    """The environments in which the tests ran, and what came of it; then those in which they did not, and why."""
    rows, missing = [], []
    for row in content["rows"]:
        if "versions" not in row:
            missing.append(f"{row['name']}: {row['outcome']}: {row['reason']}")
            continue
        cells = [row["name"], *(row["versions"].get(name, "-") for name in _PACKAGES), ", ".join(row["backends"])]
        rows.append([*cells, *(str(row["outcomes"][name]) for name in _OUTCOMES), str(row["seconds"])])
    header = ["environment", "Python", "torch", "NumPy", "Numba", "Triton", "backends", *_OUTCOMES, "s"]
    return "\n".join([table(header, rows), *(f"- {line}\n" for line in missing)])


def versions_skipped(content: dict[str, Any]) -> str:
    """Why tests were skipped in these environments, and how many."""
    ran = [row for row in content["rows"] if "versions" in row]
    reasons = sorted({reason for row in ran for reason in row["skipped"]})
    rows = [[reason, *(str(row["skipped"].get(reason, "-")) for row in ran)] for reason in reasons]
    return table(["reason", *(row["name"] for row in ran)], rows)


def fuzzed(content: dict[str, Any]) -> str:
    """How many random calls of the extension were made."""
    rows = [[subject, f"{number:,}"] for subject, number in content["calls"].items()]
    return table(["subject", "calls"], rows)


def faults(content: dict[str, Any]) -> str:
    """Every planted fault, and the test that found it."""
    rows = []
    for fault in content["faults"]:
        # A row of a table is one line.
        before, after = (" ".join(fault[name].split()) for name in ("before", "after"))
        change = f"`{before}` became `{after}`" if after else f"`{before}` was left out"
        place = f"`{fault['file'].removeprefix('fastmed/')}`, line {fault['line']}"
        found = "**none**" if fault["found_by"] is None else f"`{fault['found_by']}`"
        rows.append([fault["kind"], place, change.replace("|", "\\|"), found])
    found = sum(fault["found_by"] is not None for fault in content["faults"])
    return f"{found} of {len(rows)} were found.\n\n{table(['fault', 'where', 'what', 'first test that failed'], rows)}"


# Each part by its name: the file of results, and what makes the table of it.
TABLES = {
    "robustness-cases": ("generated-cases", cases),
    "robustness-properties": ("generated-cases", properties),
    "robustness-skipped": ("generated-cases", skipped),
    "robustness-fuzz": ("fuzz", fuzzed),
    "robustness-faults": ("mutation", faults),
    "robustness-versions": ("test-matrix", versions),
    "robustness-versions-skipped": ("test-matrix", versions_skipped),
}
