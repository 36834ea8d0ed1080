from typing import Any, final

from _typeshed import ReadableBuffer

@final
class Pdu:
    """A whole PDU other than P-DATA-TF. `body` has all bytes after its 6-byte header."""

    type: int
    body: bytes
    def __init__(self, type: int, body: bytes) -> None: ...

@final
class CommandSet:
    """A whole command set (PS3.7 6.3), joined from its fragments."""

    context_id: int
    data: bytes
    def __init__(self, context_id: int, data: bytes) -> None: ...

@final
class Data:
    """A fragment of a data set: bytes [start, stop) of the buffer passed to `feed`.

    `last` is True for the fragment that ends the data set.
    """

    context_id: int
    start: int
    stop: int
    last: bool
    def __init__(self, context_id: int, start: int, stop: int, last: bool) -> None: ...

@final
class Violation:
    """A violation of the protocol by the peer, after which the framer returns no events.

    `reason` is the reason for an A-ABORT (PS3.8 table 9-26); `text` describes the violation.
    """

    reason: int
    text: str
    def __init__(self, reason: int, text: str) -> None: ...

class Consumer:
    """Takes messages before they become events. Only a compiled class can override its methods."""

    @property
    def active(self) -> bool:
        """Whether a data set has begun whose fragments this consumer takes."""

FramerEvent = Pdu | CommandSet | Data | Violation

@final
class Framer:
    """Makes events of the bytes received on one connection.

    `max_length` is the P-DATA-TF length that we advertised, in bytes; 0 is unlimited. A longer PDU
    is a violation only if `strict` is True (decision 14).
    """

    associated: bool
    """Whether an earlier feed had an A-ASSOCIATE-RQ, so that P-DATA-TF may follow."""

    max_length: int
    strict: bool
    def __init__(self, max_length: int = 0, strict: bool = False) -> None: ...
    offering: bool
    """Whether messages are offered to the consumer before they become events. The framer sets this
    to False when it returns events. The acceptor sets it to True once they are handled, unless one
    of them began a message that is not complete."""

    @property
    def commands(self) -> int:
        """Number of command sets received, including those that the consumer took."""

    def close(self) -> None:
        """Ignore all further bytes, and detach the consumer."""

    def attach(self, consumer: Any) -> None:
        """Offer messages to `consumer` from now on. Does nothing after `close` or a violation."""

    @property
    def consuming(self) -> bool:
        """Whether the consumer has taken a command set whose data set has not ended yet."""

    @property
    def mid_message(self) -> bool:
        """Whether a PDU, a command set or a data set taken by the consumer is incomplete."""

    def feed(self, buffer: ReadableBuffer, start: int, stop: int) -> list[FramerEvent]:
        """Return the events that bytes [start, stop) of `buffer` complete, in order of arrival.

        Messages that the consumer takes make no events. Once there are events, nothing is offered
        to the consumer until `offering` is set again. Raises ValueError if the range is not inside
        the buffer; exceptions of the consumer propagate.
        """
