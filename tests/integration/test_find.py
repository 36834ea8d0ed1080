"""C-FIND for expected counts: at real archives, and at a PACS that hangs, is hostile or is
unreachable (decision 43)."""

from __future__ import annotations

import logging
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxidicom.scu import find as module
from oxidicom.scu.count_query import CountAnswer, CountQuery
from oxidicom.scu.find import find_count
from oxidicom.settings.addresses import PacsAddress
from tests.support.data import Instance, encode, padded, part_10
from tests.support.orthanc import ORTHANC, Orthanc
from tests.support.pacs import (
    COUNT,
    DCMQRSCP,
    PENDING,
    PENDING_WITH_WARNING,
    SERIES_UID,
    STUDY_ROOT_FIND,
    STUDY_UID,
    PacsSide,
    Script,
    dcmqrscp,
    find_command,
    find_response,
    scripted_pacs,
)
from tests.support.ports import free_port
from tests.support.raw_peer import (
    EXPLICIT,
    IMPLICIT,
    P_DATA_TF,
    abort,
    c_echo_rq,
    p_data,
    pdu,
    pdv,
    release_rq,
)
from tests.support.timing import BUSY_MACHINE_S

SERIES = "1.2.826.0.1.3680043.8.498.77"
PATIENT = "Zwiebelmarker"
ENOUGH = 10.0
SHORT = 0.6
"""Seconds to wait for a PACS that will never answer."""
GRACE = BUSY_MACHINE_S
"""Seconds by which a loaded machine may exceed a time limit."""


