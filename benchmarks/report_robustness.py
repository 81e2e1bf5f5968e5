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


TABLES = {"robustness-cases": cases, "robustness-properties": properties, "robustness-skipped": skipped}
