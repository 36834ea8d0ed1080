"""Storage as an association uses it; implements ports.InstanceStore."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from oxidicom._dataset import Walker
from oxidicom._fastpath import Destination, StoreFastPath
from oxidicom._peer_socket import PeerSocket
from oxidicom._writer import PartFile
from oxidicom.ports import (
    AssociationContext,
    FastPathOwner,
    SinkOwner,
    StoreRequest,
    UsableContext,
)
from oxidicom.store.executors import ignore
from oxidicom.store.files import FilesRoot
from oxidicom.store.identity import read_series
from oxidicom.store.part10 import header_template
from oxidicom.store.sink import Received, StorageSink


class Storage(FilesRoot):
    """Stores the instances of associations, each through a sink or on the fast path."""

    def begin(
        self,
        association: AssociationContext,
        request: StoreRequest,
        owner: SinkOwner,
        received: Received | None = None,
    ) -> StorageSink:
        return StorageSink(self, association, request, owner, received)

    def association_ended(self, association_id: str) -> None:
        for key in self.folders.association_ended(association_id):
            # The series is never registered, so its journal entry, if any, is removed here.
            forget = partial(self.journal.remove, key, (association_id,))
            self.executors.choose().run(forget, ignore)

    # ---- the fast path -------------------------------------------------------------------

    def fast_path(
        self,
        association: AssociationContext,
        contexts: Mapping[int, UsableContext],
        peer_socket: PeerSocket,
        owner: FastPathOwner,
    ) -> StoreFastPath | None:
        return StoreFastPath(self, association, contexts, peer_socket, owner)

    def discard(self, part: PartFile) -> None:
        """Remove a part file, through the executor that the policy selects now.

        Many associations may end at once because their peer has given up on slow storage: removing
        all their files on the loop's thread would block it.
        """
        self.executors.choose().run(part.discard, ignore)

    def destination(self, walker: Walker, association: AssociationContext) -> Destination | None:
        """Return the folder for the instance that `walker` has read; None for the general path.

        It is None unless the series has a stored instance, this association has claimed and
        journaled its folder, the files in it are listed, and the path is that of the instance.
        """
        names = read_series(walker, association.calling_ae_title)
        if names.series is None or not names.instance_is_text:
            return None
        folder = self.folders.find(names.series.key)
        if (
            folder is None
            or not folder.stored
            or not folder.listed
            or association.association_id not in folder.associations
            or association.association_id not in folder.journaled
            or folder.series.path != names.series.path
        ):
            return None
        return Destination(walker, folder, names.sop_class_uid.encode())

    header_template = staticmethod(header_template)
