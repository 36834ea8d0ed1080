from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import json
import logging
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest

from oxidicom.errors import InstanceError, OperatorError
from oxidicom.logevents import describe, event, trace_fields
from oxidicom.telemetry import logs
from oxidicom.telemetry.stream_handler import BoundedStreamHandler
from tests.support.timing import BUSY_MACHINE_S

MARKER = "Zwiebelmarker"
PATH = f"/data/SERVICES/PACS/AE/{MARKER}/1.dcm"

logger = logging.getLogger("oxidicom.test")


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    # Count queries silence this logger.
    logging.getLogger("pydicom").setLevel(logging.NOTSET)
    yield
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, BoundedStreamHandler)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.WARNING)
    logging.getLogger("oxidicom").setLevel(logging.NOTSET)


def json_lines(record: Callable[[], None], **options: Any) -> list[dict[str, Any]]:
    stream = io.StringIO()
    logs.configure("debug", "json", stream, **options)
    record()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def console(record: Callable[[], None], level: str = "debug", **options: Any) -> str:
    stream = io.StringIO()
    logs.configure(level, "console", stream, **options)
    record()
    return stream.getvalue()


def test_fields_of_every_record() -> None:
    def record() -> None:
        event(logger, logging.INFO, "one", worker=9)
        event(logger, logging.INFO, "two", a=1)
        logging.getLogger("foreign").warning("three")

    lines = json_lines(record, worker=2)
    assert [line["worker"] for line in lines] == [9, 2, 2]
    assert lines[1]["a"] == 1


# ---- formats -------------------------------------------------------------------------------


def test_console_line() -> None:
    before = time.time()
    text = console(
        lambda: event(
            logger,
            logging.INFO,
            "series complete",
            pacs_name="MODALITY_1",
            aet="CT 1",
            ndicom=12,
            seconds=0.5,
            error=None,
        )
    )
    match = re.fullmatch(
        r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z  INFO oxidicom\.test: series complete "
        r'pacs_name=MODALITY_1 aet="CT 1" ndicom=12 seconds=0\.5 error=null\n',
        text,
    )
    assert match
    assert abs(_utc(match[1]) - before) < 5


def hand(name: str, template: str, *arguments: object) -> None:
    """Give a record to this package's handler only: pytest's own raises for an invalid one."""
    [handler] = [h for h in logging.getLogger().handlers if isinstance(h, BoundedStreamHandler)]
    handler.handle(logging.LogRecord(name, logging.WARNING, __file__, 1, template, arguments, None))


def _utc(stamp: str) -> float:
    return datetime.fromisoformat(stamp).replace(tzinfo=UTC).timestamp()


def test_console_levels_are_aligned() -> None:
    def record() -> None:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            event(logger, level, "x")

    names = [line.split("Z ")[1][:5] for line in console(record).splitlines()]
    assert names == ["DEBUG", " INFO", " WARN", "ERROR"]


@pytest.mark.parametrize("hostile", ["a\nb", "a\r\x1b[31mb", "a\x9b31mb", "a\u2028b", "a\u202eb"])
def test_console_lines_cannot_be_forged(hostile: str) -> None:
    text = console(lambda: event(logger, logging.INFO, hostile, aet=hostile))
    assert text.isascii()
    assert len(text.splitlines()) == 1
    assert text[:-1].isprintable()


def test_console_keeps_readable_text_and_survives_surrogates() -> None:
    assert 'aet="MÜNCHEN"' in console(lambda: event(logger, logging.INFO, "x", aet="MÜNCHEN"))
    assert r"\udc80" in console(lambda: event(logger, logging.INFO, "x \udc80", aet="a\udc80"))


@pytest.mark.parametrize("format", ["console", "json"])
def test_long_fields_are_cut(format: Literal["console", "json"]) -> None:
    stream = io.StringIO()
    logs.configure("info", format, stream)
    event(logger, logging.INFO, "series complete", SeriesInstanceUID="1." * 32768)
    assert len(stream.getvalue()) < logs.MAX_FIELD_CHARS + 200


