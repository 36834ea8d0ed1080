"""This receiver beside others of the machine, on the same work in one run.

`python -m benchmarks [--quick]`; needs nothing of the package but an installed `oxidicom`.
"""
