from collections.abc import Mapping
from typing import Any, final

from oxidicom._dataset import Walker
from oxidicom._pdu import Consumer
from oxidicom._peer_socket import PeerSocket

@final
class Destination:
    """The folder of a series as the instances of one association find it.

    `walker` has just read the first of them; those that follow must have the same series-level
    values. `folder` has `series`, `path`, `files`, `placing`, `unregistered`, `stored` and `sync`
    (store.folders.SeriesFolder); `sop_class` is a UID.
    """

    def __init__(self, walker: Walker, folder: object, sop_class: bytes) -> None: ...

@final
class StoreFastPath(Consumer):
    """The common instances of one association, all on one thread (ports.FastPath).

    `storage` is a store.storage.Storage, `owner` a ports.FastPathOwner; `contexts` are
    ports.UsableContext by presentation context id; responses go to `peer_socket`.
    """

    @property
    def begun(self) -> int:
        """Number of instances that began on the fast path, those handed over later included."""

    def __init__(
        self,
        storage: Any,
        association: Any,
        contexts: Mapping[int, Any],
        peer_socket: PeerSocket,
        owner: Any,
    ) -> None: ...
    def close(self) -> None: ...
