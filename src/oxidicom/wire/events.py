"""What an `Acceptor` makes of received bytes, in order; `_pdu.Data` passes through as it is."""

from __future__ import annotations

from typing import NamedTuple

from oxidicom._pdu import Data
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
    """Nothing follows. What is to be sent came as `Output` before; then the connection closes.

    `error` is None for a release. `abrupt`: the peer has closed or waits for nothing.
    """

    error: str | None
    abrupt: bool = False


Event = Output | Associated | StoreBegan | Data | Ended
