from typing import Any, final

from _typeshed import ReadableBuffer

@final
class Pdu:
    type: int
    body: bytes
    def __init__(self, type: int, body: bytes) -> None: ...

@final
class CommandSet:
    context_id: int
    data: bytes
    def __init__(self, context_id: int, data: bytes) -> None: ...

@final
class Data:
    context_id: int
    start: int
    stop: int
    last: bool
    def __init__(self, context_id: int, start: int, stop: int, last: bool) -> None: ...

@final
class Violation:
    reason: int
    text: str
    def __init__(self, reason: int, text: str) -> None: ...

class Consumer:
    """Takes common messages before they become events; only compiled ones (see `_pdu.pxd`)."""

    @property
    def active(self) -> bool:
        """Whether a data set is under way whose fragments this consumer receives."""

FramerEvent = Pdu | CommandSet | Data | Violation

@final
class Framer:
    associated: bool
    max_length: int
    strict: bool
    def __init__(self, max_length: int = 0, strict: bool = False) -> None: ...
    offering: bool
    """Whether messages are offered to the consumer first. The framer clears this when it returns
    events; the acceptor sets it once they are handled, unless one of them began a message that is
    not complete."""

    @property
    def commands(self) -> int:
        """Number of command sets received; it differs from one message to the next."""

    def close(self) -> None: ...
    def attach(self, consumer: Any) -> None: ...
    @property
    def consuming(self) -> bool:
        """Whether a data set is under way that the consumer takes."""

    @property
    def mid_message(self) -> bool: ...
    def feed(self, buffer: ReadableBuffer, start: int, stop: int) -> list[FramerEvent]: ...