def test_json_line() -> None:
    [line] = json_lines(
        lambda: event(logger, logging.WARNING, "series late", ndicom=3, ok=True, ids=("a", "b"))
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    assert line == {
        "level": "WARN",
        "logger": "oxidicom.test",
        "message": "series late",
        "ndicom": 3,
        "ok": True,
        "ids": ["a", "b"],
    }


def test_json_lines_are_valid_and_keep_reserved_names() -> None:
    class Strange:
        def __str__(self) -> str:
            raise RuntimeError

    [line] = json_lines(
        lambda: event(
            logger,
            logging.INFO,
            "x",
            level="mine",
            message="mine",
            nan=float("nan"),
            thing=Strange(),
            nested=[float("inf"), object],
        )
    )
    assert (line["level"], line["level_"], line["message"], line["message_"]) == (
        "INFO",
        "mine",
        "x",
        "mine",
    )
    assert line["nan"] == "nan"
    assert line["thing"] == "(Strange)"
    assert line["nested"][0] == "inf"


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_are_used_only_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    reading, writing = os.openpty()
    with open(writing, "w", encoding="utf-8") as terminal:
        logs.configure("info", "console", terminal)
        event(logger, logging.INFO, "hello")
        assert (b"\x1b[32m" in os.read(reading, 1000)) is coloured
    os.close(reading)
    assert "\x1b" not in console(lambda: event(logger, logging.INFO, "hello"))


# ---- levels and other packages -------------------------------------------------------------


def test_levels() -> None:
    def record() -> None:
        event(logger, logging.DEBUG, "ours-debug")
        event(logger, logging.INFO, "ours-info")
        logging.getLogger("asyncio.slow").info("theirs-info")
        logging.getLogger("asyncio.slow").warning("theirs %s", "x")

    text = console(record, "info")
    assert "ours-info" in text
    assert "ours-debug" not in text
    assert "theirs-info" not in text
    assert "asyncio.slow: theirs …" in text
    assert console(record, "error") == ""
    assert "ours-debug" in console(record, "TRACE")


def test_an_unknown_level_is_an_operator_error() -> None:
    with pytest.raises(OperatorError, match="loud"):
        logs.configure("loud", "json")


def test_a_further_configuration_replaces_the_first() -> None:
    first = io.StringIO()
    logs.configure("info", "json", first)
    second = console(lambda: event(logger, logging.INFO, "once"))
    assert first.getvalue() == ""
    assert second.count("once") == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("asyncio", ("Undelivered %r from %(x)s", MARKER)),
        ("pydicom", (f"Invalid value for VR PN: '{MARKER}'",)),
        ("asyncio", (f"Exception in callback feed('{MARKER}')\nhandle: <{MARKER}>",)),
        ("oxidicomx", ("%s", MARKER)),
    ],
)
def test_values_in_messages_of_other_packages_are_withheld(
    name: str, arguments: tuple[str, ...]
) -> None:
    def record() -> None:
        hand(name, *arguments)

    text = console(record)
    assert text.count("\n") == 1
    assert MARKER not in text


def test_messages_of_other_packages_are_complete_if_phi_is_allowed() -> None:
    text = console(lambda: hand("pydicom", "Invalid %s", MARKER), log_phi=True)
    assert f"pydicom: Invalid {MARKER}" in text


def test_the_constant_part_of_messages_of_other_packages_is_kept() -> None:
    def record() -> None:
        logging.getLogger("asyncio").error("Invalid value for %s: %-5.2f%%", MARKER, 1.0)

    assert "Invalid value for …: …%%" in console(record)


@pytest.mark.parametrize("name", [MARKER, "Lee", "name", "record", "text"])
def test_a_message_that_is_not_a_literal_is_withheld(name: str) -> None:
    def record() -> None:
        foreign = logging.getLogger("pydicom")
        foreign.warning(f"Invalid value {name}")
        foreign.warning(name + "^")
        foreign.warning("a constant")

    first, second, third = console(record).splitlines()
    place = re.compile(r"pydicom: … \(test_logs\.py:\d+\)$")
    assert place.search(first)
    assert place.search(second)
    assert third.endswith("pydicom: a constant")


# ---- exceptions ----------------------------------------------------------------------------


def raise_chain() -> None:
    try:
        try:
            os.stat(PATH)
        except OSError as error:
            raise InstanceError(0xC000, "Illegal value for tag StudyDate") from error
    except InstanceError:
        raise ValueError(f"bad name {MARKER}")  # noqa: B904


def record_chain() -> None:
    try:
        raise_chain()
    except ValueError as error:
        event(logger, logging.ERROR, "it failed", exc_info=error, cause=error, at=1)


def test_exceptions_are_logged_with_type_and_place_but_without_values() -> None:
    [line] = json_lines(record_chain)
    assert MARKER not in json.dumps(line)
    assert line["exception"] == line["cause"] == "ValueError"
    trace = line["traceback"]
    assert "ValueError\n" in trace
    assert "InstanceError: Illegal value for tag StudyDate" in trace
    assert f"FileNotFoundError: ENOENT {os.strerror(2)}" in trace
    assert re.search(r'File ".*test_logs\.py", line \d+, in raise_chain', trace)


