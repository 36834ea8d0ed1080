"""Wires the layers together, and starts, runs, drains and stops a receiver."""

from oxidicom.app.run import run

__all__ = ["run"]
