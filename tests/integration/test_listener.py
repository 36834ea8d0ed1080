"""The listener on a real port, on both loops, with a store that keeps nothing."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from oxidicom.buffers import BufferPool
from oxidicom.errors import OperatorError
from oxidicom.net import listener as listener_module
from oxidicom.net.listener import Listener
from oxidicom.net.timeouts import TimeLimits
from oxidicom.ports import AssociationBegan, AssociationEnded, Report
from oxidicom.wire.negotiation import Policy
from tests.support.fake_store import Sink, Store
from tests.support.raw_peer import (
    ABORT,
    CT_IMAGE_STORAGE,
    P_DATA_TF,
    RELEASE_RP,
    RawPeer,
    c_echo_rq,
    c_store_rq,
    p_data,
    pdu,
    pdv,
    release_rq,
    store_message,
)
from tests.support.timing import BUSY_MACHINE_S

pytestmark = pytest.mark.both_loops

T = TypeVar("T")


class Bench:
    """A listener, and what it told."""

    def __init__(self, **options: Any) -> None:
        self.store = Store()
        self.pool = BufferPool(1 << 30)
        self.bugs: list[BaseException] = []
        self.reports: list[Report] = []
        self._changed = asyncio.Event()
        self.store.changed = self._changed.set
        self.listener = Listener(
            **{
                "policy": Policy(),
                "limits": TimeLimits(),
                "pool": self.pool,
                "store": self.store,
                "reports": self._report,
                "max_associations": 8,
                "on_bug": self.bugs.append,
                **options,
            }
        )
        self.port = 0

    def _report(self, report: Report) -> None:
        self.reports.append(report)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Looked at after each report, and when an instance is whole."""
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def end(self, count: int = 1) -> AssociationEnded:
        await self.until(lambda: len(self.ends) >= count)
        return self.ends[count - 1]

    @property
    def ends(self) -> list[AssociationEnded]:
        return [report for report in self.reports if isinstance(report, AssociationEnded)]

    async def by_peer(self, script: Callable[[RawPeer], T], **options: Any) -> T:
        """Run `script` with a connection, on a thread of its own."""

        def run() -> T:
            with RawPeer(self.port, **options) as peer:
                return script(peer)

        return await asyncio.to_thread(run)


Start = Callable[..., Awaitable[Bench]]


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    benches: list[Bench] = []

    async def begin(host: str = "127.0.0.1", **options: Any) -> Bench:
        bench = Bench(**options)
        benches.append(bench)
        bench.port = await bench.listener.start(host, 0)
        return bench

    yield begin
    for bench in benches:
        await bench.listener.close()
        assert bench.bugs == []
        assert len(bench.pool._holders) == 0
        began = [r.association_id for r in bench.reports if isinstance(r, AssociationBegan)]
        assert sorted(began) == sorted(end.association_id for end in bench.ends)