def test_exceptions_are_complete_if_phi_is_allowed() -> None:
    [line] = json_lines(record_chain, log_phi=True)
    assert line["exception"] == f"ValueError: bad name {MARKER}"
    assert PATH in line["traceback"]


def test_a_console_traceback_is_indented_below_its_line() -> None:
    head, *trace = console(record_chain).splitlines()
    assert head.endswith("oxidicom.test: it failed cause=ValueError at=1 exception=ValueError")
    assert trace
    assert all(line.startswith("    ") for line in trace)


def test_exceptions_as_arguments_are_described_without_values() -> None:
    def record() -> None:
        try:
            raise ValueError(MARKER)
        except ValueError as error:
            logger.error("failed: %s", error)
            logging.getLogger("other").error("nats: encountered error", exc_info=error)

    text = console(record)
    assert "failed: ValueError" in text
    assert "other: nats: encountered error exception=ValueError" in text
    assert MARKER not in text


def test_tracebacks_of_groups_and_cycles_of_exceptions_end() -> None:
    def record() -> None:
        first, second = KeyError(MARKER), TimeoutError(110, "x", PATH)
        first.__cause__, second.__cause__ = second, first
        many = ExceptionGroup(MARKER, [first, *(ValueError(MARKER) for _ in range(1000))])
        event(logger, logging.ERROR, "x", exc_info=many)

    [line] = json_lines(record)
    assert MARKER not in json.dumps(line)
    assert line["traceback"].startswith("ExceptionGroup\nwith: KeyError\n")
    assert line["traceback"].count("with: ") < 10


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OperatorError("OXIDICOM_X: bad"), "OperatorError: OXIDICOM_X: bad"),
        (OSError(28, "made up", PATH), f"OSError: ENOSPC {os.strerror(28)}"),
        (OSError(f"Multiple exceptions: {MARKER}"), "OSError"),
        (BrokenPipeError(32, MARKER), f"BrokenPipeError: EPIPE {os.strerror(32)}"),
        (socket.gaierror(-2, "Name or service not known"), "gaierror: Name or service not known"),
        (ssl.SSLError(1, "[SSL: X] wrong version"), "SSLError"),
        (TimeoutError(), "TimeoutError"),
        (UnicodeDecodeError("utf-8", MARKER.encode(), 0, 1, "x"), "UnicodeDecodeError"),
        (KeyError(MARKER), "KeyError"),
    ],
)  # fmt: skip
def test_describe(error: BaseException, text: str) -> None:
    assert describe(error) == text


def test_describe_certificate_errors() -> None:
    error = ssl.SSLCertVerificationError(1, "x")
    error.reason = "CERTIFICATE_VERIFY_FAILED"
    error.verify_message = "self-signed certificate"
    assert describe(error) == (
        "SSLCertVerificationError: CERTIFICATE_VERIFY_FAILED, self-signed certificate"
    )


# ---- uncaught ------------------------------------------------------------------------------


async def test_loop_errors_are_logged_without_arguments_of_callbacks() -> None:
    def callback(name: str) -> None:
        raise ValueError(name)

    stream = io.StringIO()
    logs.configure("info", "json", stream)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.on_loop_error)
    loop.call_soon(callback, MARKER)
    await asyncio.sleep(0)
    [line] = map(json.loads, stream.getvalue().splitlines())
    assert line["message"] == "unhandled error in the event loop"
    assert line["context"].startswith("Exception in callback")
    assert line["exception"] == "ValueError"
    assert MARKER not in stream.getvalue()


STRAYS = f"""
import sys, threading, warnings
from oxidicom.telemetry import logs
logs.configure("info", "json")
logs.log_uncaught_errors()
warnings.warn("Invalid value {MARKER}")
def work(): raise ValueError("{MARKER}")
thread = threading.Thread(target=work, name="worker")
thread.start()
thread.join()
class Broken:
    def __del__(self): raise KeyError("{MARKER}")
broken = Broken()
del broken
open("/nowhere/{MARKER}")
"""


def test_warnings_and_uncaught_errors_are_logged_without_values() -> None:
    done = subprocess.run([sys.executable, "-c", STRAYS], capture_output=True, text=True)
    assert done.returncode == 1
    assert MARKER not in done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["message"], line.get("exception")) for line in lines] == [
        ("Python warning", None),
        ("thread died", "ValueError"),
        ("error in a destructor", "KeyError"),
        ("uncaught error", f"FileNotFoundError: ENOENT {os.strerror(2)}"),
    ]
    assert lines[0]["category"] == "UserWarning"
    assert lines[1]["thread"] == "worker"


