"""What an `Acceptor` makes of received bytes, in order; `_pdu.Data` passes through as it is."""

from __future__ import annotations

from typing import NamedTuple

from oxidicom._pdu import CommandSet, Pdu, Violation
from oxidicom._pdu import Data as Data
from oxidicom.ports import StoreRequest
from oxidicom.wire.items import AssociateRequest


class Output(NamedTuple):
    """To be sent, in one segment where the network lets it."""

    data: bytes


class Associated(NamedTuple):
    """The association is established; its A-ASSOCIATE-AC came as `Output` before."""

    request: AssociateRequest


class StoreBegan(NamedTuple):
    """`Data` follows, up to one that is `last`."""

    request: StoreRequest


class Ended(NamedTuple):
    """Nothing follows. `last_words` are to be sent, then the connection closes.

    `error` is None for a release. Without last words the peer has closed or waits for nothing.
    """

    error: str | None
    last_words: bytes = b""
    waits: bool = False
    """The peer may still read responses that are due: they go out before (PS3.8 9.2, Sta8)."""


FramerEvent = Pdu | CommandSet | Data | Violation
"""What a framer makes of received bytes, from which an acceptor makes the records above."""

Event = Output | Associated | StoreBegan | Data | Ended
