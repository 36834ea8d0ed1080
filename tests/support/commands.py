"""Runs `oxidicom …` within the test's process."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from oxidicom.cli import main


class Done(NamedTuple):
    """The result of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        value: dict[str, Any] = json.loads(self.out)
        return value


class Oxidicom:
    """Runs the command line that it is called with."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Done:
        self._capsys.readouterr()
        try:
            status = main([str(each) for each in arguments])
        except SystemExit as end:  # argparse's
            status = int(end.code or 0)
        out, err = self._capsys.readouterr()
        return Done(status, out, err)
