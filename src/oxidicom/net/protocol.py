"""The protocol of one connection: it carries out the acceptor's events on a transport."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, cast

from oxidicom._peer_socket import PeerSocket
from oxidicom._receiver import BufferedReceiver
from oxidicom.buffers import BufferPool
from oxidicom.constants import AbortReason
from oxidicom.logevents import event
from oxidicom.net.connection_state import ConnectionState, follow
from oxidicom.net.flow import FlowControl
from oxidicom.net.timeouts import ConnectionTimeouts, TimeLimits
from oxidicom.net.tls import TlsTransport
from oxidicom.ports import (
    AssociationBegan,
    AssociationContext,
    AssociationEnded,
    FastPath,
    HandOver,
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

_LINGER_0_S: Final = struct.pack("ii", 1, 0)
"""Value of SO_LINGER for 0 seconds: closing resets the connection and drops unsent bytes."""

logger = logging.getLogger("oxidicom.net")


class ConnectionOwner(Protocol):
    """The part of the listener's interface that connections use."""

    policy: Policy
    limits: TimeLimits
    pool: BufferPool
    store: InstanceStore
    reports: Reports
    on_bug: Callable[[BaseException], None]
    clock: Callable[[], float]

    def defer(self, call: Callable[[], None], *, first: bool) -> object:
        """Call `call` once other connections have been served, before other calls if `first`."""

    def opened(self, connection: AssociationProtocol) -> None: ...

    def receiving_request(self, connection: AssociationProtocol, nbytes: int) -> None:
        """Count `nbytes` more of an A-ASSOCIATE-RQ that is not complete yet."""

    def associated(self, connection: AssociationProtocol) -> None: ...

    def ended(self, connection: AssociationProtocol) -> None:
        """Stop counting the association, which has ended or been rejected.

        The connection may still be open.
        """

    def closed(self, connection: AssociationProtocol) -> None: ...

    def admit(self, peer_address: str) -> None:
        """Raise AssociationRejectedError if the listener does not accept an association now.

        The reason is a limit, the drain or the peer's network.
        """


