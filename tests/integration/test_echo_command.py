"""`oxidicom echo` against our receiver, DCMTK, and peers that violate the protocol."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.authority import Authority, found_authority
from tests.support.commands import Oxidicom
from tests.support.pacs import DCMQRSCP, PacsSide, Script, dcmqrscp, scripted_pacs
from tests.support.ports import free_port
from tests.support.raw_peer import (
    IMPLICIT,
    RJ,
    VERIFICATION,
    Element,
    abort,
    command_set,
    number,
    p_data,
    pdu,
    pdv,
    uid,
)
from tests.support.receiver import Receiver


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return found_authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory, ours: Authority) -> Iterator[Receiver]:
    with Receiver(
        tmp_path_factory.mktemp("files"),
        OXIDICOM_TLS_PORT="0",
        OXIDICOM_TLS_CERT=str(ours.certificate),
        OXIDICOM_TLS_KEY=str(ours.key),
        OXIDICOM_TLS_CLIENT_CA=str(ours.ca),
    ) as receiver:
        yield receiver


@pytest.fixture
def oxidicom(capsys: pytest.CaptureFixture[str]) -> Oxidicom:
    return Oxidicom(capsys)


def test_a_receiver_answers(receiver: Receiver, oxidicom: Oxidicom) -> None:
    done = oxidicom("echo", "127.0.0.1", receiver.port, "--calling", "CT1")
    assert (done.status, done.err) == (0, "")
    first, second = done.out.splitlines()
    assert first.startswith(f"127.0.0.1:{receiver.port} accepts CT1: connected in ")
    assert second.startswith("C-ECHO answered in ")


def test_json_has_the_time_of_every_echo(receiver: Receiver, oxidicom: Oxidicom) -> None:
    found = oxidicom("echo", "localhost", receiver.port, "--count", 3, "--json").json
    assert found["ok"] is True
    assert len(found["echo_ms"]) == 3
    assert min(found["echo_ms"]) > 0
    assert found["fault"] is found["error"] is found["tls"] is None


def test_over_tls_with_a_certificate_of_ours(
    receiver: Receiver, ours: Authority, oxidicom: Oxidicom
) -> None:
    certificate = ours.issue("client")
    arguments = ("--ca", ours.ca, "--cert", certificate.certificate, "--key", certificate.key)
    found = oxidicom("echo", "localhost", receiver.tls_port, "--json", *arguments).json
    assert (found["ok"], found["tls"]) == (True, "TLSv1.3")


@pytest.mark.parametrize("arguments", [("--tls",), ("--ca", "{ca}")], ids=["whose?", "and we?"])
def test_tls_that_fails(
    receiver: Receiver, ours: Authority, oxidicom: Oxidicom, arguments: tuple[str, ...]
) -> None:
    """The authority is not trusted, or the peer requires a certificate of ours."""
    filled = [each.format(ca=ours.ca) for each in arguments]
    found = oxidicom("echo", "localhost", receiver.tls_port, "--json", *filled).json
    assert (found["ok"], found["fault"]) == (False, "tls")


@pytest.mark.skipif(DCMQRSCP is None, reason="DCMTK is not installed")
def test_dcmtk_answers_and_rejects(tmp_path: Path, oxidicom: Oxidicom) -> None:
    with dcmqrscp(tmp_path) as port:
        assert oxidicom("echo", "127.0.0.1", port, "--aet", "QRSCP").status == 0
        done = oxidicom("echo", "127.0.0.1", port, "--aet", "NOBODY")
    assert done.status == 1
    assert "association rejected: called AE title not recognized (permanent" in done.err
    assert "the peer's AE title is not NOBODY: correct --aet" in done.err


def rejecting(*code: int) -> Script:
    def script(pacs: PacsSide) -> None:
        pacs.request()
        pacs.send(pdu(RJ, bytes((0, *code))))

    return script


def saying(data: bytes) -> Script:
    def script(pacs: PacsSide) -> None:
        pacs.request()
        pacs.send(data)

    return script


def hanging_up(pacs: PacsSide) -> None:
    pacs.request()
    pacs.socket.shutdown(socket.SHUT_RDWR)


def aborting_the_echo(pacs: PacsSide) -> None:
    pacs.accept(IMPLICIT)
    pacs.expect(4)
    pacs.send(abort(2, 1))


def not_for_this_service(pacs: PacsSide) -> None:
    pacs.accept(IMPLICIT, result=3)
    pacs.idle(10)


def silent(pacs: PacsSide) -> None:
    pacs.idle(10)


@pytest.mark.parametrize(
    ("script", "fault", "words"),
    [
        (rejecting(1, 1, 3), "rejected", "calling AE title not recognized"),
        (rejecting(2, 3, 1), "rejected", "temporary congestion"),
        (saying(abort(0, 0)), "aborted", "by its service user"),
        (saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "protocol", "is not DICOM"),
        (hanging_up, "closed", "closed the connection"),
        (aborting_the_echo, "aborted", "by its service provider (unrecognized pdu)"),
        (not_for_this_service, "context", "C-ECHO"),
        (silent, "timeout", "within 0.3 s"),
    ],
    ids=["AE title", "congested", "abort", "HTTP", "hangs up", "abort later", "context", "silent"],
)
def test_an_error_names_its_fault_and_its_cause(
    script: Script, fault: str, words: str, oxidicom: Oxidicom
) -> None:
    with scripted_pacs(script) as pacs:
        arguments = ("echo", "127.0.0.1", pacs.port, "--timeout", "0.3" if "0.3" in words else 10)
        found = oxidicom(*arguments, "--json")
        told = oxidicom(*arguments)
    assert (found.status, found.err) == (1, "")
    assert found.json["fault"] == fault
    assert words in found.json["error"]
    assert told.status == 1
    assert words in told.err
    assert "; " in told.err, "what to do"


def echo_response(status: int, *further: Element, data_set_type: int = 0x0101) -> bytes:
    command = command_set(
        (0x0002, uid(VERIFICATION)),
        (0x0100, number(0x8030)),
        (0x0120, number(1)),
        (0x0800, number(data_set_type)),
        (0x0900, number(status)),
        *further,
    )
    return p_data(pdv(1, command, command=True, last=True))


def test_a_response_that_only_announces_a_data_set_is_an_answer(oxidicom: Oxidicom) -> None:
    """Some peers copy the Command Data Set Type of another message."""

    def script(pacs: PacsSide) -> None:
        pacs.accept(IMPLICIT)
        pacs.expect(4)
        pacs.send(echo_response(0x0000, data_set_type=1))
        pacs.released()

    with scripted_pacs(script) as pacs:
        assert oxidicom("echo", "127.0.0.1", pacs.port).status == 0


def test_a_comment_of_the_peer_cannot_control_the_terminal(oxidicom: Oxidicom) -> None:
    def script(pacs: PacsSide) -> None:
        pacs.accept(IMPLICIT)
        pacs.expect(4)
        pacs.send(echo_response(0x0110, (0x0902, b"\x1b[2Jdisk full")))

    with scripted_pacs(script) as pacs:
        done = oxidicom("echo", "127.0.0.1", pacs.port)
    assert done.status == 1
    assert r"status 0110H processing failure (\x1b[2Jdisk full)" in done.err


def test_a_refused_connection_is_an_error(oxidicom: Oxidicom) -> None:
    port = free_port()
    done = oxidicom("echo", "127.0.0.1", port)
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        f"oxidicom: connection refused: nothing listens at 127.0.0.1:{port}; start it there, or"
        " correct HOST and PORT\n"
    )


@pytest.mark.parametrize("host", ["a" * 70, ".example.org", "a..b"])
def test_an_impossible_host_name_is_an_error(oxidicom: Oxidicom, host: str) -> None:
    done = oxidicom("echo", host, 104)
    assert (done.status, done.out) == (1, "")
    assert f"the name in {host}:104 does not resolve" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("localhost", "0"), "a port must be a whole number from 1 to 65535"),
        (("localhost", "11111", "--aet", "seventeen letters"), "an AE title has 1 to 16"),
        (("localhost", "11111", "--timeout", "soon"), "seconds must be a number"),
        (("localhost", "11111", "--count", "0"), "a count must be a whole number from 1"),
        (("localhost", "11111", "--ca", "/nowhere"), "--ca /nowhere: No such file"),
        (("localhost", "11111", "--cert", __file__), "it is not PEM"),
        (("localhost", "11111", "--key", __file__), "--key has no effect without --cert"),
    ],
)
def test_invalid_arguments_give_status_2(
    arguments: tuple[str, ...], words: str, oxidicom: Oxidicom
) -> None:
    done = oxidicom("echo", *arguments)
    assert (done.status, done.out) == (2, "")
    assert words in done.err
