"""A receiver that hostile peers are let loose on, and what must hold after each of them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.raw_peer import RawPeer
from tests.support.receiver import Receiver, wait_until

MEMORY = 150 << 20
IN_TIME = 5.0
"""Seconds, on a machine that is busy with other tests."""

MARK = "Zq7"
"""In every hostile value, so that a log that told one would show it."""

_UNESCAPED = re.compile(r"[\0-\x09\x0b-\x1f\x7f-\x9f]")


class Place:
    """The files root's parent, where a traversal would show, with a file that nobody may touch."""

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self.root = parent / "root"
        self.outside = parent / "outside"
        self.root.mkdir()
        self.outside.mkdir()
        (self.outside / "file").write_text("untouched")

    def check(self, receiver: Receiver) -> None:
        """It answers in time, memory is flat, all files are where they belong, the log is mute."""
        with RawPeer(receiver.port, timeout=IN_TIME) as peer:
            peer.associate()
            peer.echo()
            peer.release()
        assert receiver.peak_memory() < MEMORY
        self.check_outside()
        assert {path.name for path in self.root.iterdir()} <= {".oxidicom", "SERVICES"}
        for path in receiver.files():
            assert path.suffix == ".dcm"
            assert len(path.relative_to(self.root).parts) == 7
        # A record of the outbox may be under way.
        wait_until(lambda: receiver.leftovers() == [], "nothing left behind")
        assert all(len(line) < 4096 for line in receiver.lines)
        log = "\n".join(receiver.lines)
        assert MARK not in log
        assert "Traceback" not in log
        assert not _UNESCAPED.search(log)

    def check_outside(self) -> None:
        assert sorted(path.name for path in self.parent.iterdir()) == ["outside", "root"]
        assert [path.name for path in self.outside.rglob("*")] == ["file"]
        assert (self.outside / "file").read_text() == "untouched"