def ask(port: int, series: str = SERIES, within: float = ENOUGH, pacs: str = "PACS") -> CountAnswer:
    address = PacsAddress(pacs, "127.0.0.1", port)
    return find_count(CountQuery(address, "ChRIS", f"{series}.0", series), within)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that a query logs nothing, whatever happens, and leaves no thread behind."""
    caplog.set_level(logging.DEBUG)
    before = set(threading.enumerate())
    yield
    assert caplog.records == []
    deadline = time.monotonic() + 5
    for thread in set(threading.enumerate()) - before:
        assert thread.daemon, thread
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), thread


# ---- real archives ---------------------------------------------------------------------------


def series_of(count: int) -> list[Instance]:
    series = Instance().series
    return [Instance(series=series, number=number) for number in range(1, count + 1)]


@pytest.mark.skipif(ORTHANC is None, reason="Orthanc is not installed")
def test_orthanc_gives_the_count_of_a_series(tmp_path: Path) -> None:
    with Orthanc(tmp_path).running() as orthanc:
        instances = series_of(7)
        for instance in [*instances, *series_of(3)]:
            orthanc.upload(instance)
        found = ask(orthanc.dicom_port, instances[0].series, pacs="ORTHANC")
        assert found == CountAnswer(7, 0x0000, None)
        assert ask(orthanc.dicom_port, pacs="ORTHANC") == CountAnswer(None, 0x0000, "no match")


@pytest.mark.skipif(DCMQRSCP is None, reason="DCMTK is not installed")
def test_dcmtk_finds_the_series_without_a_count(tmp_path: Path) -> None:
    """Its archive finds the series without a count, as its own findscu shows."""
    instances = series_of(4)
    files = tmp_path / "files"
    files.mkdir()
    for instance in instances:
        (files / f"{instance.sop_instance}.dcm").write_bytes(part_10(instance, EXPLICIT))
    series = instances[0].series
    with dcmqrscp(tmp_path) as port:
        where = ["-aec", "QRSCP", "127.0.0.1", str(port)]
        dcmtk("storescu", *where, "+sd", str(files))
        found = ask(port, series, pacs="QRSCP")
        keys = ["QueryRetrieveLevel=SERIES", f"StudyInstanceUID={series}.0"]
        keys += [f"SeriesInstanceUID={series}", "NumberOfSeriesRelatedInstances"]
        theirs = dcmtk("findscu", "-S", *where, *(part for key in keys for part in ("-k", key)))
        assert ask(port, pacs="QRSCP") == CountAnswer(None, 0x0000, "no match")
    assert series in theirs
    assert "NumberOfSeriesRelatedInstances" not in theirs.partition("Find Response: 1")[2]
    assert found == CountAnswer(None, 0x0000, "no match has a count")


def dcmtk(program: str, *arguments: str) -> str:
    path = shutil.which(program)
    assert path is not None
    done = subprocess.run([path, *arguments], check=True, timeout=60, capture_output=True)
    return (done.stdout + done.stderr).decode(errors="replace")


# ---- the query ------------------------------------------------------------------------------


@pytest.mark.parametrize("transfer_syntax", [EXPLICIT, IMPLICIT])
def test_the_query_names_series_and_study_at_level_series(transfer_syntax: str) -> None:
    asked = []

    def script(pacs: PacsSide) -> None:
        asked.append((pacs.accept(transfer_syntax), pacs.question()))
        pacs.match(SERIES, b"12")
        pacs.finish()

    with scripted_pacs(script) as pacs:
        assert ask(pacs.port) == CountAnswer(12, 0x0000, None)
    [(request, identifier)] = asked
    assert (request.called, request.calling) == ("PACS", "ChRIS")
    assert request.contexts == {1: (STUDY_ROOT_FIND, [EXPLICIT, IMPLICIT])}
    elements = [
        (0x00080052, "CS", b"SERIES"),
        (STUDY_UID, "UI", padded("UI", f"{SERIES}.0".encode())),
        (SERIES_UID, "UI", padded("UI", SERIES.encode())),
        (COUNT, "IS", b""),
    ]
    assert identifier == encode(elements, transfer_syntax)


def test_an_illegal_uid_is_sent_as_it_was_received() -> None:
    def script(pacs: PacsSide) -> None:
        pacs.accept()
        assert b"not a UID 01.x" in pacs.question()
        pacs.match("not a UID 01.x", b"3")
        pacs.finish()

    with scripted_pacs(script) as pacs:
        assert ask(pacs.port, "not a UID 01.x").expected == 3


# ---- matches ---------------------------------------------------------------------------------

OTHER = f"{SERIES}.1"
NO_COUNT = "no match has a count"
Matches = list[tuple[str, bytes | None]]


@pytest.mark.parametrize(
    ("matches", "count", "error"),
    [
        ([], None, "no match"),
        ([(SERIES, b"0")], 0, None),
        ([(SERIES, b" 15 ")], 15, None),
        ([(SERIES, b"+15")], 15, None),
        ([(OTHER, b"9")], None, NO_COUNT),
        ([(SERIES, PATIENT.encode())], None, NO_COUNT),
        ([(SERIES, b"4\\5")], None, NO_COUNT),
        ([(SERIES, b"1.5")], None, NO_COUNT),
        ([(SERIES, "٣".encode())], None, NO_COUNT),
        ([(SERIES, b"-3")], None, NO_COUNT),
        ([(SERIES, b"")], None, NO_COUNT),
        ([(SERIES, b"  ")], None, NO_COUNT),
        ([(SERIES, None)], None, NO_COUNT),
        ([(SERIES, b"9" * 400)], None, NO_COUNT),
        ([(OTHER, b"9"), (SERIES, b"x"), (SERIES, b"21"), (SERIES, b"22")], 21, None),
    ],
)
def test_the_first_match_with_a_count_wins(
    matches: Matches, count: int | None, error: str | None
) -> None:
    read = []

    def script(pacs: PacsSide) -> None:
        pacs.accept()
        pacs.question()
        for series, text in matches:
            pacs.match(series, text)
        pacs.finish()
        read.append(True)

    with scripted_pacs(script) as pacs:
        assert ask(pacs.port) == CountAnswer(count, 0x0000, error)
    assert read, "all matches were read, and the association was released"


def test_a_match_without_an_identifier_or_with_one_that_cannot_be_read() -> None:
    def script(pacs: PacsSide) -> None:
        pacs.accept()
        pacs.question()
        pacs.respond(PENDING)
        pacs.respond(PENDING, f"{PATIENT} garbage".encode())
        pacs.match(SERIES, b"8")
        pacs.finish()

    with scripted_pacs(script) as pacs:
        assert ask(pacs.port).expected == 8


def test_a_response_may_come_in_any_number_of_fragments_and_pdus() -> None:
    """PS3.8 annex E; one PDU may hold the end of a command set and the beginning of a data set."""

    def script(pacs: PacsSide) -> None:
        pacs.accept()
        pacs.question()
        identifier = pacs.identifier(SERIES, b"8")
        command = find_command(PENDING, identifier)
        pacs.send(p_data(pdv(1, command[:5], command=True, last=False)))
        pacs.send(
            p_data(
                pdv(1, command[5:], command=True, last=True),
                pdv(1, identifier[:3], command=False, last=False),
                pdv(1, b"", command=False, last=False),
            )
        )
        *most, last = identifier[3:]
        for octet in most:
            pacs.send(p_data(pdv(1, bytes([octet]), command=False, last=False)))
        pacs.send(p_data(pdv(1, bytes([last]), command=False, last=True)))
        pacs.finish()

    with scripted_pacs(script) as pacs:
        assert ask(pacs.port) == CountAnswer(8, 0x0000, None)


def test_all_responses_may_be_in_one_pdu() -> None:
    def script(pacs: PacsSide) -> None:
        pacs.accept()
        pacs.question()
        pdvs = []
        for series, count in ((OTHER, b"3"), (SERIES, b"8")):
            identifier = pacs.identifier(series, count)
            command = find_command(PENDING_WITH_WARNING, identifier)
            pdvs += [
                pdv(1, command, command=True, last=True),
                pdv(1, identifier, command=False, last=True),
            ]
        pdvs.append(pdv(1, find_command(0x0000, None), command=True, last=True))
        pacs.send(p_data(*pdvs))
        pacs.released()

    with scripted_pacs(script) as pacs:
        assert ask(pacs.port) == CountAnswer(8, 0x0000, None)


@pytest.mark.parametrize("max_length", [0, 1, 6, 7, 8, 100, 0xFFFFFFFF])
def test_a_query_is_cut_to_the_maximum_length_of_the_pacs(max_length: int) -> None:
    def script(pacs: PacsSide) -> None:
        pacs.accept(max_length=max_length)
        pacs.question()
        pacs.match(SERIES, b"8")
        pacs.finish()

    with scripted_pacs(script) as pacs:
        assert ask(pacs.port) == CountAnswer(8, 0x0000, None)


# ---- failures --------------------------------------------------------------------------------


def hangs_before_associating(pacs: PacsSide) -> None:
    pacs.idle(10)


def hangs_after_associating(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.question()


def hangs_mid_response(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.question()
    response = find_response(PENDING, pacs.identifier(SERIES, b"5"))
    pacs.send(response[: len(response) // 2])


def hangs_mid_header(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.question()
    pacs.send(b"\4\0\0")


def dribbles(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.question()
    pacs.send(pdu(P_DATA_TF, b"", 1000))
    while True:
        pacs.send(b"\0")
        pacs.idle(0.05)


def hangs_after_other_matches(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.question()
    while True:
        pacs.match(OTHER, b"5")
        pacs.idle(0.05)


def refuses(pacs: PacsSide) -> None:
    pacs.reject()


def does_not_offer(pacs: PacsSide) -> None:
    pacs.accept(result=3)


def fails(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.question()
    pacs.respond(0xA700)
    pacs.released()


def cancels(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.question()
    pacs.respond(0xFE00)
    pacs.released()


def aborts(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.question()
    pacs.send(abort())


def closes(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.question()
    pacs.finish_sending()


def speaks_http(pacs: PacsSide) -> None:
    pacs.request()
    pacs.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def answers_before_it_is_asked(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.send(find_response(PENDING, pacs.identifier(SERIES, b"5")))


def asks_before_it_is_asked(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.send(p_data(pdv(1, c_echo_rq(), command=True, last=True)))
    pacs.finish_sending()


def releases_before_it_is_asked(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.send(release_rq())


def sends_a_command_without_end(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.question()
    while True:
        pacs.send(p_data(pdv(1, bytes(16000), command=True, last=False)))


def announces_an_identifier_only(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.question()
    command = find_response(PENDING, b"")
    pacs.send(command[: len(command) - 12])
    pacs.respond(0x0000)


def answers_with_a_request(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.question()
    pacs.send(p_data(pdv(1, c_echo_rq(), command=True, last=True)))


IN_TIME = f"WHERE gave no complete answer within {SHORT} s"
PROTOCOL = "WHERE does not follow the DICOM protocol: "

# WHERE is the address of the scripted PACS.
FAILURES: list[tuple[Script, str, int | None]] = [
    (
        refuses,
        "association rejected: called AE title not recognized (permanent, by the service user)",
        None,
    ),
    (does_not_offer, "the Study Root query (C-FIND) is not accepted", None),
    (fails, "status A700H out of resources", 0xA700),
    (cancels, "status FE00H cancelled", 0xFE00),
    (aborts, "WHERE aborted the association, by its service user", None),
    (closes, "WHERE closed the connection", None),
    (speaks_http, f"{PROTOCOL}what it sends is not DICOM", None),
    (
        answers_with_a_request,
        f"{PROTOCOL}it sends a command that is not a response with a status",
        None,
    ),
    (
        sends_a_command_without_end,
        f"{PROTOCOL}it sends a command set of more than 262144 bytes",
        None,
    ),
    (
        announces_an_identifier_only,
        f"{PROTOCOL}it does not send a data set where one is due",
        None,
    ),
]


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (hangs_before_associating, None),
        (hangs_after_associating, None),
        (hangs_mid_response, None),
        (hangs_mid_header, None),
        (dribbles, None),
        (hangs_after_other_matches, PENDING),
    ],
)
def test_a_pacs_that_hangs_costs_the_count_and_no_more_than_the_time_limit(
    script: Script, status: int | None
) -> None:
    with scripted_pacs(script) as pacs:
        error = IN_TIME.replace("WHERE", f"127.0.0.1:{pacs.port}")
        began = time.monotonic()
        assert ask(pacs.port, within=SHORT) == CountAnswer(None, status, error)
        assert time.monotonic() - began < SHORT + GRACE


@pytest.mark.parametrize(("script", "error", "status"), FAILURES)
def test_a_pacs_that_fails_costs_the_count_only(
    script: Script, error: str, status: int | None
) -> None:
    with scripted_pacs(script) as pacs:
        error = error.replace("WHERE", f"127.0.0.1:{pacs.port}")
        assert ask(pacs.port) == CountAnswer(None, status, error)


@pytest.mark.parametrize(
    "script",
    [answers_before_it_is_asked, asks_before_it_is_asked, releases_before_it_is_asked],
)
def test_a_pacs_that_answers_before_it_is_asked_ends_in_an_error_in_time(script: Script) -> None:
    """Which error it is depends on whether its answer or our query arrives first."""
    with scripted_pacs(script) as pacs:
        for _ in range(5):
            began = time.monotonic()
            answer = ask(pacs.port, within=SHORT)
            assert answer.error
            assert time.monotonic() - began < SHORT + GRACE


def test_a_refused_connection_is_named() -> None:
    port = free_port()
    answer = ask(port)
    assert answer.error == f"connection refused: nothing listens at 127.0.0.1:{port}"


def test_a_full_listen_queue_costs_no_more_than_the_time_limit() -> None:
    """Not even TCP's handshake completes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        began = time.monotonic()
        error = IN_TIME.replace("WHERE", f"127.0.0.1:{port}")
        assert ask(port, within=SHORT) == CountAnswer(None, None, error)
        assert time.monotonic() - began < SHORT + GRACE
        for filler in fillers:
            filler.close()


