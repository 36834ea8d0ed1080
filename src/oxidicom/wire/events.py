"""The events of an `Acceptor`, in order of arrival; `_pdu.Data` passes through unchanged."""

from __future__ import annotations

from typing import NamedTuple

from oxidicom._pdu import CommandSet, Pdu, Violation
from oxidicom._pdu import Data as Data
from oxidicom.ports import StoreRequest
from oxidicom.wire.items import AssociateRequest


class Output(NamedTuple):
    """Bytes to be sent, in one segment where the network lets it."""

    data: bytes


class Associated(NamedTuple):
    """The association is established; its A-ASSOCIATE-AC came as `Output` before."""

    request: AssociateRequest


class StoreBegan(NamedTuple):
    """A C-STORE-RQ has come; `Data` events follow, up to one that is `last`."""

    request: StoreRequest


class Ended(NamedTuple):
    """The association has ended: no event follows.

    `last_pdu` is to be sent, unless it is empty, then the connection closes.

    `error` is None for a release. Where `last_pdu` is empty, the peer has
    closed or expects nothing.
    """

    error: str | None
    last_pdu: bytes = b""
    waits: bool = False
    """Responses that are due are sent first, since the peer may still read (PS3.8 9.2, Sta8)."""


FramerEvent = Pdu | CommandSet | Data | Violation
"""The events of a framer, from which an acceptor makes the ones above."""

Event = Output | Associated | StoreBegan | Data | Ended
