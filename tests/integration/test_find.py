"""C-FIND for expected counts, at real archives and at a PACS that hangs, lies or is away (43)."""

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

from oxidicom.scu import find as find_module
from oxidicom.scu import find_association as module
from oxidicom.scu.count_query import CountAnswer, CountQuery
from oxidicom.scu.find import find_count
from oxidicom.settings.addresses import PacsAddress
from tests.support.data import Instance, encode, padded, part_10
from tests.support.orthanc import ORTHANC, Orthanc
from tests.support.pacs import (
    COUNT,
    DCMQRSCP,
    PENDING,
    SERIES_UID,
    STUDY_ROOT_FIND,
    STUDY_UID,
    PacsSide,
    Script,
    dcmqrscp,
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

SERIES = "1.2.826.0.1.3680043.8.498.77"
PATIENT = "Zwiebelmarker"
ENOUGH = 10.0
SHORT = 0.6
"""Seconds for a PACS that never will answer."""


def ask(port: int, series: str = SERIES, within: float = ENOUGH, pacs: str = "PACS") -> CountAnswer:
    address = PacsAddress(pacs, "127.0.0.1", port)
    return find_count(CountQuery(address, "ChRIS", f"{series}.0", series), within)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The library logs nothing, whatever happens, and leaves no thread behind."""
    caplog.set_level(logging.DEBUG)
    before = set(threading.enumerate())
    yield
    assert [each for each in caplog.records if each.name.startswith("pynetdicom")] == []
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
def test_orthanc(tmp_path: Path) -> None:
    with Orthanc(tmp_path).running() as orthanc:
        instances = series_of(7)
        for instance in [*instances, *series_of(3)]:
            orthanc.upload(instance)
        found = ask(orthanc.dicom_port, instances[0].series, pacs="ORTHANC")
        assert found == CountAnswer(7, 0x0000, None)
        assert ask(orthanc.dicom_port, pacs="ORTHANC") == CountAnswer(None, 0x0000, "no match")


@pytest.mark.skipif(DCMQRSCP is None, reason="DCMTK is not installed")
def test_dcmtk(tmp_path: Path) -> None:
    """Its archive finds the series but counts nothing, as its own findscu shows."""
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


# ---- what is asked ---------------------------------------------------------------------------


@pytest.mark.parametrize("transfer_syntax", [EXPLICIT, IMPLICIT])
def test_the_question(transfer_syntax: str) -> None:
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


def test_a_uid_that_is_none_is_asked_for_as_it_is() -> None:
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


# ---- trouble ---------------------------------------------------------------------------------


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


def answers_with_a_request(pacs: PacsSide) -> None:
    pacs.accept()
    pacs.question()
    pacs.send(p_data(pdv(1, c_echo_rq(), command=True, last=True)))


IN_TIME = "no answer in time"
CLOSED = "the PACS closed the connection"

TROUBLE: list[tuple[Script, str, int | None]] = [
    (lambda pacs: None, IN_TIME, None),
    (hangs_after_associating, IN_TIME, None),
    (hangs_mid_response, IN_TIME, None),
    (hangs_mid_header, IN_TIME, None),
    (dribbles, IN_TIME, None),
    (hangs_after_other_matches, IN_TIME, PENDING),
    (refuses, "association rejected (1/1/7)", None),
    (does_not_offer, "the PACS does not offer this service", None),
    (fails, "status A700H", 0xA700),
    (aborts, "no valid response", None),
    (closes, CLOSED, None),
    (speaks_http, "no association", None),
    (answers_with_a_request, "no valid response", None),
]


@pytest.mark.parametrize(
    ("script", "error", "status"),
    [pytest.param(*each, id=each[0].__name__.strip("<>")) for each in TROUBLE],
)
def test_trouble_costs_the_count_and_no_more_than_its_time(
    script: Script, error: str, status: int | None
) -> None:
    with scripted_pacs(script) as pacs:
        began = time.monotonic()
        assert ask(pacs.port, within=SHORT) == CountAnswer(None, status, error)
        assert time.monotonic() - began < SHORT + 1.5


@pytest.mark.parametrize(
    "script",
    [answers_before_it_is_asked, asks_before_it_is_asked, releases_before_it_is_asked],
)
def test_a_pacs_that_does_not_wait_to_be_asked(script: Script) -> None:
    """Whatever comes of it, in time: which of the two is faster is open."""
    with scripted_pacs(script) as pacs:
        for _ in range(5):
            began = time.monotonic()
            answer = ask(pacs.port, within=SHORT)
            assert answer.error
            assert time.monotonic() - began < SHORT + 1.5


def test_nobody_listens() -> None:
    answer = ask(free_port())
    assert answer.error == "ConnectionRefusedError: ECONNREFUSED Connection refused"


def test_hangs_at_accept() -> None:
    """Its queue of connections is full: not even TCP's handshake ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        began = time.monotonic()
        assert ask(port, within=SHORT) == CountAnswer(None, None, IN_TIME)
        assert time.monotonic() - began < SHORT + 1.5
        for filler in fillers:
            filler.close()


def test_a_name_that_does_not_resolve() -> None:
    question = CountQuery(PacsAddress("PACS", "nowhere.invalid", 104), "ChRIS", "1.2", "1.2.3")
    error = find_count(question, ENOUGH).error
    assert error is not None
    assert error.startswith("gaierror: ")


def test_endless_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_module, "MAX_MATCHES", 50)

    def script(pacs: PacsSide) -> None:
        pacs.accept()
        pacs.question()
        while True:
            pacs.match(OTHER, b"5")

    with scripted_pacs(script) as pacs:
        answer = ask(pacs.port)
    assert answer == CountAnswer(None, PENDING, "more than 50 matches")


def test_more_data_than_anybody_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1_000_000)

    def script(pacs: PacsSide) -> None:
        pacs.accept()
        pacs.question()
        pacs.send(struct.pack(">BxI", P_DATA_TF, 0xFFFFFFFF))
        while True:
            pacs.send(bytes(65536))

    with scripted_pacs(script) as pacs:
        assert ask(pacs.port) == CountAnswer(None, None, "too much data")


def test_a_count_stands_whatever_comes_after_it() -> None:
    def script(pacs: PacsSide) -> None:
        pacs.accept()
        pacs.question()
        pacs.match(SERIES, b"5")
        if fails_then:
            pacs.respond(0xA700)
            pacs.released()

    for fails_then, error in ((True, "status A700H"), (False, IN_TIME)):  # noqa: B007
        with scripted_pacs(script) as pacs:
            answer = ask(pacs.port, within=SHORT)
        assert (answer.expected, answer.error) == (5, error)


def test_garbage_of_every_length() -> None:
    """Half of a good conversation, then anything: an answer without a count, in time."""
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
            assert time.monotonic() - began < SHORT + 1.5, pacs_breaks_at


def test_handles_beyond_those_that_select_knows() -> None:
    """A receiver with a thousand associations has such handles."""
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
