"""Records and Protocols between layers that never import one another.

Fields `at` are times of one monotonic clock, in seconds. Fields `wall_ns` and others that end in
`_ns` are times in nanoseconds since the epoch.
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

    `None` means that the element is absent, `""` that it is empty. The texts are complete; they are
    cut to CUBE's limits when a registration is encoded.
    """

    calling_ae_title: str
    """Calling AE title as received, without surrounding spaces. LONK subjects contain it."""
    pacs_name: str
    """The calling AE title as it appears in paths."""
    path: str
    """Series folder relative to the files root, `/`-separated: SERVICES/PACS/…"""
    patient_id: str
    study_date: str
    """Study date, converted to YYYY-MM-DD."""
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
    """Report that an association was accepted."""

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
    """Report that an instance was stored: its file has its final name."""

    association_id: str
    series: SeriesInfo
    sop_instance_uid: str
    size: int
    """Size of the data set in bytes."""
    seconds: float
    """Seconds from the last fragment to the file under its final name."""
    at: float


class InstanceRefused(NamedTuple):
    """Report that an instance was refused: its response has a failure status."""

    association_id: str
    calling_ae_title: str
    pacs_name: str
    series_instance_uid: str | None
    """None if it could not be read."""
    status: int
    """DIMSE status of the response."""
    error: str
    """Error text for LONK, without patient data."""
    at: float


class AssociationEnded(NamedTuple):
    """Report that an accepted association ended."""

    association_id: str
    error: str | None
    """Why it ended; None if the peer released it."""
    bytes_received: int
    """Bytes received over the connection, PDU headers included; without the overhead of TLS."""
    at: float
    wall_ns: int


Report = AssociationBegan | InstanceStored | InstanceRefused | AssociationEnded


class Reports(Protocol):
    """The channel from the data plane to the control plane. A call never blocks or raises."""

    def __call__(self, report: Report) -> None: ...


# ---- control plane ---------------------------------------------------------------------------


class SeriesProgress(NamedTuple):
    """Notice that the number of distinct stored instances of a series has increased."""

    series: SeriesInfo
    received: int
    """Distinct instances stored in this session of the series; it never decreases."""
    first: bool
    """Whether this is the first instance of the session."""


class SeriesFailed(NamedTuple):
    """Notice that an instance was refused."""

    calling_ae_title: str
    series_instance_uid: str | None
    """None if it could not be read."""
    error: str
    """Error text for LONK, without patient data."""


class SeriesCompleted(NamedTuple):
    """Notice that a series is complete: its associations have ended and the settle time has passed,
    or the receiver is shutting down."""

    series: SeriesInfo
    received: int
    """Distinct instances stored in this session of the series."""
    associations: tuple[str, ...]
    """ULIDs of the associations that carried the series, including those from the journal of an
    earlier run. Their journal entries are removed once the registration is in the outbox."""
    attempted: int = 0
    """Instances received in this session, including repeated and refused ones."""
    expected: int | None = None
    """Number of instances that the PACS holds; None if unknown."""


Notice = SeriesProgress | SeriesFailed | SeriesCompleted


class OpenSeries(NamedTuple):
    """A series that is not complete yet, as `/status` shows it."""

    series: SeriesInfo
    received: int
    """Distinct instances stored in this session of the series."""
    associations: int
    """Open associations that have carried the series; 0 while it settles."""
    expected: int | None = None
    """Number of instances that the PACS holds; None if unknown."""
    began: float = 0.0
    """Time at which the session began, on the clock of `at`."""
    touched: float = 0.0
    """Time of the last instance or the last end of an association, on the clock of `at`."""


class CountQueryResult(NamedTuple):
    """The result of a count query: how many instances of a series the PACS holds (C-FIND)."""

    series: SeriesInfo
    association_id: str
    """ULID of the first association that carried the series in this session."""
    pacs_address: str
    """Address of the PACS as `host:port`."""
    called_ae_title: str
    """AE title of the PACS."""
    calling_ae_title: str
    """AE title of this receiver."""
    expected: int | None
    """Number of instances; None if the query failed before the count was received."""
    status: int | None
    """Status of the last C-FIND response; None if there was none."""
    error: str | None
    """Why the query failed, without patient data; None if it succeeded. Both `expected` and `error`
    are set if a failure followed the count."""
    asked_ns: int
    """Time at which the query was queued."""
    began_ns: int | None
    """Time at which the query was started; None if it was not started."""
    ended_ns: int


class Registration(msgspec.Struct, frozen=True):
    """The registration of one complete series with CUBE, as the outbox keeps it."""

    series: SeriesInfo
    ndicom: int
    """Number of instances in the series folder."""
    attempted: int = 0
    """Instances received in the last session, including repeated and refused ones."""
    expected: int | None = None
    """Number of instances that the PACS holds; None if unknown."""
    association_id: str | None = None
    """ULID of the first association that carried the series; None if unknown."""
    traceparent: str | None = None
    """W3C Trace Context of the registration's span, sent to CUBE; None without tracing."""


