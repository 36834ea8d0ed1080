"""One connection: the acceptor's records carried out on a transport."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import Any, Protocol, cast

from oxidicom._receiver import BufferedReceiver
from oxidicom.buffers import BufferPool
from oxidicom.constants import AbortReason
from oxidicom.logevents import event
from oxidicom.net.flow import FlowControl
from oxidicom.net.timeouts import ConnectionTimeouts, TimeLimits
from oxidicom.ports import (
    AssociationBegan,
    AssociationContext,
    AssociationEnded,
    FastPath,
    InstanceSink,
    InstanceStore,
    Reports,
    StoreOutcome,
)
from oxidicom.ulid import new_ulid
from oxidicom.wire.acceptor import Acceptor
from oxidicom.wire.events import Associated, Data, Ended, Event, FramerEvent, Output, StoreBegan
from oxidicom.wire.items import AssociateRequest
from oxidicom.wire.negotiation import Policy

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for no time at all."""

logger = logging.getLogger("oxidicom.net")


class Phase(Enum):
    UNASSOCIATED = auto()
    ESTABLISHED = auto()
    CLOSING = auto()
    """We have said our last; what arrives is dropped until the peer closes."""
    CLOSED = auto()


class ConnectionOwner(Protocol):
    """Whom a connection belongs to: the listener."""

    policy: Policy
    limits: TimeLimits
    pool: BufferPool
    store: InstanceStore
    reports: Reports
    on_bug: Callable[[BaseException], None]
    clock: Callable[[], float]

    def defer(self, call: Callable[[], None], *, first: bool) -> object:
        """Call it when others have had their turn."""

    def opened(self, connection: AssociationProtocol) -> None: ...

    def receiving_request(self, connection: AssociationProtocol, nbytes: int) -> None:
        """So many more bytes of an A-ASSOCIATE-RQ that is not whole yet are kept."""

    def associated(self, connection: AssociationProtocol) -> None: ...

    def ended(self, connection: AssociationProtocol) -> None:
        """Its place is free, though the connection may linger."""

    def closed(self, connection: AssociationProtocol) -> None: ...

    def admit(self, peer_address: str) -> None:
        """Raises AssociationRejectedError for what lies outside of the request."""


