"""Records and Protocols between layers that never import one another.

Times called `at` are seconds of one monotonic clock; times called `wall_ns` and other `…_ns` are
nanoseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from oxidicom.constants import Encoding


class SeriesKey(NamedTuple):
    """The identity of a series over all associations that carry it (decision 28)."""

    pacs_name: str
    series_instance_uid: str


class SeriesInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The attributes of a series, taken from its first stored instance.

    `None` is an absent element, `""` an empty one. Texts are as decoded; they are cut to CUBE's
    limits when a registration is encoded.
    """

    calling_ae_title: str
    """Trimmed but otherwise as received; the LONK subject is made from it."""
    pacs_name: str
    """The calling AE title as it appears in paths."""
    path: str
    """Series folder relative to the files root, `/`-separated: SERVICES/PACS/…"""
    patient_id: str
    study_date: str
    """YYYY-MM-DD, in whatever form it was received."""
    study_instance_uid: str
    series_instance_uid: str
    patient_name: str | None = None
    patient_birth_date: str | None = None
    patient_age: int | None = None
    """Age in days."""
    patient_sex: str | None = None
    accession_number: str | None = None
    modality: str | None = None
    protocol_name: str | None = None
    study_description: str | None = None
    series_description: str | None = None

    @property
    def key(self) -> SeriesKey:
        return SeriesKey(self.pacs_name, self.series_instance_uid)


# ---- data plane → control plane ------------------------------------------------------------


class AssociationBegan(NamedTuple):
    """An association was accepted."""

    association_id: str
    """ULID of the association."""
    peer_address: str
    peer_port: int
    calling_ae_title: str
    called_ae_title: str
    at: float
    wall_ns: int
    worker: int | None = None
    """Number of the receiving process, from 1; None if there is only one."""
    tls: str | None = None
    """TLS version, such as TLSv1.3; None for an unencrypted association."""


class InstanceStored(NamedTuple):
    """An instance was stored: its file has its final name."""

    association_id: str
    series: SeriesInfo
    sop_instance_uid: str
    size: int
    """Size of the data set in bytes."""
    seconds: float
    """Seconds from the last fragment to the file under its final name."""
    at: float


class InstanceRefused(NamedTuple):
    """An instance was answered with a failure status."""

    association_id: str
    calling_ae_title: str
    pacs_name: str
    series_instance_uid: str | None
    status: int
    """DIMSE status of the response."""
    error: str
    """Text for LONK, without patient data."""
    at: float


class AssociationEnded(NamedTuple):
    """An association ended. Connections without an accepted association are not reported."""

    association_id: str
    error: str | None
    """How it ended; None for a release."""
    bytes_received: int
    at: float
    wall_ns: int


Report = AssociationBegan | InstanceStored | InstanceRefused | AssociationEnded


class Reports(Protocol):
    """The channel from the data plane to the control plane. It never blocks and never raises."""

    def __call__(self, report: Report) -> None: ...


# ---- control plane ---------------------------------------------------------------------------


class SeriesProgress(NamedTuple):
    """A further distinct instance of a series was stored."""

    series: SeriesInfo
    received: int
    """Distinct instances stored in this session of the series; it never decreases."""
    first: bool


class SeriesFailed(NamedTuple):
    """An instance of a series was refused; the UID of the series may be unknown."""

    calling_ae_title: str
    series_instance_uid: str | None
    error: str


class SeriesCompleted(NamedTuple):
    """A series is complete: its associations have ended and the settle time has passed."""

    series: SeriesInfo
    received: int
    associations: tuple[str, ...]
    """Associations that carried the series, recovered ones included; their journal entries are
    removed once it is in the outbox."""
    attempted: int = 0
    """Instances received in this session, repeated and refused ones included."""
    expected: int | None = None
    """Number of instances that the PACS holds; None if unknown."""


Notice = SeriesProgress | SeriesFailed | SeriesCompleted


class OpenSeries(NamedTuple):
    """A series that is not complete, for the status page."""

    series: SeriesInfo
    received: int
    """Distinct instances."""
    associations: int
    """Open associations that have carried the series; 0 while it settles."""
    expected: int | None = None
    """Number of instances that the PACS holds; None if unknown."""
    began: float = 0.0
    touched: float = 0.0
    """Time of the last change."""


class CountQueryResult(NamedTuple):
    """The result of a count query: how many instances of a series the PACS holds (C-FIND)."""

    series: SeriesInfo
    association_id: str
    """ULID of the first association that carried the series since it was opened."""
    pacs_address: str
    """host:port"""
    called_ae_title: str
    calling_ae_title: str
    """AE title of this receiver."""
    expected: int | None
    """Number of instances; None if the PACS did not answer."""
    status: int | None
    """Status of the last C-FIND response; None if there was none."""
    error: str | None
    """What failed, perhaps after the count was received; no patient data."""
    asked_ns: int
    """When the query was queued."""
    began_ns: int | None
    """When the query was started; None if it was not."""
    ended_ns: int


