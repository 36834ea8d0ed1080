"""Records and Protocols that pass between layers which never import one another.

Times called `at` are seconds of one monotonic clock; `wall_ns` are nanoseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, NamedTuple, Protocol

import msgspec

from oxidicom.constants import Encoding


class SeriesKey(NamedTuple):
    """What makes a series one series, over associations (decision 28)."""

    pacs_name: str
    series_instance_uid: str


class SeriesInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the first stored instance of a series says of it.

    `None` is an absent element, `""` a present blank one. Text is as decoded: cutting to
    CUBE's limits happens where a registration is encoded.
    """

    calling_ae_title: str
    """Trimmed, raw; the LONK subject is made from it."""
    pacs_name: str
    """The path's token of the calling AE title."""
    path: str
    """The series' folder, relative to the files root, `/`-separated: SERVICES/PACS/…"""
    patient_id: str
    study_date: str
    """YYYY-MM-DD, whatever form was received."""
    study_instance_uid: str
    series_instance_uid: str
    patient_name: str | None = None
    patient_birth_date: str | None = None
    patient_age: int | None = None
    """Days."""
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
    association_id: str
    """A ULID."""
    peer_address: str
    peer_port: int
    calling_ae_title: str
    called_ae_title: str
    at: float
    wall_ns: int
    worker: int | None = None
    """Which of several receiving processes has it, from 1."""
    tls: str | None = None
    """Its version, such as TLSv1.3, of an association that is encrypted."""


class InstanceStored(NamedTuple):
    """The file stands under its final name."""

    association_id: str
    series: SeriesInfo
    sop_instance_uid: str
    size: int
    """Bytes of the data set."""
    seconds: float
    """From the last fragment to the file under its final name."""
    at: float


class InstanceRefused(NamedTuple):
    association_id: str
    calling_ae_title: str
    pacs_name: str
    series_instance_uid: str | None
    status: int
    error: str
    """For LONK; no patient data."""
    at: float


class AssociationEnded(NamedTuple):
    """`error` is None for a release. A connection that never associated is never reported."""

    association_id: str
    error: str | None
    bytes_received: int
    at: float
    wall_ns: int


Report = AssociationBegan | InstanceStored | InstanceRefused | AssociationEnded


class Reports(Protocol):
    """The one channel between the planes. Never blocks, never raises."""

    def __call__(self, report: Report) -> None: ...


# ---- series tracker → notifications --------------------------------------------------------


class SeriesProgress(NamedTuple):
    series: SeriesInfo
    received: int
    """Distinct instances stored in this reception; never falls."""
    first: bool


class SeriesFailed(NamedTuple):
    """An instance was refused; the series may not even have a UID."""

    calling_ae_title: str
    series_instance_uid: str | None
    error: str


class SeriesCompleted(NamedTuple):
    """Nothing more is expected: final count, registration, done."""

    series: SeriesInfo
    received: int
    associations: tuple[str, ...]
    """Whose journal entries this completion consumes, recovered ones included."""
    attempted: int = 0
    """Instances that came in this reception, repeats and refused ones included."""
    expected: int | None = None
    """How many there are at the PACS, as far as it said."""


Notice = SeriesProgress | SeriesFailed | SeriesCompleted


class OpenSeries(NamedTuple):
    """One line of a status page."""

    series: SeriesInfo
    received: int
    """Distinct instances."""
    associations: int
    """Those still open that have carried the series; 0 while it settles."""
    expected: int | None = None
    """Instances at the PACS, if it was asked and has said."""
    began: float = 0.0
    touched: float = 0.0
    """When it changed last."""


