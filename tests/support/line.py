"""One association with a real storage behind it, and no event loop: both ends of a socket."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from oxidicom.buffers import BufferPool
from oxidicom.net.connection_state import ConnectionState
from oxidicom.net.protocol import AssociationProtocol
from oxidicom.net.timeouts import TimeLimits
from oxidicom.ports import InstanceStore, Report, SeriesInfo, SeriesKey
from oxidicom.store.executors import StorageExecutors
from oxidicom.store.storage import Storage
from oxidicom.store.write_policy import WriteMode, WritePolicy
from oxidicom.wire.negotiation import Policy
from tests.support import raw_peer as peer
from tests.support.raw_peer import Context

CT = peer.CT_IMAGE_STORAGE
CONTEXTS = (
    Context(1, CT, [peer.EXPLICIT]),
    Context(3, peer.VERIFICATION, [peer.IMPLICIT]),
    Context(5, CT, [peer.IMPLICIT]),
    Context(7, CT, [peer.DEFLATED]),
)


class Journal:
    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []
        self.removed: list[tuple[str, SeriesKey]] = []

    def enter(self, association_id: str, series: SeriesInfo) -> None:
        self.entries.append((association_id, series.path))

    def remove(self, key: SeriesKey, associations: Iterable[str]) -> None:
        self.removed += [(association_id, key) for association_id in associations]


class WithoutFastPath(Storage):
    """Every instance takes the general path."""

    def fast_path(self, *arguments: Any) -> None:
        return None


class Transport(asyncio.Transport):
    """Sends at once, as uvloop's transport does while the peer reads."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._socket = sock
        self.writes = 0
        self.closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"socket": self._socket, "peername": ("192.0.2.7", 5000)}.get(name, default)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.writes += 1
        self._socket.sendall(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def write_eof(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def close(self) -> None:
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        return self.closing


class Host:
    """The owner of one connection."""

    policy = Policy()
    limits = TimeLimits()

    def __init__(self, storage: InstanceStore, report: Callable[[Report], None]) -> None:
        self.pool = BufferPool(1 << 26)
        self.store = storage
        self.reports = report
        self.bugs: list[BaseException] = []
        self.on_bug = self.bugs.append
        self.clock = time.monotonic

    def nothing(self, *arguments: Any) -> None: ...

    def defer(self, call: Callable[[], None], *, first: bool) -> None:
        call()

    opened = receiving_request = associated = ended = closed = admit = nothing


class Line:
    """A connection; `receive` does what the loop does with bytes that have come."""

    def __init__(
        self,
        root: Path,
        loop: asyncio.AbstractEventLoop,
        *,
        fast_path: bool = True,
        mode: WriteMode = "inline",
        **settings: Any,
    ) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        self.reports: list[Report] = []
        self.journal = Journal()
        self.executors = StorageExecutors(
            loop, WritePolicy(mode, local=True, fsync=False), 1, time.monotonic
        )
        self.storage = (Storage if fast_path else WithoutFastPath)(
            root,
            executors=self.executors,
            journal=self.journal,
            reports=self.reports.append,  # type: ignore[arg-type]
            clock=time.monotonic,
            **settings,
        )
        self.host = Host(self.storage, self.reports.append)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.theirs = socket.create_connection(listener.getsockname())
            self.ours, _ = listener.accept()
        self.theirs.settimeout(10)
        self.transport = Transport(self.ours)
        self.protocol = AssociationProtocol(self.host)
        self.protocol.connection_made(self.transport)

    def associate(self) -> None:
        self.receive(peer.associate_rq(CONTEXTS))
        assert self.taken()[0] == 2

    def receive(self, data: bytes, size: int | None = None) -> None:
        """Receive `data` in receives of `size` bytes, of the buffer's size at most."""
        protocol = self.protocol
        size = size or protocol.pool.size
        for start in range(0, len(data), size):
            part = data[start : start + size]
            protocol.window = size
            protocol.get_buffer(-1)[: len(part)] = part
            protocol.buffer_updated(len(part))

    def taken(self) -> bytes:
        """Return what the receiver has sent since the last call."""
        self.theirs.setblocking(False)
        received = b""
        try:
            while more := self.theirs.recv(1 << 16):
                received += more
        except BlockingIOError:
            pass
        return received

    @property
    def fast(self) -> int:
        """Instances that took the fast path, or began to."""
        fast_path: Any = self.protocol._fast_path
        return 0 if fast_path is None else fast_path.begun

    def files(self) -> dict[str, bytes]:
        """Return the files of the whole root, the folder of temporary files included."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file()
        }

    def close(self) -> None:
        self.transport.closing = True
        if self.protocol.state is not ConnectionState.CLOSED:
            self.protocol.connection_lost(None)
        self.executors.stop(5)
        self.storage.close()
        self.ours.close()
        self.theirs.close()
        assert self.host.bugs == []
