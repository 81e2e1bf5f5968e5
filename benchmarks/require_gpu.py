"""`make gpu` starts here: says clearly, and at once, when there is nothing to measure on."""

from __future__ import annotations

import sys


def main() -> int:
    """Exit status 2 without a CUDA device."""
    try:
        import torch
    except ImportError:
        print("make gpu: this Python has no torch; install a CUDA build of it first", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        print(f"make gpu: torch {torch.__version__} ({build}) finds no GPU on this machine", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