class SeriesAsked(NamedTuple):
    """What came of asking a PACS how many instances it has of a series (C-FIND)."""

    series: SeriesInfo
    association_id: str
    """The first that carried this reception of it."""
    pacs_address: str
    """host:port"""
    called_ae_title: str
    calling_ae_title: str
    """Ours."""
    expected: int | None
    """Instances; None if it did not say."""
    status: int | None
    """Of the C-FIND's last response, if there was one."""
    error: str | None
    """What went wrong, be it after the count; no patient data."""
    asked_ns: int
    """Nanoseconds since the epoch, as the next two."""
    began_ns: int | None
    """When its turn came; None if it never did."""
    ended_ns: int


class Registration(msgspec.Struct, frozen=True):
    """One complete series for CUBE, as the outbox keeps it."""

    series: SeriesInfo
    ndicom: int
    attempted: int = 0
    expected: int | None = None
    association_id: str | None = None
    """The first that carried it."""
    traceparent: str | None = None
    """Of the span of its registration (W3C Trace Context), which goes along to CUBE; None where
    nobody traces."""


class RegistrationOutcome(Enum):
    """What became of the registration of a complete series."""

    CONFIRMED = "confirmed"
    """CUBE, or its broker, has it."""
    WAITING = "waiting"
    """It is in the outbox and has not been confirmed yet."""
    REFUSED = "refused"
    """It will never be accepted; it is kept in the outbox folder as a refused entry."""
    EMPTY = "empty"
    """The series folder holds no instance, so there was nothing to register."""
    FAILED = "failed"
    """It did not reach the outbox; the journal still has the series."""


class SeriesCounted(NamedTuple):
    """The files of a complete series were counted; its registration follows."""

    series: SeriesInfo
    received: int
    """Distinct instances of this reception."""
    ndicom: int
    """Instances in the series folder."""


class SeriesRegistered(NamedTuple):
    """The registration of a complete series came to an end, or waits in the outbox.

    Times are nanoseconds since the epoch: from the completion of the series to the confirmation
    by CUBE or its broker, or to the decision not to wait for it.
    """

    series: SeriesInfo
    associations: tuple[str, ...]
    """As in the `SeriesCompleted` that began the registration."""
    received: int
    """Distinct instances of this reception."""
    ndicom: int
    """Instances in the series folder; 0 if they were not counted."""
    started_ns: int
    ended_ns: int
    outcome: RegistrationOutcome
    error: str | None
    """Why it is not confirmed; None if it is. No patient data."""
    expected: int | None = None
    """Instances at the PACS, as far as it said."""


class RegistrationResolved(NamedTuple):
    """A registration left the outbox: it was delivered, or it was refused."""

    series: SeriesKey
    refusal: str | None
    """Why it was refused; None if it was delivered."""


class HttpRegistration(NamedTuple):
    """One attempt to register one file over HTTP, successful or not."""

    series: SeriesInfo
    association_id: str | None
    url: str
    file: str | None
    """Path of the file, which holds patient data: None unless that is allowed."""
    started_ns: int
    ended_ns: int
    retries: tuple[tuple[int, str, float], ...] = ()
    """Pauses between requests: nanoseconds since the epoch, the error, and seconds."""
    error: str | None = None
    metadata: tuple[str, str] | None = None
    """Key and value of custom metadata; None if the file is an instance."""
    traceparent: str | None = None
    """Identifies the span that `TraceContext.begin_http_registration` opened."""


class HttpSeriesRegistration(NamedTuple):
    """One attempt to register all instances of a complete series over HTTP, successful or not."""

    association_id: str | None
    association_uuid: str
    started_ns: int
    ended_ns: int
    error: str | None


# ---- net ↔ store ---------------------------------------------------------------------------


class AssociationContext(NamedTuple):
    """What storing needs to know of the association."""

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
    """How one C-STORE ended; status 0 is Success (PS3.4 B.2.3)."""

    request: StoreRequest
    status: int
    comment: str | None = None
    offending: int | None = None


class SinkOwner(Protocol):
    """The association that feeds a sink. Called on the loop's thread, perhaps from within a call
    to the sink."""

    def instance_done(self, outcome: StoreOutcome) -> None: ...

    def buffer_released(self, buffer: bytearray) -> None:
        """A buffer that `flush` kept may be reused."""


