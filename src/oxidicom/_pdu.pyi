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
    """What takes the usual before it becomes an event; compiled ones only (see `_pdu.pxd`)."""

    @property
    def active(self) -> bool:
        """A data set is under way, and comes here."""

FramerEvent = Pdu | CommandSet | Data | Violation

@final
class Framer:
    associated: bool
    max_length: int
    strict: bool
    def __init__(self, max_length: int = 0, strict: bool = False) -> None: ...
    def close(self) -> None: ...
    @property
    def mid_message(self) -> bool: ...
    def feed(
        self, buffer: ReadableBuffer, start: int, stop: int, consumer: Any = None
    ) -> list[FramerEvent]: ...
