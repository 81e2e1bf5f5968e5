"""The tables of `docs/agreement.md`, from what `examples/reader_agreement.py` wrote."""

from __future__ import annotations

from typing import Any

from .markdown import table


def _with_interval(figure: dict[str, Any]) -> str:
    low, high = figure["interval"]
    return f"{figure['value']:.3f} ({low:.3f} to {high:.3f})"


def _resampled(content: dict[str, Any]) -> str:
    return f"95 % intervals of {content['resamples']:,} resamples of patients; torch {content['torch']}."


def labels(content: dict[str, Any]) -> str:
    """Every figure of each finding."""
    found = content["labels"]
    figures = list(found["findings"][0]["figures"])
    rows = [
        [finding["finding"], *(_with_interval(finding["figures"][name]) for name in figures)]
        for finding in found["findings"]
    ]
    return (
        f"{found['images']:,} images of {found['patients']:,} patients; {_resampled(content)}\n\n"
        f"{table(['finding', *figures], rows)}"
    )


def widths(content: dict[str, Any]) -> str:
    """How much wider the intervals are when patients are drawn than Wilson's, for which all images are independent."""
    rows = []
    for finding in content["labels"]["findings"]:
        proportions = {name: figure for name, figure in finding["figures"].items() if "wilson" in figure}
        ratios = []
        for figure in proportions.values():
            (low, high), (wilson_low, wilson_high) = figure["interval"], figure["wilson"]
            ratios.append(f"{(high - low) / (wilson_high - wilson_low):.2f}")
        rows.append([finding["finding"], *ratios])
    return table(["width, as a multiple of Wilson's", *proportions], rows)


def outlines(content: dict[str, Any]) -> str:
    """Median Dice of each group of nodules."""
    rows = [
        [
            group["nodules"],
            *(f"{group[key]:,}" for key in ("number", "patients", "pairs")),
            _with_interval(group["median"]),
            _with_interval(group["median_with_lines"]),
        ]
        for group in content["outlines"]["groups"]
    ]
    header = ["nodules", "number", "patients", "pairs of readers", "median Dice", "median Dice, lines included"]
    return f"{_resampled(content)}\n\n{table(header, rows)}"


TABLES = {"agreement-labels": labels, "agreement-widths": widths, "agreement-outlines": outlines}
