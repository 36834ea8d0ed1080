"""One connection on a fake transport, with a fake store: what it does, and in which order."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from oxidicom.buffers import RECEIVE_BUFFER_BYTES, BufferPool
from oxidicom.errors import AssociationRejectedError
from oxidicom.net.connection_state import ConnectionState
from oxidicom.net.flow import MAX_KEPT_BUFFERS, MAX_PENDING_INSTANCES
from oxidicom.net.protocol import AssociationProtocol
from oxidicom.net.timeouts import TimeLimits
from oxidicom.ports import (
    AssociationBegan,
    AssociationEnded,
    InstanceStore,
    Report,
)
from oxidicom.wire.negotiation import Policy
from tests.support import raw_peer as peer
from tests.support.fake_store import Sink, Store
from tests.support.raw_peer import Context

CT = peer.CT_IMAGE_STORAGE
RQ = peer.associate_rq(
    [Context(1, CT, [peer.EXPLICIT]), Context(3, peer.VERIFICATION, [peer.IMPLICIT])]
)
RELEASE_RP = bytes((6, 0, 0, 0, 0, 4, 0, 0, 0, 0))
A_ABORT = bytes((7, 0, 0, 0, 0, 4, 0, 0, 2))


class Host:
    def __init__(self) -> None:
        self.policy = Policy()
        self.limits = TimeLimits(artim=30, idle=300)
        self.pool = BufferPool(1 << 30)
        self.instances = Store()
        self.store: InstanceStore = self.instances
        self.bugs: list[BaseException] = []
        self.reported: list[Report] = []
        self.reports = self.reported.append
        self.on_bug = self.bugs.append
        self.now = 1000.0
        self.clock = lambda: self.now
        self.events: list[str] = []
        self.full = False
        self.request_bytes = 0
        self.deferred: list[Callable[[], None]] = []
        self.first: list[bool] = []

    def defer(self, call: Callable[[], None], *, first: bool) -> None:
        self.deferred.append(call)
        self.first.append(first)

    def opened(self, connection: AssociationProtocol) -> None:
        self.events.append("opened")

    def receiving_request(self, connection: AssociationProtocol, nbytes: int) -> None:
        self.request_bytes += nbytes

    def associated(self, connection: AssociationProtocol) -> None:
        self.events.append("associated")

    def ended(self, connection: AssociationProtocol) -> None:
        self.events.append("ended")

    def closed(self, connection: AssociationProtocol) -> None:
        self.events.append("closed")

    def admit(self, peer_address: str) -> None:
        assert peer_address == "192.0.2.7"
        if self.full:
            raise AssociationRejectedError(2, 3, 2, "full")


class Transport(asyncio.Transport):
    """Raises where asyncio's or uvloop's does, and a little more."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.sent: list[bytes] = []
        self.reading = True
        self.eof = False
        self.closing = False
        self.aborted = False
        self.reset = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"socket": self.socket, "peername": ("192.0.2.7", 5000, 0, 0)}.get(name, default)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self.eof
        assert not self.closing
        assert data
        self.sent.append(bytes(data))

    def write_eof(self) -> None:
        assert not self.closing
        if self.reset:
            raise OSError(107, "Transport endpoint is not connected")
        self.eof = True

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        assert self.reading
        assert not self.closing
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        assert not self.closing
        self.reading = True

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def is_closing(self) -> bool:
        return self.closing


