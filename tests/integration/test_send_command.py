"""`oxidicom send` to our receiver, to DCMTK, and to peers that refuse, abort and disappear."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import CTImageStorage

from oxidicom.errors import OperatorError
from oxidicom.scu.connection import Peer
from oxidicom.scu.files import candidates
from oxidicom.scu.sending import Sending, SendTally
from oxidicom.uids import abstract_syntaxes
from tests.integration.test_dcmtk import storescp
from tests.support.authority import Authority, found_authority
from tests.support.brokers import find_program
from tests.support.commands import Oxidicom
from tests.support.data import Instance, part_10
from tests.support.ports import free_port
from tests.support.raw_peer import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT
from tests.support.receiver import PROJECT, Receiver

# pynetdicom logs every PDU otherwise.
_config.LOG_HANDLER_LEVEL = "none"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return found_authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory, ours: Authority) -> Iterator[Receiver]:
    with Receiver(
        tmp_path_factory.mktemp("received"),
        OXIDICOM_TLS_PORT="0",
        OXIDICOM_TLS_CERT=str(ours.certificate),
        OXIDICOM_TLS_KEY=str(ours.key),
    ) as receiver:
        yield receiver


@pytest.fixture
def oxidicom(capsys: pytest.CaptureFixture[str]) -> Oxidicom:
    return Oxidicom(capsys)


def files_in(folder: Path, instances: list[Instance], transfer_syntax: str = EXPLICIT) -> None:
    folder.mkdir(exist_ok=True)
    for instance in instances:
        path = folder / f"{instance.sop_instance}.dcm"
        path.write_bytes(part_10(instance, transfer_syntax))


# ---- what arrives --------------------------------------------------------------------------------


@pytest.mark.parametrize("associations", [1, 3])
def test_every_octet_arrives_in_every_encoding(
    receiver: Receiver, tmp_path: Path, oxidicom: Oxidicom, associations: int
) -> None:
    sent: dict[str, bytes] = {}
    for encoding in (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED):
        # Within one PDU, over several, and beyond what is read at once.
        instances = [Instance(pixels=size, number=size) for size in (2, 70_000, 600_000)]
        files_in(tmp_path / encoding, instances, encoding)
        sent |= {each.sop_instance: each.encode(encoding) for each in instances}
    bare = Instance()
    (tmp_path / "bare").write_bytes(bare.encode(IMPLICIT))
    sent[bare.sop_instance] = bare.encode(IMPLICIT)
    (tmp_path / "README").write_text("no image")

    done = oxidicom(
        "send", tmp_path, "127.0.0.1", receiver.port, "--json", "--associations", associations
    )
    assert (done.status, done.err) == (0, "")
    report = done.json
    assert (report["stored"], report["failed"], report["skipped"]) == (len(sent), 0, 1)
    assert report["bytes"] == sum(map(len, sent.values()))
    assert report["statuses"] == {"0000H success": len(sent)}
    assert report["rounds"] == 1
    for sop_instance, data_set in sent.items():
        assert receiver.data_set_of(sop_instance) == data_set


def test_pydicoms_samples_arrive(receiver: Receiver, oxidicom: Oxidicom) -> None:
    names = ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "US1_UNCR.dcm")
    paths = [
        str(get_testdata_file(name, download=False))
        for name in names
        if (get_testdata_file(name, download=False))
    ]
    assert len(paths) >= 3
    done = oxidicom("send", *paths, "127.0.0.1", receiver.port, "--calling", "SAMPLES")
    assert done.status == 0, done
    assert f"{len(paths)} stored at 127.0.0.1:{receiver.port} in " in done.out
    stored = {
        str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        for path in receiver.files("SERVICES/PACS/SAMPLES")
    }
    assert stored == {
        str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths
    }


def test_more_contexts_than_one_association_can_propose(
    receiver: Receiver, tmp_path: Path, oxidicom: Oxidicom
) -> None:
    others = {"1.2.840.10008.1.1", "1.2.840.10008.1.3.10"}  # verification, a DICOMDIR
    kinds = sorted(abstract_syntaxes() - others)[:150]
    files_in(tmp_path / "kinds", [Instance(sop_class=kind) for kind in kinds])
    done = oxidicom(
        "send", tmp_path / "kinds", "127.0.0.1", receiver.port, "--associations=1", "--json"
    )
    assert done.json["stored"] == 150
    assert done.json["associations"] < 20


def test_over_tls(receiver: Receiver, ours: Authority, tmp_path: Path, oxidicom: Oxidicom) -> None:
    instances = [Instance(pixels=100_000) for _ in range(4)]
    files_in(tmp_path / "files", instances)
    done = oxidicom(
        "send", f"{tmp_path}/files/*.dcm", "localhost", receiver.tls_port, "--ca", ours.ca
    )
    assert (done.status, done.err) == (0, "")
    for instance in instances:
        assert receiver.data_set_of(instance.sop_instance) == instance.encode(EXPLICIT)


@pytest.mark.skipif(find_program("storescp") is None, reason="DCMTK is not installed")
def test_dcmtk_receives(tmp_path: Path, oxidicom: Oxidicom) -> None:
    """It uses PDUs of 16 KiB and refuses a transfer syntax that it is not configured for."""
    instances = [Instance(pixels=size) for size in (10, 40_000, 300_000)]
    files_in(tmp_path / "files", instances)
    unheard_of = "1.2.826.0.1.3680043.8.498.9.1"
    files_in(tmp_path / "files", [Instance()], unheard_of)
    (tmp_path / "received").mkdir()
    with storescp(tmp_path / "received") as port:
        done = oxidicom("send", tmp_path / "files", "127.0.0.1", port, "--json")
    assert (done.status, done.json["stored"]) == (1, 3)
    assert done.json["failures"] == {f"not accepted: SOP class {CTImageStorage} in {unheard_of}": 1}
    received = {path.read_bytes() for path in (tmp_path / "received").iterdir()}
    for instance in instances:
        assert any(
            instance.encode(EXPLICIT) == data[-len(instance.encode(EXPLICIT)) :]
            for data in received
        )


# ---- peers with moods ----------------------------------------------------------------------------


@contextlib.contextmanager
def moody_peer(mood: Callable[[int, Any], int]) -> Iterator[tuple[int, list[str]]]:
    """pynetdicom's SCP; `mood` gets the number of each instance, from 0, and its event, and says
    the status. The port, and the SOP Instance UIDs that were answered with Success."""
    counter = itertools.count()
    stored: list[str] = []
    lock = threading.Lock()

    def on_store(event: Any) -> int:
        with lock:
            status = mood(next(counter), event)
            if status == 0:
                stored.append(str(event.request.AffectedSOPInstanceUID))
            return status

    entity = AE()
    entity.add_supported_context(CTImageStorage, [EXPLICIT])
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)]
    )
    try:
        yield server.socket.getsockname()[1], stored
    finally:
        server.shutdown()


def refusing_every_third(number: int, event: Any) -> int:
    return 0xA700 if number % 3 == 2 else 0


def aborting_every_third(number: int, event: Any) -> int:
    if number % 3 == 2:
        event.assoc.abort()
        return 0xC000
    return 0


@pytest.mark.parametrize("associations", [1, 2])
@pytest.mark.parametrize("mood", [refusing_every_third, aborting_every_third])
def test_failed_instances_are_sent_again(
    tmp_path: Path, mood: Callable[[int, Any], int], associations: int
) -> None:
    instances = [Instance() for _ in range(10)]
    files_in(tmp_path, instances)
    with moody_peer(mood) as (port, stored):
        tally, failed = sent_to(port, tmp_path, retries=9, associations=associations)
    assert failed == []
    assert (tally.stored, tally.failed) == (10, 0)
    assert sorted(stored) == sorted(each.sop_instance for each in instances)
    assert tally.rounds > 1
    assert tally.associations > 1


def sent_to(
    port: int, folder: Path, *, retries: int, associations: int
) -> tuple[SendTally, list[tuple[Path, str]]]:
    """Send without the pauses of the command."""
    failed: list[tuple[Path, str]] = []
    sending = Sending(
        Peer("127.0.0.1", port, "ANY-SCP", "TEST", 10.0),
        candidates([str(folder)]),
        lambda path, why: failed.append((path, why)),
        associations=associations,
        retries=retries,
        first_pause=0.01,
    )
    sending.start()
    assert sending.wait(60)
    return sending.tally, failed


def test_files_that_failed_are_listed_and_sent_from_the_list(
    tmp_path: Path, oxidicom: Oxidicom
) -> None:
    good, bad = [Instance() for _ in range(5)], [Instance() for _ in range(3)]
    files_in(tmp_path / "files", good + bad)
    refused = {each.sop_instance for each in bad}
    forgiving = threading.Event()

    def mood(number: int, event: Any) -> int:
        uid = event.request.AffectedSOPInstanceUID
        return 0xA900 if uid in refused and not forgiving.is_set() else 0

    with moody_peer(mood) as (port, stored):
        listed = tmp_path / "failed.txt"
        peer = ("127.0.0.1", port)
        done = oxidicom("send", tmp_path / "files", *peer, "--failed", listed, "--retries=1")
        assert done.status == 1
        assert "3 failed:" in done.out
        assert "        3  status A900H data set does not match SOP class" in done.out
        assert f"send them again: --from {listed}" in done.out
        assert len(done.err.splitlines()) == 3
        assert {Path(line).stem for line in listed.read_text().splitlines()} == refused
        forgiving.set()
        again = oxidicom("send", "--from", listed, *peer, "--json")
    assert (again.status, again.json["stored"]) == (0, 3)
    assert sorted(stored) == sorted(each.sop_instance for each in good + bad)


def test_warnings_count_as_stored(tmp_path: Path, oxidicom: Oxidicom) -> None:
    files_in(tmp_path, [Instance()])
    with moody_peer(lambda number, event: 0xB000) as (port, _):
        done = oxidicom("send", tmp_path, "127.0.0.1", port, "--json")
    assert (done.status, done.json["stored"], done.json["warnings"]) == (0, 1, 1)


def test_a_peer_that_always_aborts_is_given_up(tmp_path: Path) -> None:
    files_in(tmp_path, [Instance() for _ in range(20)])

    def mood(number: int, event: Any) -> int:
        event.assoc.abort()
        return 0xC000

    with moody_peer(mood) as (port, _):
        tally, failed = sent_to(port, tmp_path, retries=2, associations=2)
    assert len(failed) == tally.failed == 20
    assert tally.associations <= 8


def test_an_instance_that_makes_the_peer_abort_does_not_end_the_others(tmp_path: Path) -> None:
    instances = [Instance() for _ in range(6)]
    files_in(tmp_path, instances)

    def mood(number: int, event: Any) -> int:
        if event.request.AffectedSOPInstanceUID == instances[0].sop_instance:
            event.assoc.abort()
            return 0xC000
        return 0

    with moody_peer(mood) as (port, _):
        tally, failed = sent_to(port, tmp_path, retries=0, associations=1)
    assert tally.stored == 5
    ((path, why),) = failed
    assert path.stem == instances[0].sop_instance
    assert "aborted" in why


def test_a_list_that_cannot_be_written_ends_the_command(tmp_path: Path) -> None:
    files_in(tmp_path, [Instance() for _ in range(6)])

    def full(path: Path, why: str) -> None:
        raise OperatorError("the disk is full")

    with moody_peer(lambda number, event: 0xA700) as (port, _):
        peer = Peer("127.0.0.1", port, "ANY-SCP", "TEST", 10.0)
        sending = Sending(peer, candidates([str(tmp_path)]), full, associations=2, retries=0)
        sending.start()
        with pytest.raises(OperatorError, match="the disk is full"):
            assert sending.wait(60)


def test_a_refused_connection_is_an_error(tmp_path: Path, oxidicom: Oxidicom) -> None:
    files_in(tmp_path / "files", [Instance() for _ in range(20)])
    listed = tmp_path / "failed.txt"
    done = oxidicom(
        *("send", tmp_path / "files", "127.0.0.1", free_port()),
        *("--retries=0", "--failed", listed, "--json"),
    )
    assert (done.status, done.json["failed"], done.json["associations"]) == (1, 20, 0)
    assert len(listed.read_text().splitlines()) == 20
    *shown, further, gave_up = done.err.splitlines()
    assert len(shown) == 10
    assert "further failures" in further
    assert "gave up: connection refused" in gave_up


def test_an_interruption_lists_what_was_not_sent(tmp_path: Path) -> None:
    instances = [Instance() for _ in range(40)]
    files_in(tmp_path / "files", instances)
    third, interrupted = threading.Event(), threading.Event()

    def mood(number: int, event: Any) -> int:
        if number == 2:
            third.set()
            assert interrupted.wait(60)
        return 0

    with moody_peer(mood) as (port, stored):
        listed = tmp_path / "failed.txt"
        command = [sys.executable, "-m", "oxidicom", "send", tmp_path / "files", "127.0.0.1"]
        process = subprocess.Popen(
            [*map(str, command), str(port), "--associations=1", "--failed", str(listed)],
            env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert third.wait(60)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "stopping" in process.stderr.readline()
        interrupted.set()
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "3 stored at" in out
    left = {Path(line).stem for line in listed.read_text().splitlines()}
    assert left == {each.sop_instance for each in instances} - set(stored)
    assert len(left) == 37


# ---- arguments and files that are at fault -------------------------------------------------------


def test_files_that_cannot_be_sent_are_named(
    receiver: Receiver, tmp_path: Path, oxidicom: Oxidicom
) -> None:
    (tmp_path / "text").write_text("hello")
    peer = ("127.0.0.1", receiver.port)
    done = oxidicom("send", tmp_path / "text", tmp_path / "missing", *peer)
    assert done.status == 1
    assert f"{tmp_path}/text: not a DICOM file" in done.err
    assert f"{tmp_path}/missing: cannot be read: No such file or directory" in done.err
    (tmp_path / "empty").mkdir()
    done = oxidicom("send", tmp_path / "empty", *peer)
    assert (done.status, done.err) == (1, "oxidicom: no DICOM files found\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("localhost", "104"), "nothing to send"),
        (("--from", "/nowhere", "localhost", "104"), "/nowhere: No such file"),
        ((".", "localhost", "104", "--failed", "/nowhere/list"), "/nowhere/list: No such file"),
        (
            (".", "localhost", "104", "--associations", "65"),
            "associations must be a whole number from 1",
        ),
    ],
)
def test_invalid_arguments_give_status_2(
    arguments: tuple[str, ...], words: str, oxidicom: Oxidicom
) -> None:
    done = oxidicom("send", *arguments)
    assert (done.status, done.out) == (2, "")
    assert words in done.err


def test_a_list_is_not_overwritten_while_it_is_read(tmp_path: Path, oxidicom: Oxidicom) -> None:
    listed = tmp_path / "list"
    listed.write_text("a.dcm\n")
    done = oxidicom("send", "--from", listed, "localhost", "104", "--failed", listed)
    assert done.status == 2
    assert "the same file" in done.err
    assert listed.read_text() == "a.dcm\n"
