"""Faults planted one at a time, each of which the tests have to find: see `python -m tests.mutation --help`."""
