"""A receiver under attack by hostile peers, and what must hold after each attack."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.raw_peer import RawPeer
from tests.support.receiver import Receiver, wait_until

MEMORY = 150 << 20
IN_TIME = 15.0
"""Seconds for an answer, on a machine that is busy with other tests."""

MARK = "Zq7"
"""A text in every hostile value, which would be noticed in a log that held the value."""

_UNESCAPED = re.compile(r"[\0-\x09\x0b-\x1f\x7f-\x9f]")


class Place:
    """The parent folder of the files root, where a path traversal would be noticed, with a file
    that must not change."""

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self.root = parent / "root"
        self.outside = parent / "outside"
        self.root.mkdir()
        self.outside.mkdir()
        (self.outside / "file").write_text("untouched")

    def check(self, receiver: Receiver) -> None:
        """Check that the receiver answers in time, memory is flat, all files are where they belong,
        and the log holds nothing of the values."""
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
        # A record of the outbox may be just being written.
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
