"""Benchmarks of the DICOM receivers of this machine, on the same work in one run: see README.md.

Run by `python -m benchmarks`. Of the package itself only `micro` needs more than that it is
installed.
"""
