"""DCMTK as a sender, and as a receiver of what the scripted peer sends."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from tests.support.data import Instance, part_10
from tests.support.ports import free_port
from tests.support.raw_peer import (
    BIG_ENDIAN,
    CT_IMAGE_STORAGE,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    Context,
    RawPeer,
)
from tests.support.receiver import Receiver, stored_data_set, wait_until

pytestmark = pytest.mark.skipif(shutil.which("storescu") is None, reason="DCMTK is not installed")

ENCODINGS = [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED]


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("files")) as receiver:
        yield receiver


def run(*command: str) -> str:
    """Run a program that must succeed; return what it printed on both streams."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False
    )
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, output
    return output


def send(receiver: Receiver, *arguments: str, tool: str = "storescu") -> str:
    return run(tool, *arguments[:-1], "127.0.0.1", str(receiver.port), arguments[-1])


def write_files(folder: Path, count: int, transfer_syntax: str = EXPLICIT) -> list[Instance]:
    """Write one series of Part 10 files."""
    series = Instance().series
    instances = [
        Instance(series=series, number=number, pixels=10_000) for number in range(1, count + 1)
    ]
    for instance in instances:
        (folder / f"{instance.sop_instance}.dcm").write_bytes(part_10(instance, transfer_syntax))
    return instances


def assert_same(receiver: Receiver, instances: list[Instance], folder: Path) -> None:
    """Check that each stored data set has the meaning of the sent one, in any encoding."""
    for instance in instances:
        path = receiver.path_of(instance.sop_instance)
        sent = pydicom.dcmread(folder / f"{instance.sop_instance}.dcm")
        stored = pydicom.dcmread(path)
        for element in sent:
            if element.keyword == "PixelData":
                continue  # octets of words depend on the byte order: DCMTK compares them below
            assert stored[element.tag].value == element.value, element.keyword
        assert len(stored) == len(sent)
        assert dump(path) == dump(folder / f"{instance.sop_instance}.dcm")


def dump(path: Path) -> str:
    """Return DCMTK's dump of the data set, without what depends on the encoding only."""
    lines = run("dcmdump", "-q", "+L", "+R", "100000", str(path)).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("(0008,"))
    return "\n".join(lines[start:])


# ---- the scripted peer is correct --------------------------------------------------------------


@contextlib.contextmanager
def storescp(folder: Path) -> Iterator[int]:
    port = free_port()
    command = ["storescp", "-q", "+B", "+xa", "-od", str(folder), str(port)]
    process = subprocess.Popen(command)

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        wait_until(answers, "storescp to listen")
        yield port
    finally:
        process.kill()
        process.wait()


def test_storescp_accepts_what_the_scripted_peer_sends(tmp_path: Path) -> None:
    with storescp(tmp_path) as port:
        for transfer_syntax in ENCODINGS:
            instance = Instance(pixels=40_000)
            data_set = instance.encode(transfer_syntax)
            with RawPeer(port) as peer:
                peer.associate(
                    [
                        Context(1, CT_IMAGE_STORAGE, [transfer_syntax]),
                        Context(3, VERIFICATION, [IMPLICIT]),
                    ]
                )
                peer.echo(9)
                assert peer.store(instance.sop_instance, data_set).status == 0
                peer.release()
            (path,) = tmp_path.iterdir()
            assert stored_data_set(path) == data_set
            path.unlink()


# ---- DCMTK sends to us ---------------------------------------------------------------------------


def test_echoscu_is_answered(receiver: Receiver) -> None:
    output = run("echoscu", "-v", "--repeat", "5", "127.0.0.1", str(receiver.port))
    assert output.count("Received Echo Response (Success)") == 5


def test_echoscu_proposes_128_contexts(receiver: Receiver) -> None:
    run("echoscu", "-ppc", "128", "-pts", "38", "127.0.0.1", str(receiver.port))


@pytest.mark.parametrize("proposal", ["-x=", "-xe", "-xb", "-xi", "-xd", "-R", "+C"])
def test_files_of_storescu_are_stored(receiver: Receiver, tmp_path: Path, proposal: str) -> None:
    # Without -R it proposes all its storage classes, about 128 contexts.
    instances = write_files(tmp_path, 3)
    send(receiver, proposal, "+sd", str(tmp_path))
    assert_same(receiver, instances, tmp_path)


@pytest.mark.parametrize("transfer_syntax", ENCODINGS)
def test_storescu_sends_files_of_every_encoding(
    receiver: Receiver, tmp_path: Path, transfer_syntax: str
) -> None:
    (instance,) = write_files(tmp_path, 1, transfer_syntax)
    send(receiver, "-xd" if transfer_syntax == DEFLATED else "-xe", "+sd", str(tmp_path))
    assert_same(receiver, [instance], tmp_path)


@pytest.mark.parametrize("length", ["4096", "131072"])
def test_storescu_may_use_other_pdu_lengths(
    receiver: Receiver, tmp_path: Path, length: str
) -> None:
    (instance,) = write_files(tmp_path, 1)
    send(receiver, "-pdu", length, "--max-send-pdu", length, "+sd", str(tmp_path))
    assert_same(receiver, [instance], tmp_path)


def test_storescu_may_send_a_user_identity(receiver: Receiver, tmp_path: Path) -> None:
    (instance,) = write_files(tmp_path, 1)
    send(receiver, "-usr", "someone", "-pwd", "secret", "-rsp", "+sd", str(tmp_path))
    assert_same(receiver, [instance], tmp_path)
    assert "secret" not in "\n".join(receiver.lines)


def test_files_of_a_storescu_that_aborts_are_registered(receiver: Receiver, tmp_path: Path) -> None:
    instances = write_files(tmp_path, 2)
    send(receiver, "--abort", "+sd", str(tmp_path))
    assert_same(receiver, instances, tmp_path)
    assert receiver.wait_for_registration(instances[0].series)["ndicom"] == 2


def test_a_repeated_storescu_replaces_files(receiver: Receiver, tmp_path: Path) -> None:
    instances = write_files(tmp_path, 4)
    send(receiver, "--repeat", "3", "+sd", str(tmp_path))
    assert_same(receiver, instances, tmp_path)
    assert receiver.wait_for_registration(instances[0].series)["ndicom"] == 4


def test_files_of_dcmsend_are_stored(receiver: Receiver, tmp_path: Path) -> None:
    instances = write_files(tmp_path, 10)
    output = send(receiver, "-v", "+sd", str(tmp_path), tool="dcmsend")
    assert "with status SUCCESS" in output
    assert_same(receiver, instances, tmp_path)
    assert receiver.wait_for_registration(instances[0].series)["ndicom"] == 10


def test_several_senders_at_once_are_served(receiver: Receiver, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(6)]
    sent = {}
    for folder in folders:
        folder.mkdir()
        sent[folder] = write_files(folder, 5)
    processes = [
        subprocess.Popen(["storescu", "127.0.0.1", str(receiver.port), "+sd", str(folder)])
        for folder in folders
    ]
    assert [process.wait(60) for process in processes] == [0] * len(folders)
    for folder, instances in sent.items():
        assert_same(receiver, instances, folder)
        assert receiver.wait_for_registration(instances[0].series)["ndicom"] == 5
