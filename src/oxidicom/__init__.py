"""oxidicom: a DICOM Storage SCP that streams to disk and hands complete series to CUBE."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("oxidicom")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"
