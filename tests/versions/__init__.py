"""The tests on old and new Python, torch and NumPy, and without what the package can do without."""
