"""Storage of instances, as an association sees it (ports.InstanceStore)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from oxidicom._dataset import Walker
from oxidicom._fastpath import Destination, StoreFastPath
from oxidicom._writer import PartFile
from oxidicom.ports import (
    AssociationContext,
    FastPathOwner,
    InstanceStored,
    SinkOwner,
    StoreRequest,
    UsableContext,
)
from oxidicom.store.executors import ignore
from oxidicom.store.files import FilesRoot
from oxidicom.store.identity import read_series
from oxidicom.store.part10 import around_instance
from oxidicom.store.sink import Begun, StorageSink


class Storage(FilesRoot):
    """Begins an instance for each C-STORE-RQ, or lends an association the fast path for it."""

    def begin(
        self, association: AssociationContext, request: StoreRequest, owner: SinkOwner
    ) -> StorageSink:
        return StorageSink(self, association, request, owner)

    def association_ended(self, association_id: str) -> None:
        for key in self.folders.association_ended(association_id):
            # Nobody registers it, and nobody else would remove what the journal may have of it.
            forget = partial(self.journal.remove, key, (association_id,))
            self.executors.choose().run(forget, ignore)

    # ---- the fast path ----------------------------------------------------------------

    def fast_path(
        self,
        association: AssociationContext,
        owner: FastPathOwner,
        contexts: Mapping[int, UsableContext],
    ) -> StoreFastPath:
        return StoreFastPath(self, association, owner, contexts, InstanceStored)

    def adopt(
        self, association: AssociationContext, request: StoreRequest, owner: SinkOwner, begun: Begun
    ) -> StorageSink:
        """Go on with what the fast path has begun."""
        return StorageSink(self, association, request, owner, begun)

    def discard(self, part: PartFile) -> None:
        """On the loop's thread only while storage is quick: of many associations at once, perhaps,
        whose peer has given up because it is slow."""
        self.executors.choose().run(part.discard, ignore)

    def destination(self, walker: Walker, association: AssociationContext) -> Destination | None:
        """Where the instance goes that was read, if the association has stored one of its series
        and nothing is to be decided; else None."""
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

    header_around = staticmethod(around_instance)
