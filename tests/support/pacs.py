"""PACS to query: a scripted one, which controls every byte, and DCMTK's archive."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.brokers import find_program
from tests.support.data import Element as DataElement
from tests.support.data import encode, padded
from tests.support.ports import free_port
from tests.support.raw_peer import (
    AC,
    APPLICATION_CONTEXT,
    EXPLICIT,
    P_DATA_TF,
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    RQ,
    RawPeer,
    command_set,
    fragments,
    item,
    items,
    number,
    p_data,
    parse_command_set,
    pdu,
    uid,
)
from tests.support.receiver import wait_until

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
C_FIND_RQ, C_FIND_RSP = 0x0020, 0x8020
PENDING, PENDING_WITH_WARNING, SUCCESS = 0xFF00, 0xFF01, 0x0000
STUDY_UID, SERIES_UID, COUNT = 0x0020000D, 0x0020000E, 0x00201209


class Request(NamedTuple):
    """The parts of an A-ASSOCIATE-RQ that tests compare."""

    called: str
    calling: str
    contexts: dict[int, tuple[str, list[str]]]
    """Abstract syntax and transfer syntaxes by presentation context id."""


class PacsSide(RawPeer):
    """The PACS' side of one accepted connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.transfer_syntax = EXPLICIT

    def request(self) -> Request:
        body = self.expect(RQ)
        contexts = {}
        for kind, value in items(body[68:]):
            if kind == 0x20:
                syntaxes = [syntax.decode() for _, syntax in items(value[4:])]
                contexts[value[0]] = (syntaxes[0], syntaxes[1:])
        called, calling = (body[start : start + 16].decode().strip() for start in (4, 20))
        return Request(called, calling, contexts)

    def accept(
        self, transfer_syntax: str = EXPLICIT, result: int = 0, max_length: int = 16384
    ) -> Request:
        """Read and accept a request; `result` is that of its one context (PS3.8 table 9-18)."""
        request = self.request()
        self.transfer_syntax = transfer_syntax
        context = struct.pack(">BxBx", 1, result) + item(0x40, transfer_syntax.encode())
        user = item(0x51, struct.pack(">I", max_length)) + item(
            0x52, b"1.2.826.0.1.3680043.8.498.9"
        )
        body = struct.pack(">H2x64x", 1) + item(0x10, APPLICATION_CONTEXT.encode())
        self.send(pdu(AC, body + item(0x21, context) + item(0x50, user)))
        return request

    def reject(self) -> None:
        self.request()
        self.send(pdu(RJ, bytes((0, 1, 1, 7))))

    def question(self) -> bytes:
        """Read a C-FIND-RQ and return its identifier."""
        received = {True: b"", False: b""}
        while True:
            body = self.expect(P_DATA_TF)
            while body:
                length, _, header = struct.unpack_from(">IBB", body)
                received[bool(header & 1)] += body[6 : 4 + length]
                body = body[4 + length :]
                if header == 0b10:
                    command = parse_command_set(received[True])
                    assert command[0x0100] == number(C_FIND_RQ)
                    assert command[0x0002].rstrip(b"\0") == STUDY_ROOT_FIND.encode()
                    return received[False]

    def respond(self, status: int, identifier: bytes | None = None) -> None:
        self.send(find_response(status, identifier))

    def match(self, series: str, count: bytes | None) -> None:
        self.respond(PENDING, self.identifier(series, count))

    def identifier(self, series: str, count: bytes | None) -> bytes:
        elements: list[DataElement] = [
            (0x00080052, "CS", b"SERIES"),
            (STUDY_UID, "UI", padded("UI", f"{series}.0".encode())),
            (SERIES_UID, "UI", padded("UI", series.encode())),
        ]
        if count is not None:
            elements.append((COUNT, "IS", padded("IS", count)))
        return encode(elements, self.transfer_syntax)

    def finish(self) -> None:
        self.respond(SUCCESS)
        self.released()

    def idle(self, seconds: float) -> None:
        """Pause; raises OSError as soon as the connection ends."""
        self.socket.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            if not self.socket.recv(65536):
                raise ConnectionResetError

    def released(self) -> None:
        self.expect(RELEASE_RQ)
        self.send(pdu(RELEASE_RP, bytes(4)))


def answering(count: int) -> Script:
    """Return the script of a PACS that has `count` instances of every series."""

    def script(pacs: PacsSide) -> None:
        pacs.accept()
        uid = pacs.question().rpartition(b"UI")[2][2:].partition(b" ")[0]
        pacs.match(uid.rstrip(b"\0").decode(), str(count).encode())
        pacs.finish()

    return script


def find_command(status: int, identifier: bytes | None) -> bytes:
    """Return the command set of a C-FIND-RSP."""
    return command_set(
        (0x0002, uid(STUDY_ROOT_FIND)),
        (0x0100, number(C_FIND_RSP)),
        (0x0120, number(1)),
        (0x0800, number(0x0101 if identifier is None else 1)),
        (0x0900, number(status)),
    )


def find_response(status: int, identifier: bytes | None) -> bytes:
    command = find_command(status, identifier)
    pdvs = [*fragments(1, command, command=True, size=8192)]
    if identifier is not None:
        pdvs += fragments(1, identifier, command=False, size=8192)
    return b"".join(map(p_data, pdvs))


Script = Callable[[PacsSide], None]


class ScriptedPacs:
    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0
        self.faults: list[BaseException] = []
        """Errors of scripts, without those of connections that the test has closed."""


@contextlib.contextmanager
def scripted_pacs(script: Script) -> Iterator[ScriptedPacs]:
    """Run a PACS that runs `script` for each connection in turn and closes them at the end."""
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            held.append(connection)
            connection.settimeout(10)
            pacs.connections += 1
            try:
                script(PacsSide(connection))
            except (OSError, EOFError):
                continue
            except BaseException as fault:
                pacs.faults.append(fault)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        pacs = ScriptedPacs(listener.getsockname()[1])
        thread = threading.Thread(target=serve, name="scripted PACS")
        thread.start()
        try:
            yield pacs
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in held:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            thread.join(20)
            for connection in held:
                connection.close()
    assert pacs.faults == []


DCMQRSCP = find_program("dcmqrscp")


@contextlib.contextmanager
def dcmqrscp(folder: Path) -> Iterator[int]:
    """Run DCMTK's archive, empty, as `QRSCP`; yield its port. Every peer may store and query."""
    assert DCMQRSCP is not None
    port = free_port()
    storage = folder / "archive"
    storage.mkdir(parents=True)
    configuration = folder / "dcmqrscp.cfg"
    configuration.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nQRSCP {storage} RW (200, 1024mb) ANY\nAETable END\n"
    )
    with (folder / "dcmqrscp.log").open("wb") as log:
        process = subprocess.Popen([DCMQRSCP, "-c", str(configuration)], stdout=log, stderr=log)

    def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        wait_until(listens, "dcmqrscp to listen")
        yield port
    finally:
        process.terminate()
        process.wait(20)
