"""What the tests run on: each row is an environment of its own."""

from __future__ import annotations

from typing import NamedTuple

BACKENDS = ("reference", "numba", "native", "triton")
# What a row may lack, and the backend that it takes along.
LACKING = {"numba": "numba", "triton": "triton", "compiler": "native"}


class Row(NamedTuple):
    """An environment.

    Attributes:
        name: what is special about it.
        python: version of the interpreter, as in the name of its command.
        requirements: what pip is asked for before the project, whose own requirements have to agree.
        without: keys of `LACKING`: a package that is uninstalled, or a compiler that is not found.
        backends: those that must run; the tests of any other are skipped with its reason.
    """

    name: str
    python: str
    requirements: tuple[str, ...]
    without: tuple[str, ...] = ()
    backends: tuple[str, ...] = BACKENDS


def _lacking(*what: str) -> Row:
    left = tuple(name for name in BACKENDS if name not in {LACKING[each] for each in what})
    return Row(f"no {', no '.join(what)}", "3.11", ("torch==2.13.0", "numpy>=2"), what, left)


ROWS = (
    # This torch brings Triton 3.2, whose compiler cannot return what our kernels do.
    Row(
        "oldest",
        "3.10",
        ("torch==2.6.0", "numpy==1.26.0", "numba==0.62.0", "torchmetrics==1.4.0", "scipy==1.11.1"),
        backends=("reference", "numba", "native"),
    ),
    Row("usual", "3.11", ("torch==2.13.0", "numpy>=2")),
    Row("oldest Triton", "3.12", ("torch==2.7.0", "numpy==2.0.*")),
    Row("newest", "3.13", ("torch", "numpy")),
    _lacking("numba"),
    _lacking("triton"),
    _lacking("compiler"),
    _lacking("numba", "triton", "compiler"),
)

# What the tests below import beside the project.
TOOLS = ("hypothesis>=6.100", "pytest>=8", "scikit-learn>=1.4")

# Each layer once, in a few minutes on two cores; none imports a library under comparison as it is collected.
TESTS = tuple(
    f"tests/test_{name}.py"
    for name in (
        "import",
        "dispatch",
        "validation",
        "labels",
        "formulas",
        "finaliser",
        "region_sums",
        "losses",
        "numba",
        "confusion_counts",
        "score_histogram",
        "metrics_functional",
        "operators",
        "ecosystem",
    )
)

# Triton's interpreter takes minutes for every kind of operands; the losses run its kernels as well.
CHOSEN = "not (test_region_sums and triton)"
