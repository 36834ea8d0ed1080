"""The records of `/status`, `/readyz` and `/status/history`: the server encodes them as JSON, and
`oxidicom status` decodes them.

Times are seconds since the epoch and sizes are in bytes. None means unknown, unless the field says
otherwise. The records contain no patient data.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

CheckState = Literal["ok", "degraded", "failed"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one health check."""

    name: str
    """Name of the check: storage, space, draining, broker, nats or workers."""
    state: CheckState
    detail: str
    """The reason for the state, as text for an operator."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Stored instances and their bytes per second, averaged over the latest sample of about 1 s."""

    instances: float = 0.0
    bytes: float = 0.0


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the receiver was started."""

    associations: int = 0
    """Number of accepted associations, open ones included."""
    associations_aborted: int = 0
    """Number of associations that ended in any way other than by a release."""
    instances: int = 0
    """Number of stored instances, repeated ones included."""
    refused: int = 0
    """Number of refused instances."""
    bytes: int = 0
    """Bytes of the data sets of stored instances."""
    series_registered: int = 0
    """Number of registrations that were delivered."""
    series_refused: int = 0
    """Number of registrations that were refused."""


class OpenAssociation(msgspec.Struct, frozen=True, kw_only=True):
    """One open association."""

    ulid: str
    calling_aet: str
    called_aet: str
    peer: str
    """Address of the peer as host:port; an IPv6 address is in brackets."""
    since: float
    """Time at which the association began."""
    stored: int
    refused: int
    bytes: int
    worker: int | None = None
    """Number of the receiving process, from 1; None if there is only one."""
    tls: str | None = None
    """TLS version, such as TLSv1.3; None for an unencrypted association."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One series that is not registered yet."""

    pacs_name: str
    series_instance_uid: str
    modality: str | None
    received: int
    """Number of distinct instances."""
    expected: int | None
    """Number of instances that the PACS holds, as answered to a count query."""
    state: Literal["receiving", "settling", "registering"]
    """`receiving`: an open association has carried it; `settling`: they have all ended."""
    since: float
    """Time at which the session began; if it is being registered, at which it was complete."""
    latest: float
    """Time of the last change."""


class RecentSeries(msgspec.Struct, frozen=True, kw_only=True):
    """One complete series and the result of its registration."""

    pacs_name: str
    series_instance_uid: str
    modality: str | None
    received: int
    expected: int | None
    state: Literal["registered", "waiting", "refused"]
    """`waiting`: the registration is in the outbox until it is delivered."""
    since: float
    """Time at which the series was complete."""
    latest: float
    """Time at which its registration began."""
    ended: float
    """Time at which its registration ended, or was left to the outbox."""


class OutboxStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of pending and of refused entries in the outbox."""

    pending: int = 0
    refused: int = 0
    oldest_at: float | None = None
    """Time at which the oldest pending entry was written; None if there is none."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One failure, or several equal ones without another in between."""

    at: float
    kind: Literal["association", "instance", "registration", "storage", "broker"]
    who: str
    """What failed: calling AE title and address of an association (`CT1 10.0.0.1`), PACS name of a
    series, or name of a check."""
    reason: str
    status: str | None = None
    """Status of the C-STORE response, such as A700H; None if the failure is not one of an
    instance."""
    count: int = 1
    """Number of equal failures that this record combines; `at` is the time of the latest."""


class ReceiverStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a `/status` response and of each event."""

    version: str
    aet: str
    started_at: float
    now: float
    workers: int
    ready: bool
    """Whether no check has failed."""
    checks: list[Check]
    now_rates: Rates
    totals: Totals
    associations_open: int
    associations: list[OpenAssociation]
    """The 100 newest open associations, newest first."""
    series_open: int
    series: list[Series]
    """The 100 most recently changed series that are not registered yet, latest change first."""
    recent_series: list[RecentSeries]
    """The 20 series whose registration ended last, latest first."""
    outbox: OutboxStatus
    failures: list[Failure]
    """The 50 latest failures, latest first."""


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a `/readyz` response."""

    ready: bool
    checks: list[Check]


class Sample(NamedTuple):
    """The measurements of one second of `/status/history`. It is encoded as a JSON list."""

    at: float
    instances_per_second: float
    bytes_per_second: float
    associations_open: int


class History(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a `/status/history` response."""

    samples: list[Sample]
    """Up to 600 samples, one per second, oldest first."""