# BufferedProtocol it must be: with asyncio.Protocol beside it, or with neither, uvloop and asyncio
# choose different callbacks.
class AssociationProtocol(BufferedReceiver, asyncio.BufferedProtocol):
    """Feeds the acceptor with what no consumer takes, and does what its records say."""

    def __init__(self, host: ConnectionOwner) -> None:
        self._host = host
        self.pool = host.pool
        self._store = host.store
        self._acceptor = Acceptor(host.policy, self._admit)
        self._sink: InstanceSink | None = None
        self._fast_path: FastPath | None = None
        self._association: AssociationContext | None = None
        self._kept = 0  # sinks that keep the buffer under way
        self._last: Ended | None = None  # how it ends, once the outcomes that are due are sent
        self._over = False
        self._abort_at_rest: str | None = None
        self._half_closed = False
        self.phase = Phase.UNASSOCIATED
        self.killed = False
        self.peer: tuple[str, int] = ("", 0)

    # ---- transport's callbacks -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._flow = FlowControl(self._transport, self.pool)
        address = transport.get_extra_info("peername")
        if isinstance(address, tuple):
            # On a socket for both families IPv4 peers come in IPv6's clothes.
            self.peer = (address[0].removeprefix("::ffff:"), address[1])
        self._socket = _socket_of(self._transport)
        self.watch = ConnectionTimeouts(self._host.limits, self._host.clock())
        # Responses wait for nobody; a peer that vanished is noticed in the end (decisions 16, 19).
        with contextlib.suppress(OSError):  # reset already: reading will tell
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._host.opened(self)

    def eof_received(self) -> bool:
        self._half_closed = True
        self._perform(self._acceptor.eof(), self.pool.current)
        # The peer may have closed its half only, and read on: outcomes that are due still go out.
        return not self._over

    def connection_lost(self, exc: Exception | None) -> None:
        self.phase = Phase.CLOSED
        if self._fast_path is not None:
            self._fast_path.close()
            self._fast_path = None
        self._socket.detach()
        self._flow.detach()
        if not self._over:
            self._on_ended(self._last or Ended("connection closed by peer"))
        self._host.closed(self)

    def pause_writing(self) -> None:
        self._flow.peer_reads(False)

    def resume_writing(self) -> None:
        self._flow.peer_reads(True)

    # ---- bytes in ------------------------------------------------------------------------

    def on_receive(self, nbytes: int, found: list[FramerEvent] | None) -> None:
        if self.phase is Phase.CLOSING:
            return
        buffer = self.pool.current
        acceptor = self._acceptor
        try:
            if found is None:
                self._perform(acceptor.receive(buffer, 0, nbytes), buffer)
            else:
                self._perform(acceptor.take(found), buffer)
            self._flush(buffer)
        except Exception as error:
            self.on_bug(error)
        self._settle_buffers()
        self.consumer = acceptor.fast_path if self._abort_at_rest is None else None
        if self.phase is Phase.UNASSOCIATED:
            self._host.receiving_request(self, nbytes)

    def on_long_turn(self, rare: bool) -> None:
        self._flow.rest(partial(self._host.defer, first=rare))

    def on_bug(self, error: BaseException) -> None:
        self._host.on_bug(error)
        self.abort("internal error")
        self._settle_buffers()

    def _flush(self, buffer: bytearray) -> None:
        """The buffer is about to be reused."""
        if self._fast_path is not None:
            self._fast_path.flush()
        if self._sink is not None and not self._sink.flush(buffer):
            self._kept += 1
        if self._acceptor.mid_message:
            # A sender with Nagle's algorithm on holds the rest of the message back until this
            # much is acknowledged; the kernel forgets the option after a while (decision 19).
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        elif self._abort_at_rest is not None and self.at_rest:
            self.abort(self._abort_at_rest)

    def _settle_buffers(self) -> None:
        if self._kept:
            kept, self._kept = self._kept, 0
            self._flow.buffers_kept(kept)

    def _perform(self, events: list[Event], buffer: bytearray) -> None:
        """Do what the acceptor says."""
        for record in events:
            if type(record) is Data:
                self._on_data(record, buffer)
                if self._over:
                    # The outcome of an instance ended the association: the rest is not wanted.
                    return
            elif type(record) is StoreBegan:
                self._on_store_began(record)
            elif type(record) is Output:
                self.send(record.data)
            elif type(record) is Associated:
                self._on_associated(record.request)
            elif type(record) is Ended:
                self._on_ended(record)

    def _on_store_began(self, record: StoreBegan) -> None:
        assert self._association is not None
        self._sink = self._store.begin(self._association, record.request, self)
        self._flow.instance_pending()

    def _on_data(self, data: Data, buffer: bytearray) -> None:
        sink = self._sink
        assert sink is not None
        if data.stop > data.start:
            sink.feed(buffer, data.start, data.stop)
        if data.last:
            self._finish(sink, buffer)

    def _finish(self, sink: InstanceSink, buffer: bytearray) -> None:
        self._sink = None
        pending = self._flow.pending
        try:
            if not sink.finish(buffer):
                self._kept += 1
        except Exception:
            if self._flow.pending == pending:
                # A bug of the store's: no outcome will come.
                self._flow.instance_done()
            raise

    # ---- the store's callbacks (ports.SinkOwner) -----------------------------------------

    def instance_done(self, outcome: StoreOutcome) -> None:
        self._flow.instance_done()
        if self.phase is not Phase.ESTABLISHED:
            self._report_end()
            return
        self.send(self._acceptor.store_response(outcome))
        if self._last is not None and not self._flow.pending:
            self._end(self._last)
        elif self._abort_at_rest is not None and self.at_rest:
            self.abort(self._abort_at_rest)

    def buffer_released(self, buffer: bytearray) -> None:
        self._flow.buffer_released(buffer)

    # ---- the fast path's callbacks (ports.FastPathOwner) -------------------------------

    def send(self, data: bytes) -> None:
        self._transport.write(data)
        if self._fast_path is not None:
            self._fast_path.direct = False

    def nothing_waits(self) -> bool:
        return not self._transport.get_write_buffer_size()

    def adopt(
        self,
        context_id: int,
        message_id: int,
        sop_class_uid: str,
        sop_instance_uid: str,
        begun: Any,
        under_way: bool,
    ) -> None:
        assert self._association is not None
        request = self._acceptor.store_request(
            context_id, message_id, sop_class_uid, sop_instance_uid
        )
        self._sink = self._store.adopt(self._association, request, self, begun)
        self._flow.instance_pending()
        if under_way:
            self._acceptor.take_back(request)

    def finish_adopted(self, buffer: bytearray) -> None:
        assert self._sink is not None
        self._finish(self._sink, buffer)

    # ---- the association's life ----------------------------------------------------------

    def _admit(self, request: AssociateRequest) -> None:
        self._host.admit(self.peer[0])

    def _on_associated(self, request: AssociateRequest) -> None:
        association_id = new_ulid()
        self._association = AssociationContext(association_id, request.calling_ae_title)
        self.phase = Phase.ESTABLISHED
        self._host.associated(self)
        tls = self._transport.get_extra_info("ssl_object")
        self._host.reports(
            AssociationBegan(
                association_id,
                *self.peer,
                request.calling_ae_title,
                request.called_ae_title,
                self._host.clock(),
                time.time_ns(),
                tls=None if tls is None else tls.version(),
            )
        )
        self._open_fast_path(self._association, encrypted=tls is not None)

    def _open_fast_path(self, association: AssociationContext, *, encrypted: bool) -> None:
        fast_path = self._store.fast_path(association, self, self._acceptor.contexts)
        if fast_path is not None:
            if not encrypted:
                fast_path.fd = self._socket.fileno()
            self._acceptor.use(fast_path)
            self._fast_path = fast_path

    def _on_ended(self, record: Ended) -> None:
        self.consumer = None
        if self._fast_path is not None:
            self._fast_path.discard()
        sink, self._sink = self._sink, None
        if sink is not None:
            self._flow.instance_done()
            try:
                sink.discard()
            except Exception as error:
                self._host.on_bug(error)
        if record.waits and self._flow.pending and self.phase is Phase.ESTABLISHED:
            self._last = record
        else:
            self._end(record)

    def _end(self, record: Ended) -> None:
        self._last = record
        self._over = True
        if self._association is None and record.last_words:
            # A probe is nothing to tell of; a peer that was refused is (decision 8).
            refused = record.error is not None and record.error.startswith("rejected")
            event(
                logger,
                logging.WARNING if refused else logging.DEBUG,
                "no association",
                peer=self.peer[0],
                reason=record.error,
            )
        self._host.ended(self)
        self._close(record.last_words)
        self._report_end()

    def _report_end(self) -> None:
        """Once all that this association stored has been reported."""
        if not self._over or self._association is None or self._flow.pending:
            return
        assert self._last is not None
        association_id = self._association.association_id
        self._association = None
        self._store.association_ended(association_id)
        self._host.reports(
            AssociationEnded(
                association_id,
                self._last.error,
                self.received,
                self._host.clock(),
                time.time_ns(),
            )
        )

    def _close(self, last_words: bytes) -> None:
        """Let our last words arrive: closing with unread bytes would reset the connection and
        destroy them (decision 10)."""
        if self.phase is Phase.CLOSED:
            return
        self.phase = Phase.CLOSING
        self.watch.closing(self._host.clock())
        if self._transport.is_closing():
            self._flow.detach()
            return
        self._flow.release()
        if last_words:
            self.send(last_words)
        if last_words and not self._half_closed and self._transport.can_write_eof():
            # The peer may have reset the connection since: then nobody reads them.
            with contextlib.suppress(OSError):
                self._transport.write_eof()
        else:
            self._transport.close()

    # ---- the listener's commands ---------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        """Between messages, with nothing under way on our side either."""
        acceptor = self._acceptor
        return not (acceptor.mid_message or acceptor.closing or self._flow.pending)

    def check(self, now: float) -> None:
        """Called every second or so: time limits (decisions 8, 10, 16)."""
        if self.phase in (Phase.UNASSOCIATED, Phase.CLOSING):
            if self.watch.artim_expired(now):
                if self.phase is Phase.CLOSING:
                    # The kernel need not keep our last words for a peer that does not read them.
                    with contextlib.suppress(OSError):
                        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._transport.abort()
        elif self.phase is Phase.ESTABLISHED:
            message = self._acceptor.messages if self._acceptor.mid_message else None
            reason = self.watch.observe(now, self.received, message, self.awaits_us)
            if reason is not None:
                self.abort(reason)

    def silent_for(self, now: float) -> float:
        """Seconds since the peer's last byte, as of the last `check`."""
        return self.watch.silence(now, self.received)

    @property
    def awaits_us(self) -> bool:
        """It is our turn: outcomes are due, or we do not read on because our writes lag behind."""
        return self._flow.lagging or self._flow.pending > (0 if self._sink is None else 1)

    def abort(self, reason: str) -> None:
        """A-ABORT from our side; the open instance is discarded."""
        if not self._over:
            self._on_ended(self._acceptor.abort(AbortReason.NOT_SPECIFIED, reason))

    def abort_at_rest(self, reason: str) -> None:
        """As `abort`, after the instance in flight."""
        if self.at_rest or self.phase is not Phase.ESTABLISHED:
            self.abort(reason)
        else:
            self._abort_at_rest = reason
            self.consumer = None

    def kill(self) -> None:
        """Nothing more is sent or awaited."""
        self.killed = True
        self._transport.abort()


def _socket_of(transport: asyncio.Transport) -> socket.socket:
    """A socket object on the transport's descriptor: uvloop's own makes one at every call."""
    inner = transport.get_extra_info("socket")
    return socket.socket(inner.family, inner.type, inner.proto, inner.fileno())
