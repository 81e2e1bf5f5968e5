"""Random calls of the C++ extension under sanitizers: see `python -m tests.fuzz --help`."""
