"""The settings, which are read from the environment once, validated, and never changed."""

from oxidicom.settings.load import load, load_some
from oxidicom.settings.model import Settings
from oxidicom.settings.table import Effective, effective, markdown_table

__all__ = ["Settings", "load", "load_some", "Effective", "effective", "markdown_table"]
