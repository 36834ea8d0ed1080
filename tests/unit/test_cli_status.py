"""`oxidicom status` against an endpoint whose answers the test chooses."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import msgspec
import pytest

from oxidicom.admin import model
from oxidicom.admin.model import ReceiverStatus
from tests.support.commands import Oxidicom
from tests.support.ports import free_port

STATUS = ReceiverStatus(
    version="1.2.3",
    aet="ChRIS",
    started_at=1000.0,
    now=8200.0,
    workers=2,
    ready=True,
    checks=[
        model.Check(name="storage", state="ok", detail="writable"),
        model.Check(name="broker", state="degraded", detail="away since 10 s"),
    ],
    now_rates=model.Rates(instances=123.4, bytes=4.5e6),
    totals=model.Totals(associations=10, instances=1000, refused=2, bytes=5_000_000_000),
    associations_open=3,
    associations=[
        model.OpenAssociation(
            ulid="01",
            calling_aet="CT1",
            called_aet="ChRIS",
            peer="10.0.0.1:4711",
            since=8100.0,
            stored=12,
            refused=0,
            bytes=1_000_000,
            tls="TLSv1.3",
        )
    ],
    series_open=1,
    series=[
        model.Series(
            pacs_name="CT1\x1b[2J",
            series_instance_uid="1.2.840.1",
            modality="CT",
            received=12,
            expected=100,
            state="receiving",
            since=8100.0,
            latest=8200.0,
        )
    ],
    recent_series=[],
    outbox=model.OutboxStatus(pending=4, oldest_at=8000.0),
    failures=[
        model.Failure(
            at=8199.0, kind="instance", who="CT1", reason="no StudyDate", status="C000H", count=7
        )
    ],
)
UNREADY = msgspec.structs.replace(STATUS, ready=False)

Answer = tuple[int, bytes]


@contextlib.contextmanager
def endpoint(answer: Callable[[str], Answer]) -> Iterator[str]:
    """Run an HTTP server; `answer` is called with the path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def answering(status: ReceiverStatus) -> Callable[[str], Answer]:
    def answer(path: str) -> Answer:
        if path == "/readyz":
            return (200 if status.ready else 503), b"{}"
        return (200, msgspec.json.encode(status)) if path == "/status" else (404, b"")

    return answer


@pytest.fixture
def oxidicom(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Oxidicom:
    for name in ("OXIDICOM_ADMIN_PORT", "OXIDICOM_ADMIN_HOST"):
        monkeypatch.delenv(name, raising=False)
    return Oxidicom(capsys)


def test_the_tables_have_every_part_of_the_status(oxidicom: Oxidicom) -> None:
    with endpoint(answering(STATUS)) as url:
        done = oxidicom("status", "--url", url)
    assert (done.status, done.err) == (0, "")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[0] == "ChRIS: ready, oxidicom 1.2.3, 2 workers, up 2 h"
    for line in (
        "storage ok writable",
        "broker degraded away since 10 s",
        "now 123 instances/s, 4.5 MB/s",
        "instances 1000 stored (5.0 GB), 2 refused",
        "associations 3 open, 10 in all, 0 not released",
        "outbox 4 pending, 0 refused, the oldest since 3 min",
        "CT1 → ChRIS 10.0.0.1:4711 100 s 12 0 1.0 MB TLSv1.3",
        "and 2 more",
        "1.2.840.1 CT1\\x1b[2J CT 12/100 receiving 100 s",
        "instance 1 s CT1 ×7 C000H no StudyDate",
    ):
        assert line in lines
    assert "\x1b" not in done.out


def test_json_is_the_answer_of_the_endpoint(oxidicom: Oxidicom) -> None:
    with endpoint(answering(STATUS)) as url:
        done = oxidicom("status", "--url", url, "--json")
    assert msgspec.json.decode(done.out, type=ReceiverStatus) == STATUS


def test_not_ready_is_status_1(oxidicom: Oxidicom) -> None:
    with endpoint(answering(UNREADY)) as url:
        shown, quiet = oxidicom("status", "--url", url), oxidicom("status", "--url", url, "--quiet")
    assert shown.status == 1
    assert "not ready" in shown.out
    assert quiet == (1, "", "")


def test_quiet_prints_nothing(oxidicom: Oxidicom, monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(answering(STATUS)) as url:
        monkeypatch.setenv("OXIDICOM_ADMIN_PORT", url.rpartition(":")[2])
        monkeypatch.setenv("OXIDICOM_ADMIN_HOST", "0.0.0.0")
        assert oxidicom("status", "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, b"Not Found"), "HTTP status 404: this is not an admin endpoint of oxidicom"),
        ((200, b"<html>"), "the answer cannot be decoded"),
        ((200, b'{"version": "9"}'), "is it another version?"),
    ],
)
def test_answers_of_another_server_are_an_error(
    answer: Answer, words: str, oxidicom: Oxidicom
) -> None:
    with endpoint(lambda path: answer) as url:
        done = oxidicom("status", "--url", url)
    assert (done.status, done.out) == (1, "")
    assert words in done.err


def test_an_impossible_host_name_is_an_error(oxidicom: Oxidicom) -> None:
    done = oxidicom("status", "--url", "http://a..b:9180")
    assert (done.status, done.out) == (1, "")
    assert "no answer from http://a..b:9180: " in done.err


def test_a_refused_connection_is_an_error(oxidicom: Oxidicom) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = oxidicom("status", "--url", url)
    assert (done.status, done.out) == (1, "")
    assert f"nothing listens at {url}" in done.err
    assert oxidicom("status", "--url", url, "--quiet") == (1, "", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "the address is unknown: give --url, or set OXIDICOM_ADMIN_PORT"),
        (("--url", "localhost"), "localhost: expected a URL"),
        (("--url", "http://localhost:x"), "http://localhost:x: expected a URL"),
        (("--url", "http://localhost", "--watch", "--quiet"), "not allowed with"),
    ],
)
def test_invalid_arguments_give_status_2(
    arguments: tuple[str, ...], words: str, oxidicom: Oxidicom
) -> None:
    done = oxidicom("status", *arguments)
    assert (done.status, done.out) == (2, "")
    assert words in done.err


def test_watching_continues_while_the_endpoint_is_unreachable(
    oxidicom: Oxidicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends it; here it comes in the pause after the third query."""
    looks = 0

    def pause(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", pause)
    answers = iter([answering(STATUS), lambda path: (503, b""), answering(UNREADY)])
    with endpoint(lambda path: next(answers)(path)) as url:
        done = oxidicom("status", "--url", url, "--watch", "--json")
    assert done.status == 130
    first, second = done.out.splitlines()
    assert msgspec.json.decode(first, type=ReceiverStatus) == STATUS
    assert msgspec.json.decode(second, type=ReceiverStatus) == UNREADY
    assert "HTTP status 503" in done.err


def test_the_address_comes_from_the_settings(
    oxidicom: Oxidicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Port 0 means any free port, which only the receiver's log has."""
    monkeypatch.setenv("OXIDICOM_ADMIN_PORT", "0")
    assert oxidicom("status").status == 2
    port = free_port()
    monkeypatch.setenv("OXIDICOM_ADMIN_PORT", str(port))
    monkeypatch.setenv("OXIDICOM_ADMIN_HOST", "::1")
    assert f"http://[::1]:{port}" in oxidicom("status").err
