"""A store without files (ports.InstanceStore) that checks the order of calls."""

from __future__ import annotations

from collections.abc import Callable

from oxidicom.constants import DimseStatus
from oxidicom.ports import AssociationContext, SinkOwner, StoreOutcome, StoreRequest


class Sink:
    """A sink that holds its data.

    `keeps`: buffers are kept until the test releases them. `late`: the outcome follows when the
    test calls `done`.
    """

    def __init__(self, request: StoreRequest, owner: SinkOwner, *, keeps: bool, late: bool) -> None:
        self.request = request
        self.owner = owner
        self.keeps = keeps
        self.late = late
        self.data = b""
        self.kept: list[bytearray] = []
        self.finished = False
        self.discarded = False
        self.changed: Callable[[], None] = lambda: None
        self._fed = False

    def feed(self, buffer: bytearray, start: int, stop: int) -> None:
        assert not self.finished
        assert not self.discarded
        assert start < stop
        self.data += buffer[start:stop]
        self._fed = True

    def flush(self, buffer: bytearray) -> bool:
        assert not self.finished
        assert not self.discarded
        kept = self.keeps and self._fed
        self._fed = False
        if kept:
            self.kept.append(buffer)
        return not kept

    def finish(self, buffer: bytearray) -> bool:
        free = self.flush(buffer)
        self.finished = True
        self.changed()
        if not self.late:
            self.done()
        return free

    def discard(self) -> None:
        assert not self.finished
        assert not self.discarded
        self.discarded = True

    def done(self) -> None:
        self.owner.instance_done(StoreOutcome(self.request, DimseStatus.SUCCESS))

    def release(self) -> None:
        self.owner.buffer_released(self.kept.pop(0))


class Store:
    def __init__(self) -> None:
        self.sinks: list[Sink] = []
        self.ended: list[str] = []
        self.keeps = False
        self.late = False
        self.make: Callable[..., Sink] = Sink
        self.changed: Callable[[], None] = lambda: None
        """Called when a sink is finished."""

    def fast_path(self, *arguments: object) -> None:
        """Every instance takes the general path."""

    def begin(
        self,
        association: AssociationContext,
        request: StoreRequest,
        owner: SinkOwner,
        received: object = None,
    ) -> Sink:
        assert received is None
        assert association.calling_ae_title == "RAWPEER"
        sink = self.make(request, owner, keeps=self.keeps, late=self.late)
        sink.changed = self.changed
        self.sinks.append(sink)
        return sink

    def association_ended(self, association_id: str) -> None:
        self.ended.append(association_id)
