"""Tables of the documentation."""

from __future__ import annotations


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown, the first column left and the others right."""
    align = [":--", *["--:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, align, *rows])
