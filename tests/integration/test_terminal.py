"""The commands draw on a terminal, and print plain text with NO_COLOR."""

from __future__ import annotations

import asyncio
from pathlib import Path

import nats

from tests.support.brokers import NatsServer
from tests.support.data import Instance, part_10
from tests.support.lonk import DONE, count, error
from tests.support.raw_peer import EXPLICIT
from tests.support.receiver import Receiver
from tests.support.terminal import drawn
from tests.unit.test_cli_status import STATUS, answering, endpoint


def test_send_draws_a_bar(tmp_path: Path) -> None:
    for name in ("files", "received"):
        (tmp_path / name).mkdir()
    for number in range(30):
        path = tmp_path / "files" / f"{number}"
        path.write_bytes(part_10(Instance(number=number), EXPLICIT))
    (tmp_path / "text").write_text("no image")
    with Receiver(tmp_path / "received") as receiver:
        peer = ("127.0.0.1", receiver.port)
        status, text = drawn("send", tmp_path / "files", tmp_path / "text", *peer)
        plain_status, plain = drawn("send", tmp_path / "files", *peer, NO_COLOR="1")
    assert status == 1
    assert "30/31" in text
    assert " instances/s " in text
    assert "━" in text
    assert "1 failed" in text
    assert f"oxidicom: {tmp_path}/text: not a DICOM file" in text.replace("\r\n", "")
    assert "30 stored at 127.0.0.1" in text
    assert plain_status == 0
    assert "━" not in plain


def test_status_draws_tables() -> None:
    with endpoint(answering(STATUS)) as url:
        status, text = drawn("status", "--url", url)
        watched, again = drawn(
            *("status", "--url", url, "--watch"), interrupt=lambda text: "no StudyDate" in text
        )
    assert (status, watched) == (0, 130)
    for each in (text, again):
        assert "ChRIS: ready, oxidicom 1.2.3" in each
        assert "12/100" in each
        assert "Traceback" not in each


def test_watch_draws_rows(nats_server: NatsServer) -> None:
    async def publish() -> None:
        client = await nats.connect(nats_server.url)
        await client.publish("drawn.CT1.1_2_840", count(41))
        await client.publish("drawn.CT1.1_2_840", count(42))
        await client.publish("drawn.MR1.1_2_841", error("no StudyDate"))
        await client.publish("drawn.MR1.1_2_842", DONE)
        await client.flush()
        await client.close()

    published = False

    def interrupt(text: str) -> bool:
        nonlocal published
        if "listening to drawn.*.*" in text and not published:
            published = True
            asyncio.run(publish())
        return "1 done, 1 errors" in text

    status, text = drawn(
        *("watch", "--nats", nats_server.url), interrupt=interrupt, OXIDICOM_ROOT_SUBJECT="drawn"
    )
    assert status == 130
    for words in ("CT1", "1.2.840", "42", "receiving", "error: no StudyDate", "done", "━"):
        assert words in text
    assert "Traceback" not in text