def test_a_name_that_does_not_resolve_is_named() -> None:
    query = CountQuery(PacsAddress("PACS", "nowhere.invalid", 104), "ChRIS", "1.2", "1.2.3")
    assert find_count(query, ENOUGH).error == "the name in nowhere.invalid:104 does not resolve"


def test_endless_matches_are_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MATCHES", 50)

    def script(pacs: PacsSide) -> None:
        pacs.accept()
        pacs.question()
        while True:
            pacs.match(OTHER, b"5")

    with scripted_pacs(script) as pacs:
        answer = ask(pacs.port)
    assert answer == CountAnswer(None, PENDING, "more than 50 matches")


def test_a_pdu_beyond_every_limit_is_not_read() -> None:
    def script(pacs: PacsSide) -> None:
        pacs.accept()
        pacs.question()
        pacs.send(struct.pack(">BxI", P_DATA_TF, 0xFFFFFFFF))
        while True:
            pacs.send(bytes(65536))

    with scripted_pacs(script) as pacs:
        answer = ask(pacs.port)
    assert answer.error is not None
    assert answer.error.endswith("it sends a PDU of 4294967295 bytes, more than 1048576")


def test_the_data_of_one_association_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECEIVE_BYTES", 1_000_000)

    def script(pacs: PacsSide) -> None:
        pacs.accept()
        pacs.question()
        while True:
            pacs.respond(PENDING, bytes(100_000))

    with scripted_pacs(script) as pacs:
        answer = ask(pacs.port)
    assert answer == CountAnswer(
        None,
        PENDING,
        f"127.0.0.1:{pacs.port} does not follow the DICOM protocol: it sends more than 1000000"
        " bytes",
    )