# ---- net ↔ store ---------------------------------------------------------------------------


class AssociationContext(NamedTuple):
    """The attributes of an association that the store uses."""

    association_id: str
    calling_ae_title: str


class StoreRequest(NamedTuple):
    """The values of a C-STORE-RQ (PS3.7 9.3.1.1), which arrives before its data set."""

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
    """The association that feeds a sink. The sink calls these methods on the loop's thread, perhaps
    before a call to the sink itself has returned."""

    def instance_done(self, outcome: StoreOutcome) -> None:
        """Send the response of an instance, if the peer still expects one.

        Called once for each instance that was finished.
        """

    def buffer_released(self, buffer: bytearray) -> None:
        """Take back `buffer`. Called once for each `flush` or `finish` that returned False."""


class InstanceSink(Protocol):
    """Receives the fragments of one instance.

    The caller calls `feed` any number of times, and `flush` before it reuses a buffer. Then it
    calls either `finish` or `discard`, once, and no further method. Methods raise only because of a
    bug, whatever the data set contains.
    """

    def feed(self, buffer: bytearray, start: int, stop: int) -> None:
        """Take bytes [start, stop) of `buffer`, the next fragment, which stay valid until
        `flush`."""

    def flush(self, buffer: bytearray) -> bool:
        """Write the fragments in `buffer`, or keep it; return True if it may be reused now.

        False means that the sink keeps it until it calls `SinkOwner.buffer_released`.
        """

    def finish(self, buffer: bytearray) -> bool:
        """End the instance after its last fragment; return True if `buffer` may be reused now.

        False means that the sink keeps it until it calls `SinkOwner.buffer_released`. The sink
        calls `SinkOwner.instance_done` once, perhaps before this method returns.
        """

    def discard(self) -> None:
        """Remove an instance that will never be complete; `instance_done` is not called for it."""


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
    """Whether the last fragment has been received."""


class FastPathOwner(SinkOwner, Protocol):
    """The association whose common instances a fast path stores."""

    def on_hand_over(self, hand_over: HandOver) -> None:
        """Continue the instance in a sink. May call `close` on the fast path that hands it over."""


class FastPath(Protocol):
    """Stores and answers the common instances of one association, whose framer offers each message
    to it (`_pdu.Consumer`). Instances that turn out not to be common are handed over."""

    def close(self) -> None:
        """Discard the instance under way, if any. Called when the association has ended."""


class InstanceStore(Protocol):
    """Stores the instances of all associations of this process."""

    def fast_path(
        self,
        association: AssociationContext,
        contexts: Mapping[int, UsableContext],
        peer_socket: Any,
        owner: FastPathOwner,
    ) -> FastPath | None:
        """Return a fast path to attach to the association's framer; None if this store has none.

        `contexts` has presentation context ids as keys. The fast path sends its responses through
        `peer_socket`, a `_peer_socket.PeerSocket`.
        """

    def begin(
        self,
        association: AssociationContext,
        request: StoreRequest,
        owner: SinkOwner,
        received: Any = None,
    ) -> InstanceSink:
        """Return a sink for a new instance, or for the rest of one that was handed over.

        `received` is that of the `HandOver`, None for a new instance.
        """

    def association_ended(self, association_id: str) -> None:
        """Forget an association that has ended and has no instance under way."""


class FolderNames(Protocol):
    """Agreement on the folder of a series between several receiving processes."""

    def claim(self, series: SeriesInfo) -> SeriesInfo:
        """Claim the folder of a series for this process, and return the attributes to use.

        They are `series` or, if another claim exists, those with which it was made.
        """

    def release(self, key: SeriesKey) -> None:
        """Give up one claim of this process: all instances received under it have failed."""


class SeriesFiles(Protocol):
    """The files in series folders. Paths are relative to the files root; calls block."""

    def names(self, path: str) -> list[str]:
        """Return the sorted names of the files in the folder `path`; an empty list if there is no
        folder. Raises OSError."""

    def put_empty(self, path: str, name: str) -> None:
        """Create the empty file `name` in the folder `path` unless it exists. Raises OSError."""


class SeriesJournal(Protocol):
    """The journal for recovery after a crash: an association has its entry for a series on disk
    before the first Success for an instance of the series is sent."""

    def enter(self, association_id: str, series: SeriesInfo) -> None:
        """Write an entry, and return once it is on disk. Raises OSError."""

    def remove(self, key: SeriesKey, associations: Iterable[str]) -> None:
        """Remove the entries of `associations` for a series, those that exist. Raises OSError."""
