"""What the operator can set: read once from the environment, validated, never changed."""

from oxidicom.settings.load import load
from oxidicom.settings.model import Settings
from oxidicom.settings.table import Effective, effective, markdown_table

__all__ = ["Settings", "load", "Effective", "effective", "markdown_table"]
