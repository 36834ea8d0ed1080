"""Storage of instances, as an association sees it (ports.InstanceStore)."""

from __future__ import annotations

from oxidicom.ports import AssociationContext, SinkOwner, StoreRequest
from oxidicom.store.files import FilesRoot
from oxidicom.store.sink import StorageSink


class Storage(FilesRoot):
    """Begins an instance for each C-STORE-RQ."""

    def begin(
        self, association: AssociationContext, request: StoreRequest, owner: SinkOwner
    ) -> StorageSink:
        return StorageSink(self, association, request, owner)

    def association_ended(self, association_id: str) -> None:
        self.folders.association_ended(association_id)
