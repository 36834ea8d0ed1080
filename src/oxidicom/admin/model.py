"""What `/status` tells: the records, as the server encodes and `oxidicom status` decodes them.

Times are seconds since the epoch, sizes bytes; None is what is not known. No patient data.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

State = Literal["ok", "degraded", "failed"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """storage, space, draining, broker, nats, workers."""
    state: State
    detail: str
    """For a person."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Per second, over the last full one."""

    instances: float = 0.0
    bytes: float = 0.0


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Since the start."""

    associations: int = 0
    """All that began, those still open included."""
    associations_aborted: int = 0
    """All that ended otherwise than by a release."""
    instances: int = 0
    """Stored."""
    refused: int = 0
    bytes: int = 0
    """Of data sets stored."""
    series_registered: int = 0
    series_refused: int = 0


class OpenAssociation(msgspec.Struct, frozen=True, kw_only=True):
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
    """Which of several receiving processes has it, from 1."""
    tls: str | None = None
    """Its version, such as TLSv1.3."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """A series in reception."""

    pacs_name: str
    series_instance_uid: str
    modality: str | None
    received: int
    """Distinct instances."""
    expected: int | None
    """Instances at the PACS, if it was asked and has said."""
    state: Literal["receiving", "settling", "registering"]
    since: float
    latest: float


class RecentSeries(msgspec.Struct, frozen=True, kw_only=True):
    """A series that is complete."""

    pacs_name: str
    series_instance_uid: str
    modality: str | None
    received: int
    expected: int | None
    state: Literal["registered", "waiting", "refused"]
    """`waiting`: in the outbox, until its broker takes it."""
    since: float
    latest: float
    ended: float


class OutboxStatus(msgspec.Struct, frozen=True, kw_only=True):
    pending: int = 0
    refused: int = 0
    oldest_at: float | None = None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    at: float
    kind: Literal["association", "instance", "registration", "storage", "broker"]
    who: str
    """Such as `CT1 10.0.0.1`."""
    reason: str
    status: str | None = None
    """Of a C-STORE response, such as A700H."""
    count: int = 1
    """Equal ones in a row; `at` is the latest one's."""


class ReceiverStatus(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    aet: str
    started_at: float
    now: float
    workers: int
    ready: bool
    """No check has failed."""
    checks: list[Check]
    now_rates: Rates
    totals: Totals
    associations_open: int
    associations: list[OpenAssociation]
    """The 100 youngest, the youngest first."""
    series_open: int
    series: list[Series]
    """The 100 that changed last, the latest first."""
    recent_series: list[RecentSeries]
    """The last 20 completed, the latest first."""
    outbox: OutboxStatus
    failures: list[Failure]
    """The latest 50, the latest first."""


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """What `/readyz` tells."""

    ready: bool
    checks: list[Check]


class Sample(NamedTuple):
    """One second of `/status/history`; a list in JSON."""

    at: float
    instances_per_second: float
    bytes_per_second: float
    associations_open: int


class History(msgspec.Struct, frozen=True, kw_only=True):
    samples: list[Sample]
    """The oldest first."""
