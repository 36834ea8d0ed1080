"""An association that we request, by pynetdicom: it has one time limit and a share of memory.

Left to itself, pynetdicom waits for ever for the rest of a PDU, takes one of any length, polls each
connection a thousand times a second, by select(), which knows no handle beyond 1023, and keeps the
process from exiting.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from pynetdicom import AE, _config
from pynetdicom.transport import AssociationSocket

from oxidicom.constants import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from oxidicom.errors import OxidicomError
from oxidicom.logevents import describe
from oxidicom.settings.addresses import PacsAddress

MAX_BYTES: Final = 32 * 1024 * 1024
"""Received in one association. A match takes some hundred bytes."""

_PARTING: Final = 1.0
"""Seconds for the PACS to answer A-RELEASE-RQ, or to take an A-ABORT."""

_POLL_MS: Final = 10
"""For which what we send may wait; what comes is seen at once."""

# What it would say of each PDU, and quote of each identifier, nobody is to read.
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
for library in ("pynetdicom", "pydicom"):
    logging.getLogger(library).setLevel(logging.CRITICAL + 1)


class NoAnswer(OxidicomError):
    """The PACS, or the way to it, is at fault; the text says how, without patient data."""


class Requested:
    """An established association; `pynetdicom` is the library's own."""

    def __init__(self, requestor: _Requestor, association: Any) -> None:
        self._requestor = requestor
        self.pynetdicom = association

    def wait_no_longer(self) -> None:
        """Before each response: the next one may take what is left of the time."""
        remaining = self._requestor.line.deadline - time.monotonic()
        self.pynetdicom.dimse_timeout = max(0.001, remaining)

    def lost(self) -> NoAnswer:
        """Why a response did not come."""
        return NoAnswer(self._requestor.line.trouble() or "no valid response")


@contextlib.contextmanager
def associated(
    address: PacsAddress, calling_ae_title: str, sop_class: str, within: float
) -> Iterator[Requested]:
    """With the PACS, for one SOP class, for `within` seconds at most; then released, or aborted
    after an exception.

    Raises NoAnswer. Only the look-up of the host's name may take longer: nothing ends it.
    """
    requestor = _Requestor(time.monotonic() + within)
    requestor.ae_title = calling_ae_title
    requestor.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    requestor.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    requestor.add_requested_context(
        sop_class, [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
    )
    association = None
    try:
        try:
            association = requestor.associate(address.host, address.port, ae_title=address.ae_title)
        except OSError as error:
            raise NoAnswer(describe(error)) from error
        if not association.is_established:
            raise NoAnswer(_refusal(association) or requestor.line.trouble() or "no association")
        yield Requested(requestor, association)
        requestor.hurry()
        association.release()
    finally:
        if association is not None and association.is_established:
            requestor.hurry()
            association.abort()
        requestor.close()


def _refusal(association: Any) -> str | None:
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = f"{answer.result}/{answer.result_source}/{answer.diagnostic}"
        return f"association rejected ({reason})"
    if association.rejected_contexts:
        return "the PACS does not offer this service"
    return None


class _Line(socket.socket):
    """A TCP connection whose every operation ends at `deadline`; remembers what went wrong."""

    def __init__(self, family: socket.AddressFamily, deadline: float) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self.deadline = deadline
        self._left = MAX_BYTES
        self._trouble: str | None = None

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self.deadline

    def trouble(self) -> str | None:
        if self._trouble is None and self.expired:
            return "no answer in time"
        return self._trouble

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            remaining = self.deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            self.settimeout(remaining)
            yield
        except TimeoutError:
            self.note("no answer in time")
            raise
        except OSError as error:
            self.note(describe(error))
            raise

    def note(self, trouble: str) -> None:
        """The first is the cause, the others its effects."""
        self._trouble = self._trouble or trouble

    def connect(self, address: Any) -> None:
        with self._watched():
            super().connect(address)

    def recv(self, size: int, flags: int = 0) -> bytes:
        with self._watched():
            data = super().recv(size, flags)
        if not data:
            self.note("the PACS closed the connection")
        self._left -= len(data)
        if self._left < 0:
            self.note("too much data")
            raise ConnectionAbortedError
        return data

    def send(self, data: Any, flags: int = 0) -> int:
        with self._watched():
            return super().send(data, flags)


class _Socket(AssociationSocket):  # type: ignore[misc]
    def __init__(self, association: Any, address: Any, deadline: float) -> None:
        self._deadline = deadline
        super().__init__(association, address=address)

    def _create_socket(self, address: Any) -> _Line:
        """`address` is the local one, of the remote one's family."""
        self._is_connected = False
        family = socket.AF_INET if address.is_ipv4 else socket.AF_INET6
        self.line = _Line(family, self._deadline)
        return self.line

    @property
    def ready(self) -> bool:
        """Whether there is something to read, or will be in a moment."""
        if self.socket is None or not self._is_connected:
            return False
        poll = select.poll()
        try:
            poll.register(self.line.fileno(), select.POLLIN)
            if poll.poll(_POLL_MS):
                return True
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # transport connection closed
            return False
        if self.line.expired:
            self.close()
        return False

    def close(self) -> None:
        super().close()
        # After a PDU that is none, nobody else tells the one who waits for a response.
        self.assoc.dimse.msg_queue.put((None, None))


class _Requestor(AE):  # type: ignore[misc]
    """Associates once."""

    def __init__(self, deadline: float) -> None:
        super().__init__()
        # pynetdicom yields a match that it cannot decode with the lock held, which setting a time
        # limit takes.
        self._lock = threading.RLock()
        self._deadline = deadline
        self._socket: _Socket | None = None

    @property
    def line(self) -> _Line:
        assert self._socket is not None, "not before it has associated"
        return self._socket.line

    def _create_socket(self, assoc: Any, address: Any, tls_args: Any) -> _Socket:
        """The one moment at which the association exists and its threads do not run yet."""
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        assoc.dul.daemon = True
        assoc.acse_timeout = remaining
        assoc.connection_timeout = remaining
        assoc.dimse_timeout = remaining
        assoc.network_timeout = None  # it would abort what the line's own limit ends
        self._socket = sock = _Socket(assoc, address, self._deadline)
        reactor = assoc.dul.run

        def run() -> None:
            try:
                reactor()
            except Exception:  # of a command set that is none, mostly
                sock.line.note("no valid response")
                sock.close()

        assoc.dul.run = run
        return sock

    def hurry(self) -> None:
        """All is said."""
        self.line.deadline = min(self.line.deadline, time.monotonic() + _PARTING)

    def close(self) -> None:
        """pynetdicom leaves a socket open that never was connected."""
        if self._socket is not None:
            self._socket.line.close()