class Registration(msgspec.Struct, frozen=True):
    """The registration of one complete series with CUBE, as the outbox keeps it."""

    series: SeriesInfo
    ndicom: int
    attempted: int = 0
    expected: int | None = None
    association_id: str | None = None
    """The first association that carried the series."""
    traceparent: str | None = None
    """Identifies the registration's span (W3C Trace Context) to CUBE; None without tracing."""


# ---- net ↔ store ---------------------------------------------------------------------------


class AssociationContext(NamedTuple):
    """The attributes of an association that the store uses."""

    association_id: str
    calling_ae_title: str


class StoreRequest(NamedTuple):
    """A C-STORE-RQ (PS3.7 9.3.1.1) whose data set follows."""

    context_id: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    encoding: Encoding


class StoreOutcome(NamedTuple):
    """The result of one C-STORE; status 0 is Success (PS3.4 B.2.3)."""

    request: StoreRequest
    status: int
    comment: str | None = None
    offending: int | None = None
    """Tag of the offending element, gggg << 16 | eeee."""


class SinkOwner(Protocol):
    """The association that feeds a sink. Its methods are called on the loop's thread, perhaps from
    within a call to the sink."""

    def instance_done(self, outcome: StoreOutcome) -> None: ...

    def buffer_released(self, buffer: bytearray) -> None:
        """Take back a buffer that `flush` or `finish` kept: it may be reused."""


class InstanceSink(Protocol):
    """Receives the fragments of one instance.

    `feed` is called any number of times, with a `flush` before each reuse of the buffer, then
    `finish` or `discard` once, and nothing after that. No data set makes a method raise.
    """

    def feed(self, buffer: bytearray, start: int, stop: int) -> None:
        """Take bytes [start, stop) of `buffer`, the next fragment; valid until `flush`."""

    def flush(self, buffer: bytearray) -> bool:
        """Finish with the fragments in `buffer`; return True if it may be reused now.

        False means that the sink keeps it until it calls `SinkOwner.buffer_released`.
        """

    def finish(self, buffer: bytearray) -> bool:
        """End the instance, whose last fragment was fed; `instance_done` follows.

        Returns as `flush` does.
        """

    def discard(self) -> None:
        """Remove an instance that will never be complete; no outcome follows."""


class UsableContext(Protocol):
    """The attributes of a presentation context that the store uses."""

    @property
    def transfer_syntax(self) -> str: ...
    @property
    def encoding(self) -> Encoding: ...


class HandOver(NamedTuple):
    """An instance that the fast path has begun and the general path continues."""

    request: StoreRequest
    received: Any
    """The store's state of the instance so far, to be passed to `InstanceStore.begin`."""
    complete: bool
    """The last fragment was received."""


class FastPathOwner(SinkOwner, Protocol):
    """The association whose common instances a fast path takes."""

    def on_hand_over(self, hand_over: HandOver) -> None:
        """Continue an instance in a sink; may close the fast path."""


class FastPath(Protocol):
    """Takes the common instances of an association from its framer (`_pdu.Consumer`), stores and
    answers them. An instance that turns out not to be common is handed to the general path."""

    def close(self) -> None:
        """Discard the instance under way, if there is one; the association has ended."""


class InstanceStore(Protocol):
    def fast_path(
        self,
        association: AssociationContext,
        contexts: Mapping[int, UsableContext],
        peer_socket: Any,
        owner: FastPathOwner,
    ) -> FastPath | None:
        """Return a fast path to attach to the association's framer, or None.

        `contexts` are by presentation context id; responses go to `peer_socket`, a
        `_peer_socket.PeerSocket`.
        """

    def begin(
        self,
        association: AssociationContext,
        request: StoreRequest,
        owner: SinkOwner,
        received: Any = None,
    ) -> InstanceSink:
        """Return a sink for a new instance, or for the rest of one that was handed over."""

    def association_ended(self, association_id: str) -> None: ...


class FolderNames(Protocol):
    """Agreement on the folder of a series between several receiving processes."""

    def claim(self, series: SeriesInfo) -> SeriesInfo:
        """Claim the folder of a series and return the attributes to use: `series`, or those with
        which another process claimed the series before."""

    def release(self, key: SeriesKey) -> None:
        """Give up the last claim of a series."""


class SeriesFiles(Protocol):
    """The files in series folders. Paths are relative to the files root; calls block."""

    def names(self, path: str) -> list[str]:
        """Return the sorted names of the files in a folder, none if it does not exist. Raises
        OSError."""

    def put_empty(self, path: str, name: str) -> None:
        """Make sure that the empty file `name` exists in the folder `path`. Raises OSError."""


class SeriesJournal(Protocol):
    """Crash recovery: a series has an entry on disk before its first Success is sent."""

    def enter(self, association_id: str, series: SeriesInfo) -> None:
        """Write an entry, and return once it is on disk. Raises OSError."""

    def remove(self, key: SeriesKey, associations: Iterable[str]) -> None:
        """Remove the entries of these associations, if they exist. Raises OSError."""
