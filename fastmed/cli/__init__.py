"""The command line: `fastmed info`, `fastmed warmup` and `fastmed demo`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..demo.errors import InputError
from . import demo, info, warmup
from .parser import FAILURE, Parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: of the command line, by default those of the process.

    Returns:
        Exit code: 0, or 2 where the user can put it right and was told in one line on stderr.
    """
    parser = Parser(prog="fastmed", description="Fused losses and metrics for medical imaging.")
    commands = parser.add_subparsers(required=True, metavar="command")
    info.add_parser(commands)
    warmup.add_parser(commands)
    demo.add_parser(commands)
    try:
        options = parser.parse_args(arguments)
        code: int = options.run(options)
    except SystemExit as stop:
        return int(stop.code or 0)
    except InputError as error:
        print(f"fastmed: error: {error}", file=sys.stderr)
        return FAILURE
    return code
