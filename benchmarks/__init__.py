"""Receivers of this machine beside one another, on the same work in one run: see README.md.

`python -m benchmarks`; of the package itself only `micro` needs more than that it is installed.
"""
