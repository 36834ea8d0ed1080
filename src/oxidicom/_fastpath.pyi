from collections.abc import Mapping
from typing import Any, final

from oxidicom._dataset import Walker
from oxidicom._pdu import Consumer
from oxidicom._peer_socket import PeerSocket

@final
class Destination:
    """The folder for instances of one association that have the same series-level values.

    `walker` must hold the values of the first of them. `folder` must be a
    store.folders.SeriesFolder that the association has claimed, listed and journaled. `sop_class`
    is the SOP class UID of the instances.
    """

    def __init__(self, walker: Walker, folder: object, sop_class: bytes) -> None: ...

@final
class StoreFastPath(Consumer):
    """Receives and stores the common instances of one association (ports.FastPath).

    All calls must come from one thread. `storage` is a store.storage.Storage and `owner` a
    ports.FastPathOwner. `contexts` has a ports.UsableContext for each presentation context id.
    Responses are sent through `peer_socket`.
    """

    @property
    def begun(self) -> int:
        """Number of instances that began on the fast path, including those handed over later."""

    def __init__(
        self,
        storage: Any,
        association: Any,
        contexts: Mapping[int, Any],
        peer_socket: PeerSocket,
        owner: Any,
    ) -> None: ...
    def close(self) -> None:
        """Discard the instance that is being received, if there is one.

        The framer must not feed this consumer afterwards.
        """
