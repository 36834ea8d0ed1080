"""The records of `/status`, `/readyz` and `/status/history`: the server encodes them as JSON, and
`oxidicom status` decodes them.

Times are seconds since the epoch and sizes are bytes; None means unknown. No patient data.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

CheckState = Literal["ok", "degraded", "failed"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one health check."""

    name: str
    """One of storage, space, draining, broker, nats and workers."""
    state: CheckState
    detail: str
    """The reason, as text for an operator."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Instances and bytes per second, over the last full second."""

    instances: float = 0.0
    bytes: float = 0.0


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the receiver was started."""

    associations: int = 0
    """Associations that were accepted, open ones included."""
    associations_aborted: int = 0
    """Associations that ended in any way other than by a release."""
    instances: int = 0
    """Instances stored."""
    refused: int = 0
    """Instances refused."""
    bytes: int = 0
    """Bytes of the data sets of stored instances."""
    series_registered: int = 0
    series_refused: int = 0


class OpenAssociation(msgspec.Struct, frozen=True, kw_only=True):
    """One open association."""

    ulid: str
    calling_aet: str
    called_aet: str
    peer: str
    """host:port"""
    since: float
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
    since: float
    latest: float


class RecentSeries(msgspec.Struct, frozen=True, kw_only=True):
    """One complete series."""

    pacs_name: str
    series_instance_uid: str
    modality: str | None
    received: int
    expected: int | None
    state: Literal["registered", "waiting", "refused"]
    """`waiting`: the registration is in the outbox until it is delivered."""
    since: float
    latest: float
    ended: float


class OutboxStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Entries in the outbox."""

    pending: int = 0
    refused: int = 0
    oldest_at: float | None = None
    """When the oldest pending entry was written; None if there is none."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One failure, or several equal ones in a row."""

    at: float
    kind: Literal["association", "instance", "registration", "storage", "broker"]
    who: str
    """What failed: `CT1 10.0.0.1` for an association, or the name of a series' sender or check."""
    reason: str
    status: str | None = None
    """Status of the C-STORE response, such as A700H."""
    count: int = 1
    """Number of equal failures in a row; `at` is the time of the latest."""


class ReceiverStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What `/status` returns."""

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
    """The 100 newest, newest first."""
    series_open: int
    series: list[Series]
    """The 100 that changed last, latest change first."""
    recent_series: list[RecentSeries]
    """The last 20 completed, latest first."""
    outbox: OutboxStatus
    failures: list[Failure]
    """The latest 50, latest first."""


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """What `/readyz` returns."""

    ready: bool
    checks: list[Check]


class Sample(NamedTuple):
    """One second of `/status/history`; encoded as a JSON list."""

    at: float
    instances_per_second: float
    bytes_per_second: float
    associations_open: int


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What `/status/history` returns."""

    samples: list[Sample]
    """One for each second, oldest first."""
