"""Wires the layers together; starts, serves, drains and stops."""

from oxidicom.app.run import run

__all__ = ["run"]