def store(size: int = 1000, message_id: int = 1) -> bytes:
    return store_message(
        1, c_store_rq(CT_IMAGE_STORAGE, "1.2.3", message_id), bytes(range(250)) * (size // 250)
    )


def reset(peer: RawPeer) -> None:
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def wait_for_reset(peer: RawPeer) -> None:
    with contextlib.suppress(ConnectionResetError):
        while peer.socket.recv(1 << 16):
            pass


def send_until_closed(peer: RawPeer, data: bytes, pause: float = 0) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while True:
            peer.send(data)
            time.sleep(pause)


# ---- the usual --------------------------------------------------------------------------------


async def test_an_association(start: Start) -> None:
    bench = await start()

    def script(peer: RawPeer) -> None:
        peer.associate()
        peer.echo()
        assert peer.store("1.2.3", bytes(range(250)) * 4000).status == 0
        peer.release()

    await bench.by_peer(script)
    (sink,) = bench.store.sinks
    assert sink.data == bytes(range(250)) * 4000
    assert (await bench.end()).error is None


async def test_bytes_of_many_connections_never_mix(start: Start) -> None:
    bench = await start()

    def script(number: int) -> Callable[[RawPeer], None]:
        def run(peer: RawPeer) -> None:
            peer.associate()
            for i in range(5):
                assert peer.store("1.2.3", bytes([number]) * (200_000 + i)).status == 0
            peer.release()

        return run

    await asyncio.gather(*(bench.by_peer(script(number)) for number in range(6)))
    assert len(bench.store.sinks) == 30
    for sink in bench.store.sinks:
        assert sink.data == sink.data[:1] * len(sink.data)


class Lagging(Sink):
    """Looks at its fragments, as a writer thread does, only when others have long been received."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._parts: list[tuple[bytearray, int, int]] = []
        self.keeps = True

    def feed(self, buffer: bytearray, start: int, stop: int) -> None:
        super().feed(buffer, start, stop)
        self._parts.append((buffer, start, stop))

    def flush(self, buffer: bytearray) -> bool:
        if super().flush(buffer):
            return True
        parts, self._parts = self._parts, []
        asyncio.get_running_loop().call_later(0.003, self._look, parts)
        return False

    def _look(self, parts: list[tuple[bytearray, int, int]]) -> None:
        self.written += b"".join(bytes(buffer[start:stop]) for buffer, start, stop in parts)
        self.release()
        if self.finished and not self.kept:
            self.done()

    def finish(self, buffer: bytearray) -> bool:
        self.late = True
        return super().finish(buffer)

    written = b""


async def test_a_kept_buffer_is_left_alone_until_it_is_released(start: Start) -> None:
    bench = await start()
    bench.store.make = Lagging

    def script(number: int) -> Callable[[RawPeer], None]:
        data_set = bytes([number]) * 1_000_000 + bytes(range(200)) * 500

        def run(peer: RawPeer) -> None:
            peer.associate()
            for _ in range(3):
                assert peer.store("1.2.3", data_set).status == 0
            peer.release()

        return run

    await asyncio.gather(*(bench.by_peer(script(number)) for number in (1, 2, 3, 4)))
    assert len(bench.store.sinks) == 12
    for sink in bench.store.sinks:
        assert isinstance(sink, Lagging)
        assert sink.written == sink.data
        assert sink.data[1_000_000:] == bytes(range(200)) * 500


async def test_a_response_is_one_segment(start: Start) -> None:
    bench = await start()

    def script(peer: RawPeer) -> tuple[bytes, bytes]:
        peer.associate()
        peer.send(store())
        response = peer.socket.recv(1 << 16)
        peer.send(p_data(pdv(3, c_echo_rq(), command=True, last=True)))
        return response, peer.socket.recv(1 << 16)

    for received in await bench.by_peer(script):
        assert received[0] == P_DATA_TF
        assert struct.unpack_from(">I", received, 2)[0] == len(received) - 6


async def test_ipv6_peers(start: Start) -> None:
    try:
        bench = await start("::1", allowed_networks=[ipaddress.ip_network("::1/128")])
    except OperatorError:
        pytest.skip("no IPv6 here")

    def script() -> None:
        with socket.create_connection(("::1", bench.port), 10) as connection:
            connection.sendall(release_rq())
            assert connection.recv(1) == bytes((RELEASE_RP,))

    await asyncio.to_thread(script)


async def test_one_port_for_both_families(start: Start) -> None:
    try:
        bench = await start("::", allowed_networks=[ipaddress.ip_network("127.0.0.1/32")])
    except OperatorError:
        pytest.skip("no IPv6 here")

    def script(peer: RawPeer) -> None:
        peer.associate()
        peer.release()

    await bench.by_peer(script)
    began = bench.reports[0]
    assert isinstance(began, AssociationBegan)
    assert began.peer_address == "127.0.0.1"


async def test_a_port_in_use_is_the_operators_fault(start: Start) -> None:
    bench = await start()
    with pytest.raises(OperatorError, match="set OXIDICOM_LISTENER_PORT to a free port"):
        await Bench().listener.start("127.0.0.1", bench.port)


# ---- time limits ------------------------------------------------------------------------------


async def test_who_never_associates_is_closed_by_artim(start: Start) -> None:
    bench = await start(limits=TimeLimits(artim=0.3))

    def script(peer: RawPeer) -> float:
        began = time.monotonic()
        wait_for_reset(peer)
        return time.monotonic() - began

    assert 0.2 < await bench.by_peer(script) < 0.3 + BUSY_MACHINE_S
    assert bench.reports == []


async def test_who_does_not_close_after_our_last_pdu_is_closed_by_artim(start: Start) -> None:
    bench = await start(limits=TimeLimits(artim=0.4))

    def script(peer: RawPeer) -> float:
        peer.associate()
        began = time.monotonic()
        peer.send(pdu(9, b""))
        peer.expect(ABORT)
        send_until_closed(peer, bytes(1000), 0.01)
        return time.monotonic() - began

    assert 0.2 < await bench.by_peer(script) < 0.4 + BUSY_MACHINE_S


async def test_an_idle_association_is_aborted(start: Start) -> None:
    bench = await start(limits=TimeLimits(idle=0.3))

    def script(peer: RawPeer) -> None:
        peer.associate()
        peer.expect_abort(2, 0)

    await bench.by_peer(script)
    assert (await bench.end()).error == "idle for too long"


async def test_a_dribbler_is_aborted(start: Start) -> None:
    bench = await start(limits=TimeLimits(window=0.4))

    def script(peer: RawPeer) -> None:
        peer.associate()
        message = store(10_000)
        peer.send(message[:5000])
        for i in range(5000, len(message)):
            peer.send(message[i : i + 1])
            peer.socket.settimeout(0.02)
            try:
                received = peer.socket.recv(10, socket.MSG_PEEK)
            except TimeoutError:
                continue
            assert received[0] == ABORT
            break
        peer.socket.settimeout(10)
        peer.expect_abort(2, 0)

    await bench.by_peer(script)
    assert (await bench.end()).error == "too slow within a message"
    assert bench.store.sinks[0].discarded


async def test_a_peer_that_never_reads_is_aborted(start: Start) -> None:
    bench = await start(limits=TimeLimits(artim=0.3, idle=0.5, window=0.5))
    echo = p_data(pdv(3, c_echo_rq(), command=True, last=True))

    def script(peer: RawPeer) -> None:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.associate()
        send_until_closed(peer, echo * 1000)

    began = time.monotonic()
    await bench.by_peer(script)
    assert time.monotonic() - began < 1 + BUSY_MACHINE_S
    assert (await bench.end()).error in ("idle for too long", "too slow within a message")


# ---- who may come -----------------------------------------------------------------------------


async def test_the_limit_of_associations_and_that_a_release_frees_a_place_at_once(
    start: Start,
) -> None:
    bench = await start(max_associations=2)

    def script() -> None:
        with contextlib.ExitStack() as stack:
            bare, one, two, three = (stack.enter_context(RawPeer(bench.port)) for _ in range(4))
            one.associate()
            two.associate()
            with pytest.raises(AssertionError, match=r"Pdu\(type=3"):
                three.associate()
            one.send(release_rq())
            one.expect(RELEASE_RP)
            # `one` has not closed; its place is free all the same.
            with RawPeer(bench.port) as four:
                four.associate()
                with RawPeer(bench.port) as five:
                    five.send(b"")
                    with pytest.raises(AssertionError, match=r"x00\\x02\\x03\\x02"):
                        five.associate()
                four.release()
            bare.associate()
            bare.release()
            two.release()

    await asyncio.to_thread(script)
    await bench.end(4)


@pytest.mark.parametrize(("network", "allowed"), [("127.0.0.0/8", True), ("10.0.0.0/8", False)])
async def test_networks(start: Start, network: str, allowed: bool) -> None:
    bench = await start(allowed_networks=[ipaddress.ip_network(network)])

    def script(peer: RawPeer) -> None:
        if allowed:
            peer.associate()
            peer.release()
        else:
            with pytest.raises(AssertionError, match=r"x00\\x01\\x01\\x03"):
                peer.associate()
            peer.expect_close()

    await bench.by_peer(script)


@pytest.mark.parametrize("address", ["::ffff:127.0.0.1", "fe80::1%eth0", "127.0.0.1", ""])
async def test_networks_know_every_form_of_an_address(address: str) -> None:
    networks = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("fe80::/10")]
    listener = Bench(allowed_networks=networks).listener
    assert listener._is_allowed(address) == (address != "")


async def test_2000_bare_connections_disturb_nobody(start: Start) -> None:
    bench = await start()

    def script() -> float:
        with contextlib.ExitStack() as stack:
            for _ in range(2000):
                stack.enter_context(socket.create_connection(("127.0.0.1", bench.port), 10))
            began = time.monotonic()
            with RawPeer(bench.port) as peer:
                peer.associate()
                assert peer.store("1.2.3", bytes(1000)).status == 0
                peer.release()
            return time.monotonic() - began

    assert await asyncio.to_thread(script) < BUSY_MACHINE_S
    assert len(bench.reports) == 2


async def test_connections_that_only_stand_there_make_room(start: Start) -> None:
    bench = await start()
    bench.listener._max_connections = 5

    def script() -> None:
        with contextlib.ExitStack() as stack:
            sender = stack.enter_context(RawPeer(bench.port))
            sender.associate()
            bare = [stack.enter_context(RawPeer(bench.port)) for _ in range(20)]
            for peer in bare[:16]:
                wait_for_reset(peer)
            for peer in bare[16:]:
                peer.associate()
                peer.release()
            sender.echo()
            sender.release()

    await asyncio.to_thread(script)


async def test_halves_of_requests_do_not_add_up(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 5: before association too."""
    monkeypatch.setattr(listener_module, "MAX_REQUEST_MEMORY_BYTES", 1_000_000)
    bench = await start()
    half = struct.pack(">BBI", 1, 0, 250_000) + bytes(200_000)

    def script() -> None:
        with contextlib.ExitStack() as stack:
            halves = []
            for _ in range(12):
                halves.append(stack.enter_context(RawPeer(bench.port)))
                halves[-1].send(half)
            for peer in halves[:8]:
                wait_for_reset(peer)
            with RawPeer(bench.port) as peer:
                peer.associate()
                peer.echo()
                peer.release()

    await asyncio.to_thread(script)
    await bench.listener.close()
    assert bench.listener._request_bytes == 0
    assert not bench.listener._requests


# ---- ends -------------------------------------------------------------------------------------


async def test_closing_with_unread_bytes_still_delivers_the_abort(start: Start) -> None:
    bench = await start()

    def script(peer: RawPeer) -> None:
        peer.associate()
        peer.send(pdu(9, b"") + bytes(3_000_000))
        peer.expect_abort(2, 1)

    for _ in range(5):
        await bench.by_peer(script)


async def test_a_peer_that_half_closes_gets_its_late_response(start: Start) -> None:
    bench = await start()
    bench.store.late = True

    def script(peer: RawPeer) -> None:
        peer.associate()
        peer.send(store() + store(message_id=2))
        peer.finish_sending()
        assert [peer.response().message_id, peer.response().message_id] == [1, 2]
        peer.expect_close()

    peer = asyncio.create_task(bench.by_peer(script))
    await bench.until(lambda: [sink.finished for sink in bench.store.sinks] == [True, True])
    (connection,) = bench.listener._connections
    async with asyncio.timeout(10):
        while connection._peer_sends:  # noqa: ASYNC110  there is no event for it
            await asyncio.sleep(0.01)
    assert not bench.ends
    for sink in bench.store.sinks:
        sink.done()
    await peer
    assert (await bench.end()).error == "connection closed by peer"


async def test_resets_at_every_point(start: Start) -> None:
    bench = await start()
    stream = store(5000) + release_rq()

    def script() -> None:
        for cut in (0, 1, 7, 100, 3000, len(stream) - 1, len(stream)):
            for leading in (b"", stream[:cut]):
                peer = RawPeer(bench.port)
                if leading or cut:
                    peer.associate()
                peer.send(leading)
                reset(peer)

    await asyncio.to_thread(script)
    await bench.end(12)


async def test_drain_lets_senders_go_on_and_aborts_the_silent(start: Start) -> None:
    bench = await start()
    associated = threading.Barrier(3, timeout=10)

    def sender(peer: RawPeer) -> int:
        peer.associate()
        associated.wait()
        count = 0
        began = time.monotonic()
        while time.monotonic() - began < 2.6:
            assert peer.store("1.2.3", bytes(1000)).status == 0
            count += 1
            time.sleep(0.02)
        peer.release()
        return count

    def silent(peer: RawPeer) -> float:
        peer.associate()
        began = time.monotonic()
        associated.wait()
        peer.expect_abort(2, 0)
        return time.monotonic() - began

    peers = [asyncio.create_task(bench.by_peer(script)) for script in (sender, silent)]
    with RawPeer(bench.port) as bare:
        await asyncio.to_thread(associated.wait)
        await bench.listener.stop_accepting()
        began = time.monotonic()
        await bench.listener.drain(30, 1)
        assert time.monotonic() - began < 2.6 + BUSY_MACHINE_S
        wait_for_reset(bare)
    count, silence = await asyncio.gather(*peers)
    assert count > 5
    assert 1.5 < silence < 2 + BUSY_MACHINE_S
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", bench.port))
    assert sorted(str(end.error) for end in bench.ends) == ["None", "shutting down"]


async def test_when_the_time_is_over_the_instance_in_flight_is_still_answered(
    start: Start,
) -> None:
    bench = await start()
    in_flight = asyncio.Event()
    loop = asyncio.get_running_loop()
    stored = threading.Event()

    def script(peer: RawPeer) -> None:
        peer.associate()
        message = store(200_000)
        peer.send(message[:100_000])
        loop.call_soon_threadsafe(in_flight.set)
        time.sleep(0.8)
        peer.send(message[100_000:])
        assert peer.response().status == 0
        stored.set()
        peer.expect_abort(2, 0)

    peer = asyncio.create_task(bench.by_peer(script))
    await in_flight.wait()
    await bench.listener.drain(0.2, 5)
    await peer
    assert stored.is_set()
    assert (await bench.end()).error == "shutting down"


async def test_new_associations_are_refused_while_draining(start: Start) -> None:
    bench = await start()
    bench.listener._draining = True

    def script(peer: RawPeer) -> None:
        with pytest.raises(AssertionError, match=r"x00\\x02\\x03\\x02"):
            peer.associate()
        peer.expect_close()

    await bench.by_peer(script)


async def test_close_ends_everybody_at_once(start: Start) -> None:
    bench = await start()

    def open_some() -> list[RawPeer]:
        peers = [RawPeer(bench.port) for _ in range(6)]
        for peer in peers[:3]:
            peer.associate()
        peers[0].send(store(10_000)[:5000])
        peers[1].send(release_rq())
        peers[1].expect(RELEASE_RP)
        peers[2].echo()
        return peers

    peers = await asyncio.to_thread(open_some)
    async with asyncio.timeout(BUSY_MACHINE_S):
        await bench.listener.close()
    for peer in peers:
        await asyncio.to_thread(wait_for_reset, peer)
        peer.close()
    assert len(bench.ends) == 3


async def test_a_broken_check_of_one_connection_harms_no_other(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await start(limits=TimeLimits(artim=0.4))
    with RawPeer(bench.port) as one:
        await asyncio.to_thread(one.associate)
        (connection,) = bench.listener._connections

        def broken(now: float) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(connection, "check", broken)
        await asyncio.to_thread(wait_for_reset, one)
        assert [type(bug) for bug in bench.bugs] == [ZeroDivisionError]
        bench.bugs.clear()
    await bench.by_peer(wait_for_reset)


async def test_long_turns_of_many_do_not_add_up(start: Start) -> None:
    """Peers that had a long turn read one at a time, so that others wait for one of them only."""
    listener = (await start()).listener
    had: list[int] = []

    def again() -> None:
        had.append(4)
        listener.defer(lambda: had.append(6), first=False)
        listener.defer(lambda: had.append(5), first=True)

    for number in range(2, 4):
        listener.defer(partial(had.append, number), first=False)
    listener.defer(partial(had.append, 1), first=True)
    listener.defer(again, first=False)
    for turn in range(1, 7):
        await asyncio.sleep(0)
        assert had == list(range(1, turn + 1))
    await asyncio.sleep(0)
    assert len(had) == 6
