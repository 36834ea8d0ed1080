"""LONK with a real nats-server: outages, a frozen server, logins, TLS (decisions 36, 37)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from oxidicom.notify.lonk_messages import ProgressLimiter
from oxidicom.notify.lonk_publisher import LonkPublisher
from oxidicom.ports import SeriesInfo
from tests.support.brokers import Gate, NatsServer
from tests.support.ports import free_port
from tests.support.registrations import registration
from tests.support.timing import WAIT_LIMIT_S

pytestmark = pytest.mark.both_loops


def series(aet: str = "PACS", uid: str = "1.2") -> SeriesInfo:
    return registration(calling_ae_title=aet, series_instance_uid=uid).series


@asynccontextmanager
async def publisher(
    address: str, interval: float = 0.5, dev_sleep: float = 0.0, **options: object
) -> AsyncIterator[LonkPublisher]:
    lonk = LonkPublisher(
        address,
        "oxidicom",
        ProgressLimiter(interval),
        dev_sleep=dev_sleep,
        **options,  # type: ignore[arg-type]
    )
    await lonk.start()
    try:
        yield lonk
    finally:
        await lonk.close()


@asynccontextmanager
async def listening(url: str, subject: str) -> AsyncIterator[list[Msg]]:
    """Yield the messages that arrive on `subject`."""
    heard: list[Msg] = []

    async def on_message(message: Msg) -> None:
        heard.append(message)

    client: Client = await nats.connect(url)
    try:
        await client.subscribe(subject, cb=on_message)
        await client.flush()
        yield heard
    finally:
        await client.close()


class Reasons(logging.Handler):
    """Collects the warnings of the publisher and their reasons."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = record.__dict__["fields"]
        self.texts.append(f"{record.getMessage()}: {fields.get('reason')}")

    def __enter__(self) -> Self:
        logging.getLogger("oxidicom.lonk").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("oxidicom.lonk").removeHandler(self)


async def until(condition: Callable[[], object], limit: float = WAIT_LIMIT_S) -> None:
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110 (what is waited for has no event)
            await asyncio.sleep(0.002)


async def flowing(lonk: LonkPublisher, heard: list[Msg], title: str = "PACS") -> None:
    """Send until a message arrives: NATS delivers at most once, so some may be lost."""
    async with asyncio.timeout(10):
        while not heard:
            lonk.done(series(title), 1)
            with contextlib.suppress(TimeoutError):
                await until(lambda: heard, 1)


def payloads(heard: list[Msg]) -> list[str]:
    return [message.data.hex() for message in heard]


async def test_messages_of_a_series_arrive_in_order_on_its_subject(nats_server: NatsServer) -> None:
    one = series("MY PACS", "1.2.840")
    async with (
        listening(nats_server.url, "oxidicom.MY_PACS.>") as heard,
        publisher(nats_server.address) as lonk,
    ):
        await until(lambda: lonk.connected)
        for count in range(1, 6):
            lonk.progress(one, count, first=count == 1)
        lonk.failed("MY PACS", "1.2.840", "Illegal value for tag StudyDate")
        lonk.final(one, 5)
        lonk.done(one, 5)
        assert await lonk.flush(5)
        await until(lambda: len(heard) == 5)
        assert payloads(heard) == [
            "0101000000",
            "0102000000",
            (b"\x02" + b"Illegal value for tag StudyDate").hex(),
            "0105000000",
            "00",
        ]
        assert {message.subject for message in heard} == {"oxidicom.MY_PACS.1_2_840"}
        assert all(message.reply == "" and message.headers is None for message in heard)
        assert lonk.dropped == 0


async def test_illegal_ae_titles_and_texts_do_not_break_the_connection(
    nats_server: NatsServer,
) -> None:
    async with (
        listening(nats_server.url, "oxidicom.>") as heard,
        publisher(nats_server.address) as lonk,
    ):
        lonk.failed("a\tb\r\nc", "1\n2", "x" * 2_000_000)
        lonk.failed("d" * 5000, None, "second")
        lonk.done(series("AFTER"), 1)
        assert await lonk.flush(5)
        await until(lambda: len(heard) == 3)
        assert heard[0].subject == "oxidicom.a_b__c.1_2"
        assert len(heard[1].subject) == 1024
        assert heard[2].data == b"\x00"


async def test_interval_zero_sends_every_count(nats_server: NatsServer) -> None:
    one = series("ZERO")
    async with (
        listening(nats_server.url, "oxidicom.ZERO.>") as heard,
        publisher(nats_server.address, interval=0) as lonk,
    ):
        await until(lambda: lonk.connected)
        for count in range(1, 1001):
            lonk.progress(one, count, first=count == 1)
        assert await lonk.flush(5)
        await until(lambda: len(heard) == 1000)
        counts = [int.from_bytes(message.data[1:], "little") for message in heard]
        assert counts == list(range(1, 1001))


async def test_dev_sleep_follows_every_message_but_not_a_flush(nats_server: NatsServer) -> None:
    one = series("SLEEP")
    clock = asyncio.get_running_loop().time
    async with (
        listening(nats_server.url, "oxidicom.SLEEP.>") as heard,
        publisher(nats_server.address, interval=60, dev_sleep=0.05) as lonk,
    ):
        await until(lambda: lonk.connected)
        began = clock()
        for count in range(1, 6):  # the last three are dropped, and slept for
            lonk.progress(one, count, first=count == 1)
        lonk.final(one, 5)
        await until(lambda: len(heard) == 3)
        assert clock() - began >= 5 * 0.05
        for _ in range(1000):
            lonk.final(one, 5)
        began = clock()
        assert await lonk.flush(10)
        assert clock() - began < 25, "a flush does not sleep a thousand times"