class Line:
    """A connection and both its ends."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.theirs = socket.create_connection(listener.getsockname())
            self.ours, _ = listener.accept()
        self.host = Host()
        self.store = self.host.instances
        self.transport = Transport(self.ours)
        self.protocol = AssociationProtocol(self.host)
        # No turn is long by the clock of a busy machine: tests that want one say so.
        self.protocol.long_turn_ns = 1 << 62
        self.protocol.connection_made(self.transport)

    def receive(self, data: bytes, size: int = RECEIVE_BUFFER_BYTES) -> None:
        for start in range(0, len(data), size):
            part = data[start : start + size]
            self.protocol.window = size
            buffer = self.protocol.get_buffer(-1)
            buffer[: len(part)] = part
            self.protocol.buffer_updated(len(part))

    def associate(self) -> None:
        self.receive(RQ)
        assert self.protocol.state is ConnectionState.ESTABLISHED
        (answer,) = self.taken()
        assert answer[0] == 2

    def taken(self) -> list[bytes]:
        sent, self.transport.sent = self.transport.sent, []
        return sent

    def lose(self) -> None:
        self.transport.closing = True
        self.protocol.connection_lost(None)

    @property
    def end(self) -> AssociationEnded | None:
        """The one report of the end, which is the last."""
        ends = [r for r in self.host.reported if isinstance(r, AssociationEnded)]
        if not ends:
            return None
        (end,) = ends
        assert self.host.reported[-1] is end
        assert self.store.ended == [end.association_id]
        return end


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    if line.protocol.state is not ConnectionState.CLOSED:
        line.lose()
    assert line.host.events.count("opened") == line.host.events.count("closed") == 1
    began = [r for r in line.host.reported if isinstance(r, AssociationBegan)]
    assert len(began) == line.host.events.count("associated")
    # Only the transport closes the descriptor.
    assert line.ours.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
    line.ours.close()
    line.theirs.close()


def store(size: int = 100, message_id: int = 1, uid: str = "1.2.3") -> bytes:
    return peer.store_message(1, peer.c_store_rq(CT, uid, message_id), b"d" * size)


def message_ids(sent: list[bytes]) -> list[int]:
    """Return the message ids of C-STORE-RSPs, of which each write has one."""
    ids = []
    for pdu in sent:
        elements = peer.parse_command_set(pdu[12:])
        assert elements[0x0100] == peer.number(0x8001)
        ids.append(int.from_bytes(elements[0x0120], "little"))
    return ids


# ---- the usual --------------------------------------------------------------------------------


def test_an_association_from_beginning_to_end(line: Line) -> None:
    line.associate()
    line.receive(store(50_000), 10_000)
    assert line.store.sinks[0].data == b"d" * 50_000
    assert message_ids(line.taken()) == [1], "in one segment"
    line.receive(peer.release_rq())
    assert line.taken() == [RELEASE_RP]
    assert line.transport.eof
    assert not line.transport.closing, "until the peer closes"
    assert line.protocol.state is ConnectionState.CLOSING
    assert line.host.events == ["opened", "associated", "ended"]
    began, end = line.host.reported
    assert isinstance(began, AssociationBegan)
    assert (began.peer_address, began.peer_port) == ("192.0.2.7", 5000)
    assert (began.calling_ae_title, began.called_ae_title) == ("RAWPEER", "ChRIS")
    assert isinstance(end, AssociationEnded)
    assert end.error is None
    assert end.association_id == began.association_id
    assert end.bytes_received == line.protocol.received
    assert line.protocol.eof_received() is False, "now the transport closes itself"
    line.lose()
    assert line.end is end


def test_the_socket_has_its_options(line: Line) -> None:
    assert line.ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert line.ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_bytes_are_acknowledged_at_once_within_a_message_only(line: Line) -> None:
    line.associate()

    def is_acknowledged_at_once(data: bytes) -> bool:
        line.ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        line.receive(data)
        return bool(line.ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))

    message = store(1000)
    assert is_acknowledged_at_once(message[:5])
    assert is_acknowledged_at_once(message[5:500])
    assert not is_acknowledged_at_once(message[500:])


def test_a_connection_that_never_associates_is_not_reported(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert line.protocol.eof_received() is False
        line.lose()
    assert line.host.reported == []
    assert line.host.events == ["opened", "ended", "closed"]
    assert not caplog.records


@pytest.mark.parametrize("first", [b"GET / HTTP/1.0\r\n\r\n", peer.release_rq(), peer.abort()])
def test_probes_are_not_logged_above_debug(
    line: Line, caplog: pytest.LogCaptureFixture, first: bytes
) -> None:
    with caplog.at_level(logging.INFO):
        line.receive(first)
    assert line.protocol.state is ConnectionState.CLOSING
    assert not caplog.records


def test_tls_on_the_plain_port_is_named_in_the_log(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        line.receive(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(508))
    assert line.taken() == [A_ABORT + b"\1"]
    (record,) = caplog.records
    assert "a TLS handshake" in str(vars(record))


def test_a_rejected_peer_is_logged_as_a_warning(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    line.host.full = True
    line.receive(RQ)
    assert line.taken() == [bytes((3, 0, 0, 0, 0, 4, 0, 2, 3, 2))]
    assert line.transport.eof
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert line.host.reported == []


# ---- outcomes that come late ------------------------------------------------------------------


def test_the_end_is_reported_after_all_outcomes_and_once(line: Line) -> None:
    line.store.late = True
    line.associate()
    line.receive(store())
    line.receive(store(message_id=2))
    line.lose()
    assert line.end is None
    line.store.sinks[1].done()
    assert line.end is None
    line.store.sinks[0].done()
    assert line.end is not None
    assert line.end.error == "connection closed by peer"
    assert line.taken() == []


def test_a_release_waits_for_the_responses_that_are_due(line: Line) -> None:
    line.store.late = True
    line.associate()
    line.receive(store() + store(message_id=2) + peer.release_rq())
    assert line.taken() == []
    assert line.protocol.state is ConnectionState.AWAITING_OUTCOMES
    line.receive(store(message_id=3))
    assert len(line.store.sinks) == 2, "what comes after a release is dropped"
    line.store.sinks[1].done()
    assert message_ids(line.taken()) == [2]
    line.store.sinks[0].done()
    response, last_pdu = line.taken()
    assert message_ids([response]) == [1]
    assert last_pdu == RELEASE_RP
    assert line.transport.eof
    assert line.end is not None
    assert line.end.error is None


def test_response_and_release_in_one_receive(line: Line) -> None:
    line.associate()
    line.receive(store() + peer.release_rq())
    response, last_pdu = line.taken()
    assert message_ids([response]) == [1]
    assert last_pdu == RELEASE_RP


def test_a_peer_that_half_closes_still_gets_its_responses(line: Line) -> None:
    line.store.late = True
    line.associate()
    line.receive(store())
    assert line.protocol.eof_received() is True
    assert not line.transport.closing
    line.store.sinks[0].done()
    assert message_ids(line.taken()) == [1]
    assert line.transport.closing
    assert line.end is not None
    assert line.end.error == "connection closed by peer"


def test_a_peer_that_releases_and_half_closes_at_once(line: Line) -> None:
    line.store.late = True
    line.associate()
    line.receive(store() + peer.release_rq())
    assert line.protocol.eof_received() is True
    line.store.sinks[0].done()
    assert len(line.taken()) == 2
    assert line.transport.closing, "nothing more can come: it need not be awaited"


def test_a_connection_lost_while_its_end_waits(line: Line) -> None:
    line.store.late = True
    line.associate()
    line.receive(store() + peer.release_rq())
    line.lose()
    assert line.end is None
    line.store.sinks[0].done()
    assert line.end is not None
    assert line.end.error is None


def test_the_end_of_the_stream_between_messages_closes_at_once(line: Line) -> None:
    line.associate()
    assert line.protocol.eof_received() is False
    assert line.transport.closing
    assert line.end is not None


def test_the_end_of_the_stream_within_a_message_discards_it(line: Line) -> None:
    line.associate()
    line.receive(store(1000)[:500])
    assert line.protocol.eof_received() is False
    assert line.store.sinks[0].discarded
    assert line.end is not None
    line.lose()


def test_a_connection_lost_within_a_message_discards_it(line: Line) -> None:
    line.associate()
    line.receive(store(1000)[:500])
    line.lose()
    assert line.store.sinks[0].discarded
    assert line.end is not None


def test_an_abort_by_the_peer_closes_without_an_answer(line: Line) -> None:
    line.store.late = True
    line.associate()
    line.receive(store() + store(1000, 2)[:500])
    line.receive(peer.abort(0, 0), 3)
    assert line.protocol.state is ConnectionState.ESTABLISHED, "those bytes were within a fragment"
    line.receive(store(1000, 2)[510:] + peer.abort(0, 0))
    assert line.taken() == []
    assert line.transport.closing
    assert line.end is None
    for sink in line.store.sinks:
        sink.done()
    assert line.end is not None
    assert line.end.error == "aborted by peer (source 0, reason 0)"


# ---- buffers and flow -------------------------------------------------------------------------


def test_kept_buffers_are_not_received_into(line: Line) -> None:
    line.store.keeps = line.store.late = True
    line.associate()
    shared = line.protocol.get_buffer(-1)
    line.receive(store(3 * RECEIVE_BUFFER_BYTES - 10_000))
    (sink,) = line.store.sinks
    assert sink.kept[0] is shared
    assert len({id(buffer) for buffer in sink.kept}) == 3
    assert line.protocol.get_buffer(-1) not in sink.kept
    assert len(line.host.pool._holders) == 3
    while sink.kept:
        sink.release()
    assert len(line.host.pool._holders) == 0


def test_two_instances_may_keep_one_buffer(line: Line) -> None:
    line.store.keeps = line.store.late = True
    line.associate()
    line.receive(store() + store(message_id=2) + store(1000, message_id=3)[:600])
    one, two, three = line.store.sinks
    assert one.kept[0] is two.kept[0] is three.kept[0]
    one.release()
    three.release()
    assert len(line.host.pool._holders) == 1
    two.release()
    assert len(line.host.pool._holders) == 0


def test_reading_pauses_at_the_limit_of_kept_buffers_and_resumes(line: Line) -> None:
    line.store.keeps = True
    line.associate()
    message = store(2_000_000)
    for i in range(MAX_KEPT_BUFFERS):
        assert line.transport.reading
        line.receive(message[i * 100_000 : (i + 1) * 100_000])
    assert not line.transport.reading
    assert line.protocol.awaits_us
    line.store.sinks[0].release()
    assert line.transport.reading


def test_reading_pauses_while_too_many_outcomes_are_due(line: Line) -> None:
    line.store.late = True
    line.associate()
    for i in range(MAX_PENDING_INSTANCES):
        assert line.transport.reading
        line.receive(store(message_id=i))
    assert not line.transport.reading
    line.store.sinks[0].done()
    assert line.transport.reading


def test_a_peer_that_does_not_read_is_paused_and_its_time_limit_runs(line: Line) -> None:
    line.associate()
    line.protocol.pause_writing()
    assert not line.transport.reading
    assert not line.protocol.awaits_us
    line.protocol.check(line.host.now + 1)
    line.protocol.check(line.host.now + 301)
    (last_pdu,) = line.taken()
    assert last_pdu[:9] == A_ABORT
    assert line.transport.reading, "to see it close"
    line.protocol.resume_writing()


def test_buffers_and_outcomes_may_come_back_after_the_connection_is_lost(line: Line) -> None:
    line.store.keeps = line.store.late = True
    line.associate()
    for i in range(MAX_PENDING_INSTANCES):
        line.receive(store(message_id=i))
    assert not line.transport.reading
    line.lose()
    for sink in line.store.sinks:
        sink.release()
        sink.done()
    assert len(line.host.pool._holders) == 0
    assert line.end is not None
    assert line.host.bugs == []


def test_after_a_long_turn_other_connections_have_theirs(line: Line) -> None:
    line.associate()
    line.receive(store(1000))
    assert line.host.deferred == []
    line.protocol.long_turn_ns = -1
    line.receive(store(1000, 2))
    line.receive(store(1000, 3))
    assert not line.transport.reading
    (resume,) = line.host.deferred
    line.protocol.long_turn_ns = 1 << 62
    resume()
    assert line.transport.reading
    line.receive(store(1000, 4))
    assert line.transport.reading
    assert len(line.store.sinks) == 4
    line.protocol.long_turn_ns = -1
    line.receive(store(1000, 5))
    line.host.deferred.pop()()
    line.protocol.rested_ns -= 2_000_000_000  # two seconds go by
    line.receive(store(1000, 6))
    assert line.host.first == [True, False, True], "one that rarely has a long turn"


def test_short_turns_add_up_to_a_long_one(line: Line) -> None:
    line.associate()
    line.protocol.long_turn_ns = 200_000
    for number in range(1000):
        message = store(1000, number)
        line.receive(message, len(message))  # a full receive: there may be more
        if line.host.deferred:
            break
    assert not line.transport.reading
    assert number < 900


def test_a_peer_that_sends_little_and_waits_never_queues(line: Line) -> None:
    """Or one that sends a message now and then would wait for all that flood."""
    line.associate()
    message = store(1000)
    line.receive(message, len(message))
    assert line.protocol.worked_ns > 0
    line.receive(message)
    assert line.protocol.worked_ns == 0
    line.protocol.worked_ns = 3 << 60
    line.receive(message)
    assert line.protocol.worked_ns >= 1 << 60, "a flood is not forgotten at once"


def test_a_receive_is_narrow_until_receives_are_processed_quickly(line: Line) -> None:
    """A buffer of the smallest messages is many long turns (promise 6)."""
    protocol = line.protocol
    narrow = protocol.window
    assert len(protocol.get_buffer(-1)) == narrow == 8 * 1024
    line.associate()
    protocol.window = narrow
    data = store(2_000_000)
    widths = []
    while data:
        buffer = protocol.get_buffer(-1)
        part, data = data[: len(buffer)], data[len(buffer) :]
        widths.append(len(buffer))
        buffer[: len(part)] = part
        protocol.buffer_updated(len(part))
    assert widths[:6] == [narrow << n for n in range(6)]
    assert protocol.get_buffer(-1) is line.host.pool.current
    protocol.long_turn_ns = -1
    line.receive(peer.p_data(peer.pdv(3, peer.c_echo_rq(), command=True, last=True)))
    assert len(protocol.get_buffer(-1)) == narrow


def test_bytes_that_do_not_fill_a_receive_do_not_widen_it(line: Line) -> None:
    line.associate()
    line.protocol.long_turn_ns = 1 << 62
    for number in range(20):
        message = store(1000, number)
        line.protocol.window = 8 * 1024
        buffer = line.protocol.get_buffer(-1)
        buffer[: len(message)] = message
        line.protocol.buffer_updated(len(message))
        assert line.protocol.window == 8 * 1024


def test_a_connection_may_end_while_others_have_their_turn(line: Line) -> None:
    line.associate()
    line.protocol.long_turn_ns = -1
    line.receive(store(1000) + peer.abort(0, 0))
    assert line.transport.reading, "until the peer closes"
    line.protocol.connection_lost(None)
    for resume in line.host.deferred:
        resume()
    assert line.host.bugs == []


def test_a_paused_connection_reads_again_once_it_has_ended(line: Line) -> None:
    line.store.keeps = True
    line.associate()
    line.receive(store(2_000_000)[: MAX_KEPT_BUFFERS * RECEIVE_BUFFER_BYTES])
    assert not line.transport.reading
    line.protocol.abort("enough")
    assert line.transport.reading
    line.receive(bytes(100_000))
    (sink,) = line.store.sinks
    while sink.kept:
        sink.release()
    assert len(line.host.pool._holders) == 0


# ---- aborts -----------------------------------------------------------------------------------


def test_a_broken_pdu_is_answered_and_the_rest_dropped(line: Line) -> None:
    line.associate()
    line.receive(store(1000)[:500])
    line.receive(store(1000)[500:] + peer.pdu(9, b"junk") + store())
    *_, last_pdu = line.taken()
    assert last_pdu == A_ABORT + b"\1"
    assert line.transport.eof
    assert len(line.store.sinks) == 1
    line.receive(store())
    assert len(line.store.sinks) == 1
    assert line.end is not None
    assert line.end.error == "unknown PDU type 09H"


def test_our_abort_discards_the_open_instance_and_is_sent_once(line: Line) -> None:
    line.associate()
    line.receive(store(1000)[:500])
    line.protocol.abort("too slow")
    line.protocol.abort("again")
    assert line.taken() == [A_ABORT + b"\0"]
    assert line.store.sinks[0].discarded
    assert line.end is not None
    assert line.end.error == "too slow"


def test_an_abort_at_rest_waits_for_the_instance_in_flight(line: Line) -> None:
    line.store.late = True
    line.associate()
    message = store(1000)
    line.receive(message[:500])
    line.protocol.abort_when_at_rest("shutting down")
    assert line.taken() == []
    line.receive(message[500:])
    line.store.sinks[0].done()
    response, last_pdu = line.taken()
    assert message_ids([response]) == [1]
    assert last_pdu == A_ABORT + b"\0"
    assert line.end is not None
    assert line.end.error == "shutting down"


def test_an_abort_at_rest_ends_a_receive_of_several_instances(line: Line) -> None:
    line.associate()
    message = store(1000)
    line.receive(message[:500])
    line.protocol.abort_when_at_rest("shutting down")
    line.receive(message[500:] + store(message_id=2) + store(message_id=3))
    response, last_pdu = line.taken()
    assert message_ids([response]) == [1]
    assert last_pdu == A_ABORT + b"\0"
    assert len(line.store.sinks) == 1
    assert line.host.bugs == []


def test_a_release_precedes_an_abort_at_rest(line: Line) -> None:
    line.associate()
    message = store(1000)
    line.receive(message[:500])
    line.protocol.abort_when_at_rest("shutting down")
    line.receive(message[500:] + peer.release_rq())
    assert line.taken()[-1] == RELEASE_RP


def test_an_abort_at_rest_is_sent_at_once_between_messages(line: Line) -> None:
    line.associate()
    line.protocol.abort_when_at_rest("shutting down")
    assert line.taken() == [A_ABORT + b"\0"]


def test_our_last_pdu_to_a_peer_that_reset_the_connection_raises_nothing(line: Line) -> None:
    line.associate()
    line.transport.reset = True
    line.receive(peer.release_rq())
    assert line.host.bugs == []
    assert line.end is not None


def test_a_killed_connection_sends_nothing(line: Line) -> None:
    line.associate()
    line.receive(store(1000)[:500])
    line.protocol.kill()
    assert line.transport.aborted
    line.lose()
    assert line.taken() == []
    assert line.store.sinks[0].discarded
    assert line.end is not None


def test_killed_while_outcomes_are_due_it_ends_when_the_connection_is_lost(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    line.store.late = True
    line.associate()
    line.receive(store() + peer.release_rq())
    line.protocol.kill()
    line.store.sinks[0].done()
    assert line.taken() == []
    assert line.end is None
    with caplog.at_level(logging.DEBUG):
        line.lose()
    assert line.end is not None
    assert line.end.error is None
    assert not caplog.records, "there was an association"


# ---- time limits ------------------------------------------------------------------------------


def test_artim_closes_peers_that_do_not_associate_or_do_not_close(line: Line) -> None:
    line.protocol.check(line.host.now + 29)
    assert not line.transport.aborted
    line.associate()
    line.protocol.check(line.host.now + 31)
    assert not line.transport.aborted
    line.host.now += 100
    line.receive(peer.release_rq())
    line.protocol.check(line.host.now + 29)
    assert not line.transport.aborted
    line.protocol.check(line.host.now + 30)
    assert line.transport.aborted


def test_no_time_limit_runs_while_the_store_is_slow(line: Line) -> None:
    line.store.late = True
    line.associate()
    line.receive(store())
    for second in range(1, 2000, 100):
        line.protocol.check(line.host.now + second)
    assert line.protocol.state is ConnectionState.ESTABLISHED
    line.store.sinks[0].done()
    line.protocol.check(line.host.now + 2200)
    assert line.taken() != []
    assert line.end is None
    line.protocol.check(line.host.now + 2300)
    assert line.end is not None
    assert line.end.error == "idle for too long"


# ---- bugs of the store ------------------------------------------------------------------------


class Broken(Sink):
    where = ""

    def feed(self, buffer: bytearray, start: int, stop: int) -> None:
        super().feed(buffer, start, stop)
        self.fail("feed")

    def flush(self, buffer: bytearray) -> bool:
        self.fail("flush")
        return super().flush(buffer)

    def finish(self, buffer: bytearray) -> bool:
        self.fail("finish")
        free = super().finish(buffer)
        self.fail("after finish")
        return free

    def discard(self) -> None:
        super().discard()
        self.fail("discard")

    def fail(self, where: str) -> None:
        if self.where == where:
            raise ZeroDivisionError


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("where", ["feed", "flush", "finish", "after finish", "discard"])
@pytest.mark.parametrize("released", [False, True])
def test_a_bug_ends_the_association_and_nothing_else(
    line: Line, where: str, late: bool, released: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "where", where)
    line.store.make = Broken
    line.store.late = late and where != "after finish"
    line.associate()
    message = store(1000)
    if where in ("flush", "discard"):
        line.receive(message[:500])
    else:
        line.receive(message + (peer.release_rq() if released else b""))
    if where == "discard":
        line.protocol.abort("time")
    (bug,) = line.host.bugs
    assert isinstance(bug, ZeroDivisionError)
    assert line.taken()[-1] == A_ABORT + b"\0"
    assert line.end is not None


def test_a_bug_within_a_receive_leaves_kept_buffers_alone(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.store.keeps = line.store.late = True
    line.associate()
    line.receive(store(100))
    line.store.sinks[0].release()
    monkeypatch.setattr(Broken, "where", "feed")
    kinds: list[Callable[..., Sink]] = [Broken, Sink]
    line.store.make = lambda *args, **options: kinds.pop()(*args, **options)
    line.receive(store(100, 2) + store(100, 3))
    (bug,) = line.host.bugs
    assert isinstance(bug, ZeroDivisionError)
    kept = line.store.sinks[1].kept[0]
    assert line.protocol.get_buffer(-1) is not kept
    line.store.sinks[1].release()
    assert len(line.host.pool._holders) == 0