# It must inherit BufferedProtocol alone: with asyncio.Protocol beside it, or with neither, uvloop
# and asyncio choose different callbacks.
class AssociationProtocol(BufferedReceiver, asyncio.BufferedProtocol):
    """Passes the framer's events to the acceptor and carries out the events that it returns."""

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self.pool = owner.pool
        self._store = owner.store
        self._acceptor = Acceptor(owner.policy, self._admit)
        self.framer = self._acceptor.framer
        self._sink: InstanceSink | None = None
        self._fast_path: FastPath | None = None
        self._association: AssociationContext | None = None
        self._kept = 0  # number of sinks that keep the current buffer
        self._end: Ended | None = None  # how the association ends, once that is known
        self._drain_reason = ""
        self._peer_sends = True  # until it closes its half of the connection
        self.state = ConnectionState.UNASSOCIATED
        self.peer: tuple[str, int] = ("", 0)

    # ---- the transport's callbacks -------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._flow = FlowControl(self._transport, self.pool)
        address = transport.get_extra_info("peername")
        if isinstance(address, tuple):
            # A dual-stack socket reports IPv4 peers as IPv4-mapped IPv6 addresses.
            self.peer = (address[0].removeprefix("::ffff:"), address[1])
        self._socket = _socket_of(self._transport)
        # TLS encrypts responses, and acknowledges by itself.
        encrypted = isinstance(transport, TlsTransport)
        self.peer_socket = PeerSocket(self._transport, -1 if encrypted else self._socket.fileno())
        self.timeouts = ConnectionTimeouts(self._owner.limits, self._owner.clock())
        # Send small responses without delay (decision 19), and detect peers that have disappeared
        # (decision 16).
        with contextlib.suppress(OSError):  # the peer has reset the connection: reading fails
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._owner.opened(self)

    def eof_received(self) -> bool:
        self._peer_sends = False
        if self.state is not ConnectionState.KILLED:
            self._carry_out(self._acceptor.eof(), self.pool.current)
        # The peer may have closed only its half and still read: send the outcomes that are due.
        return self.state is ConnectionState.AWAITING_OUTCOMES

    def connection_lost(self, exc: Exception | None) -> None:
        has_ended = self.state is ConnectionState.CLOSING
        self.state = follow(self.state, ConnectionState.CLOSED)
        self.framer.close()
        self._close_fast_path()
        self.peer_socket.detach()
        self._socket.detach()
        self._flow.detach()
        if not has_ended:
            self._on_ended(self._end or Ended("connection closed by peer"))
        self._owner.closed(self)

    def pause_writing(self) -> None:
        self._flow.peer_reads(False)

    def resume_writing(self) -> None:
        self._flow.peer_reads(True)

    # ---- bytes in ------------------------------------------------------------------------

    def on_receive(self, nbytes: int, framed: list[FramerEvent]) -> None:
        buffer = self.pool.current
        try:
            if framed:
                self._carry_out(self._acceptor.handle(framed, buffer), buffer)
            self._flush(buffer)
        except Exception as error:
            self.on_bug(error)
        self._settle_buffers()
        if self.handles_every_receive:  # for an instance that was handed over, or while draining
            self.handles_every_receive = self.state is ConnectionState.DRAINING
        if self._association is None and self.state is ConnectionState.UNASSOCIATED:
            self._owner.receiving_request(self, nbytes)

    def on_long_turn(self, rare: bool) -> None:
        self._flow.rest(partial(self._owner.defer, first=rare))

    def on_bug(self, error: BaseException) -> None:
        self._owner.on_bug(error)
        self.abort("internal error")
        self._settle_buffers()

    def _flush(self, buffer: bytearray) -> None:
        """Flush the open sink: the next receive reuses `buffer` unless the sink keeps it."""
        if self._sink is not None and not self._sink.flush(buffer):
            self._kept += 1
        if self._acceptor.mid_message:
            self.peer_socket.acknowledge_soon()
        elif self.handles_every_receive:
            self._abort_if_drained()

    def _settle_buffers(self) -> None:
        if self._kept:
            kept, self._kept = self._kept, 0
            self._flow.buffers_kept(kept)

    def _carry_out(self, events: list[Event], buffer: bytearray) -> None:
        """Carry out the acceptor's events; `buffer` holds the bytes of the Data events."""
        for record in events:
            if type(record) is Data:
                self._on_data(record, buffer)
                if self.state is ConnectionState.CLOSING:
                    # The outcome of an instance has ended the association: drop the other events.
                    return
            elif type(record) is StoreBegan:
                assert self._association is not None
                self._sink = self._store.begin(self._association, record.request, self)
                self._flow.instance_pending()
            elif type(record) is Output:
                self.peer_socket.send(record.data)
            elif type(record) is Associated:
                self._on_associated(record.request)
            elif type(record) is Ended:
                self._on_ended(record)

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
                # A bug in the store: no outcome will come.
                self._flow.instance_done()
            raise

    # ---- the store's callbacks (ports.FastPathOwner) -------------------------------------

    def instance_done(self, outcome: StoreOutcome) -> None:
        self._flow.instance_done()
        if self.state is ConnectionState.ESTABLISHED:
            self.peer_socket.send(self._acceptor.store_response(outcome))
        elif self.state is ConnectionState.KILLED:
            pass  # `connection_lost` follows, and reports the end
        elif self.state.is_over:
            self._report_end()
        else:
            self.peer_socket.send(self._acceptor.store_response(outcome))
            if self._end is not None and not self._flow.pending:
                self._end_association(self._end)
            else:
                self._abort_if_drained()

    def buffer_released(self, buffer: bytearray) -> None:
        self._flow.buffer_released(buffer)

    def on_hand_over(self, hand_over: HandOver) -> None:
        assert self._association is not None
        request = hand_over.request
        sink = self._store.begin(self._association, request, self, hand_over.received)
        self._flow.instance_pending()
        self.handles_every_receive = True
        if hand_over.complete:
            self._finish(sink, self.pool.current)
        else:
            self._sink = sink
            self._acceptor.resume(request)

    # ---- the association's life ----------------------------------------------------------

    def _admit(self, request: AssociateRequest) -> None:
        self._owner.admit(self.peer[0])

    def _on_associated(self, request: AssociateRequest) -> None:
        association = AssociationContext(new_ulid(), request.calling_ae_title)
        self._association = association
        self.state = follow(self.state, ConnectionState.ESTABLISHED)
        self._owner.associated(self)
        tls = self._transport.get_extra_info("ssl_object")
        self._owner.reports(
            AssociationBegan(
                association.association_id,
                *self.peer,
                request.calling_ae_title,
                request.called_ae_title,
                self._owner.clock(),
                time.time_ns(),
                tls=None if tls is None else tls.version(),
            )
        )
        if self._acceptor.responses_fit_one_pdu:
            self._fast_path = self._store.fast_path(
                association, self._acceptor.contexts, self.peer_socket, self
            )
        if self._fast_path is not None:
            self.framer.attach(self._fast_path)

    def _close_fast_path(self) -> None:
        if self._fast_path is not None:
            self._fast_path.close()
            self._fast_path = None

    def _on_ended(self, record: Ended) -> None:
        self._close_fast_path()
        sink, self._sink = self._sink, None
        if sink is not None:
            self._flow.instance_done()
            try:
                sink.discard()
            except Exception as error:
                self._owner.on_bug(error)
        if record.waits and self._flow.pending and self.state.is_associated:
            self._end = record
            self.state = follow(self.state, ConnectionState.AWAITING_OUTCOMES)
        else:
            self._end_association(record)

    def _end_association(self, record: Ended) -> None:
        self._end = record
        if self._association is None and record.last_pdu:
            # A port probe is logged at debug level, a rejected peer as a warning (decision 8).
            rejected = record.error is not None and record.error.startswith("rejected")
            event(
                logger,
                logging.WARNING if rejected else logging.DEBUG,
                "no association",
                peer=self.peer[0],
                reason=record.error,
            )
        self._owner.ended(self)
        self._close(record.last_pdu)
        self._report_end()

    def _report_end(self) -> None:
        """Report the end once everything that the association stored has been reported."""
        if self._end is None or self._association is None or self._flow.pending:
            return
        association_id = self._association.association_id
        self._association = None
        self._store.association_ended(association_id)
        self._owner.reports(
            AssociationEnded(
                association_id,
                self._end.error,
                self.received,
                self._owner.clock(),
                time.time_ns(),
            )
        )

    def _close(self, last_pdu: bytes) -> None:
        """Send our last PDU, if there is one, and close in a way that lets it arrive: closing with
        unread bytes would reset the connection and destroy the PDU (decision 10)."""
        if self.state is ConnectionState.CLOSED:
            return
        self.state = follow(self.state, ConnectionState.CLOSING)
        self.timeouts.closing(self._owner.clock())
        if self._transport.is_closing():
            self._flow.detach()
            return
        self._flow.release()
        if last_pdu:
            self.peer_socket.send(last_pdu)
        if last_pdu and self._peer_sends and self._transport.can_write_eof():
            # The peer may have reset the connection since: then it reads nothing.
            with contextlib.suppress(OSError):
                self._transport.write_eof()
        else:
            self._transport.close()

    # ---- the listener's commands ---------------------------------------------------------

    def check(self, now: float) -> None:
        """Abort the association or the transport if a time limit has passed (decisions 8, 10, 16).

        Called about once per second.
        """
        if self.state.is_associated:
            message = self.framer.commands if self._acceptor.mid_message else None
            reason = self.timeouts.observe(now, self.received, message, self.awaits_us)
            if reason is not None:
                self.abort(reason)
        elif self.timeouts.artim_expired(now):
            if self.state is ConnectionState.CLOSING:
                # The kernel need not keep our last PDU for a peer that does not read it.
                with contextlib.suppress(OSError):
                    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0_S)
            self._transport.abort()

    def silent_for(self, now: float) -> float:
        """Return the seconds since the peer's last byte, less at most the interval of `check`."""
        return self.timeouts.silence(now, self.received)

    @property
    def awaits_us(self) -> bool:
        """Whether the peer waits for us: outcomes are due, or we have paused reading."""
        return self._flow.lagging or self._flow.pending > (0 if self._sink is None else 1)

    @property
    def _is_at_rest(self) -> bool:
        """Whether no message is under way, no outcome is due, and the association has not ended."""
        acceptor = self._acceptor
        return not (acceptor.is_over or acceptor.mid_message or self._flow.pending)

    def abort(self, reason: str) -> None:
        """Send an A-ABORT and close; the open instance is discarded.

        Does nothing once the association has ended.
        """
        if self.state.is_associated or self.state is ConnectionState.UNASSOCIATED:
            self._on_ended(self._acceptor.abort(AbortReason.NOT_SPECIFIED, reason))

    def abort_when_at_rest(self, reason: str) -> None:
        """Abort as soon as no message is under way and no outcome is due, perhaps at once."""
        if self._is_at_rest or self.state is ConnectionState.UNASSOCIATED:
            self.abort(reason)
        elif self.state is ConnectionState.ESTABLISHED:
            self.state = follow(self.state, ConnectionState.DRAINING)
            self._drain_reason = reason
            self.handles_every_receive = True

    def _abort_if_drained(self) -> None:
        if self.state is ConnectionState.DRAINING and self._is_at_rest:
            self.abort(self._drain_reason)

    def kill(self) -> None:
        """Abort the transport without an A-ABORT; nothing is sent or awaited afterwards."""
        if self.state.is_associated or self.state is ConnectionState.UNASSOCIATED:
            self.state = follow(self.state, ConnectionState.KILLED)
            self.framer.close()
        self._transport.abort()


def _socket_of(transport: asyncio.Transport) -> socket.socket:
    """Return a socket object on the transport's descriptor, to be detached at the end.

    The one that uvloop provides would make a new socket object at each call.
    """
    inner = transport.get_extra_info("socket")
    return socket.socket(inner.family, inner.type, inner.proto, inner.fileno())