# ---- a reader that stalls or is gone -------------------------------------------------------


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, io.TextIOWrapper]]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    stream = os.fdopen(writing, "w", encoding="utf-8")
    try:
        yield reading, stream
    finally:
        with contextlib.suppress(OSError):
            os.close(reading)
        with contextlib.suppress(OSError):
            stream.close()


def test_a_stalled_reader_costs_lines_but_no_time() -> None:
    with pipe() as (reading, stream):
        logs.configure("info", "json", stream)
        before = time.monotonic()
        for number in range(1000):
            event(logger, logging.INFO, "line", number=number, padding="x" * 100)
        assert time.monotonic() - before < BUSY_MACHINE_S
        first = os.read(reading, 4096).decode()
        event(logger, logging.INFO, "afterwards")
        rest = os.read(reading, 4096).decode()
    got = [json.loads(line) for line in first.splitlines()]
    assert [line["number"] for line in got] == list(range(len(got)))
    confession, last = map(json.loads, rest.splitlines())
    assert confession["message"] == "log lines dropped"
    assert confession["logger"] == "oxidicom.telemetry"
    assert confession["count"] == 1000 - len(got)
    assert last["message"] == "afterwards"


def test_an_incomplete_line_is_ended_before_the_next() -> None:
    with pipe() as (reading, stream):
        logs.configure("info", "json", stream)
        event(logger, logging.INFO, "x" * 10_000)
        torn = os.read(reading, 4096)
        event(logger, logging.INFO, "next")
        rest = os.read(reading, 4096)
    assert torn.startswith(b"{")
    head, *whole = rest.decode().splitlines()
    assert head == ""
    assert [json.loads(line)["message"] for line in whole] == ["log lines dropped", "next"]


def test_long_lines_reach_a_slow_reader_complete() -> None:
    with pipe() as (reading, stream):
        logs.configure("info", "json", stream)
        got = bytearray()

        def read() -> None:
            while not got.endswith(b"\n"):
                got.extend(os.read(reading, 1000))

        thread = threading.Thread(target=read)
        thread.start()
        event(logger, logging.INFO, "x" * 20_000)
        thread.join(5)
    assert json.loads(got)["message"] == "x" * 20_000


def test_a_reader_that_is_gone_raises_no_error() -> None:
    with pipe() as (reading, stream):
        logs.configure("info", "console", stream)
        os.close(reading)
        event(logger, logging.INFO, "to nobody")
        stream.close()
        event(logger, logging.INFO, "to nothing")
    closed = io.StringIO()
    logs.configure("info", "console", closed)
    closed.close()
    event(logger, logging.INFO, "to nothing")


def test_a_reused_descriptor_is_not_written_to(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as stream:
        logs.configure("info", "console", stream)
        descriptor = stream.fileno()
    with open(tmp_path / "instance", "wb") as instance:
        assert instance.fileno() == descriptor
        event(logger, logging.INFO, "not into it")
    assert (tmp_path / "instance").read_bytes() == b""


def test_messages_with_wrong_arguments_are_still_logged(capsys: pytest.CaptureFixture[str]) -> None:
    text = console(lambda: hand("oxidicom.test", "count is %d of %d", MARKER))
    assert "count is %d of %d" in text
    assert capsys.readouterr().err == ""


def test_lines_of_several_threads_are_not_mixed() -> None:
    with pipe() as (reading, stream):
        logs.configure("info", "json", stream)
        got = bytearray()
        done = threading.Event()

        def read() -> None:
            while data := os.read(reading, 4096):
                got.extend(data)
                if got.count(b"\n") == 400:
                    done.set()

        def write(name: str) -> None:
            for number in range(100):
                event(logger, logging.INFO, "x", thread=name, number=number)

        reader = threading.Thread(target=read)
        reader.start()
        writers = [threading.Thread(target=write, args=(f"t{n}",)) for n in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert done.wait(5)
        stream.close()
        reader.join(5)
    seen = [json.loads(line) for line in got.decode().splitlines()]
    for name in ("t0", "t1", "t2", "t3"):
        assert [line["number"] for line in seen if line["thread"] == name] == list(range(100))


@pytest.mark.parametrize(
    ("traceparent", "fields"),
    [
        (None, {}),
        ("", {}),
        ("00-abc", {}),
        ("00-abc-def-01", {"trace_id": "abc", "span_id": "def"}),
        ("cc-abc-def-01-what-a-later-version-adds", {"trace_id": "abc", "span_id": "def"}),
    ],
)
def test_an_invalid_traceparent_does_not_keep_a_line_from_the_log(
    traceparent: str | None, fields: dict[str, str]
) -> None:
    assert trace_fields(traceparent) == fields