def test_a_pdu_larger_than_our_maximum_length_is_read() -> None:
    """Some peers ignore it; what matters is that memory stays bounded."""

    def script(pacs: PacsSide) -> None:
        pacs.accept()
        pacs.question()
        identifier = pacs.identifier(SERIES, b"5")
        command, data = find_response(PENDING, None), identifier + bytes(8) * 10_000
        pacs.send(command.replace(b"\x01\x01\0\0\0\x09", b"\x01\0\0\0\0\x09"))
        pacs.send(p_data(pdv(1, data, command=False, last=True)))
        pacs.finish()

    with scripted_pacs(script) as pacs:
        assert ask(pacs.port) == CountAnswer(5, 0x0000, None)


def test_a_count_is_valid_even_if_an_error_follows() -> None:
    def script(pacs: PacsSide) -> None:
        pacs.accept()
        pacs.question()
        pacs.match(SERIES, b"5")
        if fails_then:
            pacs.respond(0xA700)
            pacs.released()

    for fails_then, error in ((True, "status A700H out of resources"), (False, IN_TIME)):  # noqa: B007
        with scripted_pacs(script) as pacs:
            answer = ask(pacs.port, within=SHORT)
        where = f"127.0.0.1:{pacs.port}"
        assert (answer.expected, answer.error) == (5, error.replace("WHERE", where))


def test_a_response_broken_at_any_byte_gives_an_error_in_time() -> None:
    good = find_response(PENDING, Instance().encode(EXPLICIT)[:200])

    def script(pacs: PacsSide) -> None:
        pacs.accept()
        pacs.question()
        broken = bytearray(good)
        broken[pacs_breaks_at] ^= 0xFF
        pacs.send(broken)
        pacs.finish_sending()

    with scripted_pacs(script) as pacs:
        for pacs_breaks_at in range(0, len(good), 17):
            began = time.monotonic()
            answer = ask(pacs.port, within=SHORT)
            assert answer.expected is None
            assert answer.error
            assert time.monotonic() - began < SHORT + GRACE, pacs_breaks_at


def test_file_descriptors_above_1023_work() -> None:
    """A receiver with a thousand associations has such descriptors."""
    spare = [socket.socket() for _ in range(1100)]
    assert spare[-1].fileno() > 1024

    def script(pacs: PacsSide) -> None:
        pacs.accept()
        pacs.question()
        pacs.match(SERIES, b"6")
        pacs.finish()

    try:
        with scripted_pacs(script) as pacs:
            assert ask(pacs.port).expected == 6
    finally:
        for each in spare:
            each.close()
