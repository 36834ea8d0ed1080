"""The events of an `Acceptor`. `Data` events of its framer are passed on unchanged."""

from __future__ import annotations

from typing import NamedTuple

from oxidicom._pdu import CommandSet, Pdu, Violation
from oxidicom._pdu import Data as Data
from oxidicom.ports import StoreRequest
from oxidicom.wire.items import AssociateRequest


class Output(NamedTuple):
    """Bytes that must be sent, in one TCP segment if possible."""

    data: bytes


class Associated(NamedTuple):
    """The association is established; the `Output` before this event is its A-ASSOCIATE-AC."""

    request: AssociateRequest


class StoreBegan(NamedTuple):
    """A C-STORE-RQ has arrived. `Data` events follow; the final one has `last` set."""

    request: StoreRequest


class Ended(NamedTuple):
    """The association has ended; no further event follows.

    `last_pdu` is sent if it is not empty, and then the connection is closed. It is empty if the
    peer has closed its side or expects no PDU. `error` says why the association ended; it is None
    for a release.
    """

    error: str | None
    last_pdu: bytes = b""
    waits: bool = False
    """Whether responses that are due are sent first: the peer may still read (PS3.8 9.2, Sta8)."""


FramerEvent = Pdu | CommandSet | Data | Violation
"""The events of a framer, from which an acceptor makes its own."""

Event = Output | Associated | StoreBegan | Data | Ended
