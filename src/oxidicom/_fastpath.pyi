from collections.abc import Callable, Mapping
from typing import Any, final

from oxidicom._dataset import Walker
from oxidicom._pdu import Consumer, Framer

@final
class Destination:
    """A series' folder as the instances of one association find it; made once `walker` has read
    one of them, whose series-level values those that follow must share.

    `folder` has `series`, `path`, `files`, `placing`, `unregistered` and `stored`
    (store.folders.SeriesFolder); `sop_class` is a UID.
    """

    def __init__(self, walker: Walker, folder: object, sop_class: bytes) -> None: ...

@final
class StoreFastPath(Consumer):
    """The usual instances of one association, all in one thread (ports.FastPath).

    `storage` is a store.storage.Storage, `owner` a ports.FastPathOwner; `contexts` are
    ports.UsableContext by presentation context id.
    """

    fd: int
    """Descriptor of the peer's socket, to which responses go at once; -1: by `owner.send`."""
    direct: bool
    """Nothing waits in the transport. To be cleared when something is written to it."""
    framer: Framer
    """The association's."""
    messages: int
    """Commands taken so far."""

    def __init__(
        self,
        storage: Any,
        association: Any,
        owner: Any,
        contexts: Mapping[int, Any],
        stored_report: Callable[..., object],
    ) -> None: ...
    def flush(self) -> None: ...
    def discard(self) -> None: ...
    def close(self) -> None: ...
