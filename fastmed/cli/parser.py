"""What every command is declared with."""

from __future__ import annotations

import argparse
from typing import NoReturn, TypeAlias

FAILURE = 2


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong on stderr and exit."""
        self.exit(FAILURE, f"{self.prog}: error: {message}\n")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
