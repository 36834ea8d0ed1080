"""TLS on a real port, on both loops, with a store that keeps nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from oxidicom.certificates import Certificates, TlsFiles
from oxidicom.net.timeouts import TimeLimits
from oxidicom.net.tls import HANDSHAKE_BYTES
from tests.integration.test_listener import Bench, store
from tests.support.authority import Authority, Pair, found_authority
from tests.support.raw_peer import ABORT, P_DATA_TF, RELEASE_RP, RawPeer, pdu, release_rq

pytestmark = pytest.mark.both_loops

LARGE = bytes(range(250)) * 40_000
"""10 MB."""


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return found_authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def client(ours: Authority) -> Pair:
    return ours.issue("client")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return found_authority(tmp_path_factory.mktemp("stranger"))


def trusting(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.ca)
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


Start = Callable[..., Awaitable[Bench]]


@pytest_asyncio.fixture
async def start(ours: Authority) -> AsyncIterator[Start]:
    benches: list[Bench] = []

    async def begin(client_ca: Path | None = None, **options: Any) -> Bench:
        bench = Bench(**options)
        benches.append(bench)
        certificates = Certificates(TlsFiles(ours.certificate, ours.key, client_ca))
        bench.port = await bench.listener.start("127.0.0.1", 0, certificates)
        return bench

    yield begin
    for bench in benches:
        await bench.listener.close()
        assert bench.bugs == []
        assert len(bench.pool._holders) == 0


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str, dict[str, Any]]]:
    return [
        (record.levelno, record.message, record.__dict__["fields"])
        for record in caplog.records
        if record.name == "oxidicom.tls"
    ]


# ---- instances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_large_and_small_octet_for_octet(
    start: Start, ours: Authority, version: ssl.TLSVersion
) -> None:
    bench = await start()
    context = trusting(ours)
    context.minimum_version = context.maximum_version = version
    sizes = [250, 16_250, 16_500, 262_000, 262_250, 5_000_000, 250]

    def script(peer: RawPeer) -> None:
        assert peer.socket.version() == version.name.replace("_", ".")  # type: ignore[attr-defined]
        peer.associate()
        for size in sizes:
            peer.send(store(size))
            assert peer.response().status == 0
        peer.echo()
        peer.release()

    await bench.by_peer(script, tls=context)
    assert (await bench.end()).error is None
    assert [sink.data for sink in bench.store.sinks] == [
        bytes(range(250)) * (size // 250) for size in sizes
    ]


async def test_records_cut_anywhere(start: Start, ours: Authority) -> None:
    """As slow networks hand them over, a few bytes at a time."""
    bench = await start()
    messages = store(40_000)

    def script() -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trusting(ours).wrap_bio(incoming, outgoing, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", bench.port), 10) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def push() -> None:
                data = outgoing.read()
                for position in range(0, len(data), 997):
                    raw.sendall(data[position : position + 997])

            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    push()
                    incoming.write(raw.recv(1 << 16))
            push()

            class Both:
                def sendall(self, data: bytes) -> None:
                    tls.write(data)
                    push()

                def recv(self, count: int) -> bytes:
                    while True:
                        try:
                            return tls.read(count)
                        except ssl.SSLWantReadError:
                            incoming.write(raw.recv(1 << 16))

            peer = object.__new__(RawPeer)
            peer.socket = Both()  # type: ignore[assignment]
            peer.associate()
            peer.send(messages)
            assert peer.response().status == 0
            peer.send(release_rq())
            peer.expect(RELEASE_RP)

    await asyncio.to_thread(script)
    await bench.end()
    assert bench.store.sinks[0].data == bytes(range(250)) * 160


async def test_slow_storage_stops_the_peer(start: Start, ours: Authority) -> None:
    """What is kept stays bounded, and nothing is lost when reading continues."""
    bench = await start()
    bench.store.keeps = True
    paused = asyncio.Event()

    def script(peer: RawPeer) -> None:
        peer.associate()
        peer.send(store(len(LARGE)))
        assert peer.response().status == 0
        peer.release()

    async def free() -> None:
        while not bench.ends:
            for sink in bench.store.sinks:
                assert len(sink.kept) <= 6
                if len(sink.kept) >= 4:
                    paused.set()
                if paused.is_set() or sink.finished:
                    while sink.kept:
                        sink.release()
            await asyncio.sleep(0)
        # uvloop may read the last fragments and the peer's release in one turn of the loop.
        for sink in bench.store.sinks:
            while sink.kept:
                sink.release()

    freeing = asyncio.create_task(free())
    await bench.by_peer(script, tls=trusting(ours))
    await asyncio.wait_for(freeing, 20)
    assert paused.is_set()
    assert bench.store.sinks[0].data == LARGE


async def test_killed_amid_an_instance(start: Start, ours: Authority) -> None:
    bench = await start()

    def script(peer: RawPeer) -> None:
        peer.associate()
        peer.send(store(1_000_000)[:600_000])
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    await bench.by_peer(script, tls=trusting(ours))
    assert (await bench.end()).error == "connection closed by peer"
    assert bench.store.sinks[0].discarded


async def test_a_peer_that_says_goodbye_still_gets_its_outcome(
    start: Start, ours: Authority
) -> None:
    """close_notify closes one way only (RFC 8446 6.1)."""
    bench = await start()
    bench.store.late = True

    def script() -> None:
        context = trusting(ours)
        with RawPeer(bench.port, tls=context) as peer:
            tls = peer.socket
            assert isinstance(tls, ssl.SSLSocket)
            peer.associate()
            peer.send(store())
            tls.settimeout(0)
            with contextlib.suppress(ssl.SSLError):
                tls._sslobj.shutdown()  # type: ignore[attr-defined]  # waits for no answer
            tls.settimeout(10)
            loop.call_soon_threadsafe(said.set)
            assert peer.response().status == 0
            with pytest.raises(ssl.SSLZeroReturnError):
                tls.recv(1)

    loop, said = asyncio.get_running_loop(), asyncio.Event()
    script_done = asyncio.create_task(asyncio.to_thread(script))
    await asyncio.wait_for(said.wait(), 10)
    await bench.until(lambda: bool(bench.store.sinks) and bench.store.sinks[0].finished)
    bench.store.sinks[0].done()
    await script_done
    await bench.end()


async def test_last_pdu_arrive_before_the_end(start: Start, ours: Authority) -> None:
    """A peer that is sending hears why it is cut off (decision 10)."""
    bench = await start()

    def script(peer: RawPeer) -> None:
        peer.associate()
        peer.send(pdu(0x42, bytes(10)) + pdu(P_DATA_TF, bytes(200_000)))
        assert peer.receive().type == ABORT
        peer.expect_close()

    await bench.by_peer(script, tls=trusting(ours))
    await bench.end()


async def test_drained(start: Start, ours: Authority) -> None:
    """Associations may end, handshakes are cut off, new connections are refused."""
    bench = await start()

    def handshake_begun() -> socket.socket:
        half = socket.create_connection(("127.0.0.1", bench.port), 10)
        half.sendall(b"\x16\x03\x01\x02\x00\x01")
        return half

    half = await asyncio.to_thread(handshake_begun)
    associated, draining = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def script(peer: RawPeer) -> None:
        peer.associate()
        loop.call_soon_threadsafe(associated.set)
        asyncio.run_coroutine_threadsafe(draining.wait(), loop).result(10)
        peer.send(store())
        assert peer.response().status == 0
        peer.release()

    sending = asyncio.create_task(bench.by_peer(script, tls=trusting(ours)))
    await asyncio.wait_for(associated.wait(), 10)
    await bench.listener.stop_accepting()
    draining.set()
    await bench.listener.drain(10, 1)
    await sending
    assert (await bench.end()).error is None
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.to_thread(half.recv, 100) == b""
    half.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(socket.create_connection, ("127.0.0.1", bench.port), 10)


async def test_limits_are_those_of_all_ports(start: Start, ours: Authority) -> None:
    bench = await start(max_associations=1)
    clear = await bench.listener.start("127.0.0.1", 0)

    def script(peer: RawPeer) -> None:
        peer.associate()
        with RawPeer(clear) as other, pytest.raises(AssertionError):
            other.associate()
        peer.release()
        with RawPeer(clear) as other:
            other.associate()
            other.release()

    await bench.by_peer(script, tls=trusting(ours))
    await bench.end(2)


# ---- handshakes --------------------------------------------------------------------------------


async def test_half_a_handshake_is_cut_off_and_holds_up_nobody(
    start: Start, ours: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "oxidicom.tls")
    bench = await start(limits=TimeLimits(artim=0.3))

    def script() -> None:
        hello = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            trusting(ours).wrap_bio(
                ssl.MemoryBIO(), hello, server_hostname="localhost"
            ).do_handshake()
        first = hello.read()
        halves = []
        for length in (0, 1, 5, 100, 10_000):
            half = socket.create_connection(("127.0.0.1", bench.port), 10)
            half.sendall(first[:length])
            halves.append(half)
        with RawPeer(bench.port, tls=trusting(ours)) as peer:
            peer.associate()
            peer.echo()
            peer.release()
        for half in halves:
            with half, contextlib.suppress(ConnectionResetError):
                while half.recv(10_000):
                    pass

    await asyncio.to_thread(script)
    await bench.end()
    assert {level for level, *_ in lines(caplog)} <= {logging.DEBUG}


async def test_many_half_handshakes_do_not_add_up(start: Start, ours: Authority) -> None:
    """The oldest connection is closed, and a real sender is accepted."""
    bench = await start(max_associations=4, request_memory=2 * HANDSHAKE_BYTES)

    def script() -> None:
        halves = []
        for _ in range(8):
            half = socket.create_connection(("127.0.0.1", bench.port), 10)
            half.sendall(b"\x16\x03\x01\x02\x00\x01")
            halves.append(half)
        for half in halves[:2]:
            with contextlib.suppress(ConnectionResetError):
                assert half.recv(100) == b""
        with RawPeer(bench.port, tls=trusting(ours)) as peer:
            peer.associate()
            peer.release()
        halves[-1].settimeout(0.1)
        with pytest.raises(TimeoutError):
            halves[-1].recv(100)
        for half in halves:
            half.close()

    await asyncio.to_thread(script)
    await bench.end()


async def test_plain_text_is_one_line_for_debugging(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "oxidicom.tls")
    bench = await start()

    def script(peer: RawPeer) -> None:
        with pytest.raises((EOFError, AssertionError)):
            peer.associate()

    await bench.by_peer(script)
    ((level, message, fields),) = lines(caplog)
    assert (level, message) == (logging.DEBUG, "TLS handshake failed")
    assert fields["peer"] == "127.0.0.1"


async def test_tls_on_the_plain_port_is_aborted(start: Start, ours: Authority) -> None:
    bench = await start()
    bench.port = await bench.listener.start("127.0.0.1", 0)

    def script() -> None:
        with pytest.raises(ssl.SSLError), RawPeer(bench.port, tls=trusting(ours)):
            pass
        with RawPeer(bench.port) as peer:
            peer.associate()
            peer.release()

    await asyncio.to_thread(script)
    await bench.end()


async def test_a_client_must_show_a_certificate_of_the_authority(
    start: Start,
    ours: Authority,
    client: Pair,
    stranger: Authority,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "oxidicom.tls")
    bench = await start(ours.ca)

    def refused(pair: Pair | None) -> None:
        # In TLS 1.3 the client learns of it when it reads.
        with (
            pytest.raises((ssl.SSLError, EOFError)),
            RawPeer(bench.port, tls=trusting(ours, pair)) as peer,
        ):
            peer.associate()

    def accepted(peer: RawPeer) -> None:
        peer.associate()
        peer.echo()
        peer.release()

    await bench.by_peer(accepted, tls=trusting(ours, client))
    await bench.end()
    assert lines(caplog) == []
    await asyncio.to_thread(refused, Pair(stranger.certificate, stranger.key))
    ((level, message, fields),) = lines(caplog)
    assert (level, message) == (logging.WARNING, "peer certificate refused")
    assert fields["peer"] == "127.0.0.1"
    caplog.clear()
    await asyncio.to_thread(refused, None)
    ((level, message, fields),) = lines(caplog)
    assert (level, message) == (logging.DEBUG, "TLS handshake failed")
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in fields["reason"]
    assert len(bench.ends) == 1


async def test_what_was_tampered_with_ends_the_connection(start: Start, ours: Authority) -> None:
    bench = await start()

    def script(peer: RawPeer) -> None:
        peer.associate()
        peer.send(store(1000))
        assert peer.response().status == 0
        peer.send(store(250_000)[:100_000])
        raw = socket.socket(fileno=socket.dup(peer.socket.fileno()))
        with raw:
            raw.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
            with pytest.raises((ssl.SSLError, EOFError, ConnectionResetError)):
                peer.receive()

    await bench.by_peer(script, tls=trusting(ours))
    assert (await bench.end()).error is not None
    first, *others = bench.store.sinks
    assert first.finished
    assert all(sink.discarded for sink in others)