async def test_a_server_that_starts_later_gets_the_queued_messages(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    gate = Gate(server.port)
    one = series()
    async with publisher(f"127.0.0.1:{gate.port}") as lonk:
        for count in range(1, 101):
            lonk.progress(one, count, first=count == 1)
        lonk.final(one, 100)
        lonk.done(one, 100)
        assert not await lonk.flush(0.2)
        assert lonk.dropped == 99
        with server:
            # NATS keeps no messages for later subscribers, so these subscribe first.
            async with listening(server.url, "oxidicom.>") as heard, gate:
                await until(lambda: len(heard) == 3)
                assert payloads(heard) == ["0101000000", "0164000000", "00"]


async def test_the_queue_is_bounded_while_the_server_is_unreachable(tmp_path: Path) -> None:
    async with publisher(f"127.0.0.1:{free_port()}", queue_length=100) as lonk:
        for number in range(1000):
            one = series(uid=f"1.{number}")
            for count in range(1, 4):
                lonk.progress(one, count, first=count == 1)
            lonk.final(one, 3)
            lonk.done(one, 3)
        assert lonk.depth == 100
        assert lonk.dropped == 5000 - 100
    assert lonk.dropped == 5000


async def test_the_connection_returns_after_each_restart_of_the_server(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    async with publisher(server.address) as lonk:
        for _ in range(3):
            with server:
                await until(lambda: lonk.connected)
                async with listening(server.url, "oxidicom.>") as heard:
                    await flowing(lonk, heard)
            await until(lambda: not lonk.connected)


async def test_a_broken_connection_is_replaced(nats_server: NatsServer) -> None:
    async with Gate(nats_server.port) as gate, publisher(f"127.0.0.1:{gate.port}") as lonk:
        await until(lambda: lonk.connected)
        await gate.cut()
        await until(lambda: gate.accepted == 2 and lonk.connected)
        async with listening(nats_server.url, "oxidicom.CUT.>") as heard:
            await flowing(lonk, heard, "CUT")


async def test_a_frozen_server_blocks_nothing_and_memory_stays(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats") as server:
        async with publisher(server.address, interval=0, queue_length=50) as lonk:
            await until(lambda: lonk.connected)
            server.freeze()
            for number in range(20_000):
                lonk.failed("PACS", "1.2", "x" * 8000)
                if number % 100 == 0:
                    await asyncio.sleep(0)
            assert lonk.depth <= 50
            assert lonk.dropped > 0
            assert not await lonk.flush(0.1)
            server.thaw()
            assert await lonk.flush(10)


async def test_closing_is_quick_although_the_server_is_frozen(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats") as server:
        async with publisher(server.address) as lonk:
            await until(lambda: lonk.connected)
            server.freeze()
            for _ in range(2000):
                lonk.failed("PACS", "1.2", "x" * 8000)
            async with asyncio.timeout(5):
                assert not await lonk.flush(0.1)
                await lonk.close()
        server.thaw()


async def test_a_listener_that_never_speaks_is_not_a_connection(tmp_path: Path) -> None:
    async def silence(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    writers: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(silence, "127.0.0.1")
    port = listener.sockets[0].getsockname()[1]
    try:
        async with publisher(f"127.0.0.1:{port}") as lonk:
            await until(lambda: writers)
            assert not lonk.connected
    finally:
        listener.close()
        for writer in writers:
            writer.close()


async def test_the_login_of_the_url_is_used(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats", ["--user", "ox", "--pass", "p@ss/word"]) as server:
        good = f"nats://ox:p%40ss%2Fword@{server.address}"
        async with publisher(good) as lonk:
            lonk.done(series(), 1)
            assert await flushed(lonk)
        async with publisher(f"nats://ox:wrong@{server.address}") as lonk:
            await asyncio.sleep(0.3)
            assert not lonk.connected


async def flushed(lonk: LonkPublisher) -> bool:
    await until(lambda: lonk.connected)
    return await lonk.flush(5)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a self-signed certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    file, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        shlex.split(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
            " -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
            f" -keyout {key} -out {file}"
        ),
        check=True,
        capture_output=True,
    )
    return file, key


async def test_tls_is_verified(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    file, key = certificate
    extra = ["--tls", "--tlscert", str(file), "--tlskey", str(key)]
    with NatsServer(tmp_path / "nats", extra) as server:
        async with publisher(f"tls://{server.address}", ca=file) as lonk:
            lonk.done(series(), 1)
            assert await flushed(lonk)
        with Reasons() as reasons:
            async with publisher(f"tls://{server.address}") as lonk:
                await until(lambda: reasons.texts)
                assert not lonk.connected
            assert ssl.SSLCertVerificationError.__name__ in reasons.texts[0]


async def test_a_tls_url_never_falls_back_to_plain_text(nats_server: NatsServer) -> None:
    """Otherwise the login would be sent in plain text."""
    with Reasons() as reasons:
        async with publisher(f"tls://user:secret@{nats_server.address}") as lonk:
            await until(lambda: reasons.texts)
            assert not lonk.connected
    assert "SecureConn" in reasons.texts[0]
    assert "secret" not in "".join(reasons.texts)