class InstanceSink(Protocol):
    """One instance in reception: `feed`* with a `flush` before each reuse of the buffer, then
    `finish` or `discard` once, and nothing more. What the data set holds never makes it raise.
    """

    def feed(self, buffer: bytearray, start: int, stop: int) -> None:
        """Bytes [start, stop) of `buffer` are the next fragment; valid until `flush`."""

    def flush(self, buffer: bytearray) -> bool:
        """False: the sink keeps `buffer` until it calls `buffer_released`."""

    def finish(self, buffer: bytearray) -> bool:
        """The last fragment was fed; `instance_done` follows. Returns as `flush` does."""

    def discard(self) -> None:
        """The instance will never be complete: nothing of it remains, no outcome follows."""


class UsableContext(Protocol):
    """What storing needs to know of a presentation context."""

    @property
    def transfer_syntax(self) -> str: ...
    @property
    def encoding(self) -> Encoding: ...


class FastPathOwner(SinkOwner, Protocol):
    """The association that lends its usual instances to an `FastPath`."""

    def send(self, data: bytes) -> None: ...

    def nothing_waits(self) -> bool:
        """Whether all that was sent has left the transport."""

    def adopt(
        self,
        context_id: int,
        message_id: int,
        sop_class_uid: str,
        sop_instance_uid: str,
        begun: Any,
        under_way: bool,
    ) -> None:
        """Go on with an instance that the lane has begun; if it is not `under_way`, all of it
        was fed and `finish_adopted` follows."""

    def finish_adopted(self, buffer: bytearray) -> None: ...


class FastPath(Protocol):
    """Takes the usual instances of an association straight from its framer (`_pdu.Consumer`), and
    answers them; whatever is not usual it leaves to sinks."""

    framer: Any
    fd: int
    direct: bool
    messages: int

    @property
    def active(self) -> bool:
        """An instance is under way here."""

    def flush(self) -> None:
        """Before the receive buffer is reused, unless the lane itself received into it."""

    def discard(self) -> None: ...

    def close(self) -> None: ...


class InstanceStore(Protocol):
    def fast_path(
        self,
        association: AssociationContext,
        owner: FastPathOwner,
        contexts: Mapping[int, UsableContext],
    ) -> FastPath | None:
        """`contexts`: by presentation context id."""

    def adopt(
        self, association: AssociationContext, request: StoreRequest, owner: SinkOwner, begun: Any
    ) -> InstanceSink:
        """A sink for what the fast path has begun."""

    def begin(
        self, association: AssociationContext, request: StoreRequest, owner: SinkOwner
    ) -> InstanceSink: ...

    def association_ended(self, association_id: str) -> None: ...


class FolderNames(Protocol):
    """Who says, where several processes receive, what the folder of a series is called."""

    def claim(self, series: SeriesInfo) -> SeriesInfo:
        """The names in force: those of `series` unless another process' were first."""

    def release(self, key: SeriesKey) -> None:
        """Nothing of what was claimed by the last `claim` binds any longer."""


class SeriesFiles(Protocol):
    """What lies in the folders of series; blocks. Paths are relative to the files root."""

    def names(self, path: str) -> list[str]:
        """Of the files in a folder, sorted; none if there is no such folder. Raises OSError."""

    def put_empty(self, path: str, name: str) -> None:
        """See to it that the empty file `name` stands in the folder `path`. Raises OSError."""


class SeriesJournal(Protocol):
    """Crash memory: a series is in it before the first Success of the series is sent."""

    def enter(self, association_id: str, series: SeriesInfo) -> None:
        """Return once the entry is on disk; raises OSError."""

    def remove(self, key: SeriesKey, associations: Iterable[str]) -> None:
        """Forget these entries, if they are there; raises OSError."""
