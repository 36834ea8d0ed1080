"""The status board: the model behind the admin endpoint. It is an observer and does no I/O.

Its size is bounded, and a status costs about the same with three open series as with a thousand.
Texts that peers choose are cut to a maximum length and made valid UTF-8. The board contains no
patient data.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final, Literal, Protocol

import msgspec

from oxidicom.admin import model
from oxidicom.association_tally import AssociationTally
from oxidicom.observers import (
    STORE_LATENCY_BUCKETS_S,
    Observer,
    RegistrationOutcome,
    RegistrationResolved,
    SeriesRegistered,
    exportable,
)
from oxidicom.ports import (
    AssociationEnded,
    InstanceRefused,
    InstanceStored,
    OpenSeries,
    SeriesCompleted,
    SeriesInfo,
    SeriesKey,
)

MODALITIES: Final = frozenset(
    """
    ANN AR ASMT AU BDUS BI BMD CD CF CFM CP CR CS CT CTPROTOCOL DD DF DG DM DMS DOC DS DX EC ECG EEG
    EMG EOG EPS ES FA FID FS FFP FFPE GM HC HD IO IOL IVOCT IVUS KER KO LEN LP LS M3D MA MG MR MS NM
    OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE
    RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF ST STAIN
    TEXTUREMAP TG US VA VF VIDD XA XAPROTOCOL XC
    """.split()  # noqa: SIM905
)
"""Defined terms of (0008,0060), retired ones included (PS3.3 C.7.3.1.1.1)."""

MAX_LISTED: Final = 100
"""Greatest number of open associations, and of open series, in a `/status` response."""
MAX_RECENT_SERIES: Final = 20
"""Greatest number of complete series in a `/status` response."""
MAX_FAILURES: Final = 50
"""Greatest number of failures in a `/status` response."""
MAX_HISTORY_SAMPLES: Final = 600
"""Greatest number of samples in the history; one is taken per second."""
MAX_REGISTERING_SERIES: Final = 10_000
"""Greatest number of series in registration that are listed; with more, the oldest is forgotten."""

FailureKind = Literal["association", "instance", "registration", "storage", "broker"]

_FAILURE_KINDS: Final[dict[str, FailureKind]] = {
    "storage": "storage",
    "space": "storage",
    "broker": "broker",
    "nats": "broker",
}
"""Kind of the failure that is recorded when a check stops being ok, by the check's name; other
checks record none."""


_RECENT_STATES: Final[dict[RegistrationOutcome, Literal["registered", "waiting", "refused"]]] = {
    RegistrationOutcome.CONFIRMED: "registered",
    RegistrationOutcome.WAITING: "waiting",
    RegistrationOutcome.REFUSED: "refused",
    RegistrationOutcome.EMPTY: "refused",
    RegistrationOutcome.FAILED: "refused",
}


class OpenSeriesSource(Protocol):
    """The part of the series tracker that the board reads."""

    @property
    def number_open(self) -> int: ...

    def latest(self, most: int) -> list[OpenSeries]: ...


class HealthSource(Protocol):
    """The part of the health checks that the board reads; both methods return at once."""

    def checks(self) -> list[model.Check]: ...
    def outbox(self) -> model.OutboxStatus: ...


class StatusBoard(Observer):
    """Counts events, and lists open associations, open and recent series, and recent failures.

    `clock` is the monotonic clock of the reports, in seconds; `wall` returns seconds since the
    epoch.
    """

    def __init__(
        self,
        *,
        version: str,
        aet: str,
        workers: int,
        series: OpenSeriesSource,
        health: HealthSource,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.version = version
        self._aet = aet
        self._workers = workers
        self._series = series
        self.health = health
        self._clock = clock
        self._wall = wall
        self._started_at = wall()

        self._open: dict[str, AssociationTally] = {}
        """Open associations by their identifier, in the order in which they began."""
        self._registering: dict[tuple[SeriesKey, tuple[str, ...]], model.Series] = {}
        """Series in registration, by series and associations, in the order of their completion."""
        self._recent: deque[tuple[SeriesKey, model.RecentSeries]] = deque(maxlen=MAX_RECENT_SERIES)
        self._failures: deque[model.Failure] = deque(maxlen=MAX_FAILURES)
        self._failing_checks: set[str] = set()
        """Names of the checks that are not ok."""

        self.associations_began = 0
        self.associations: Counter[str] = Counter(ok=0, error=0)
        """Number of associations that have ended, by result: `ok` if released, otherwise
        `error`."""
        self.instances: Counter[int] = Counter({0: 0})
        """Number of instances answered, by DIMSE status; 0 is Success."""
        self.bytes = 0
        """Bytes of the data sets of stored instances."""
        self.latencies = [0] * (len(STORE_LATENCY_BUCKETS_S) + 1)
        """Number of stored instances in each bucket of store latency; the last bucket has no upper
        bound."""
        self.latency_sum = 0.0
        """Sum of all store latencies in seconds."""
        self.registered: Counter[str] = Counter(ok=0, error=0)
        self.lonk_messages_dropped = 0

        self._samples: deque[model.Sample] = deque(maxlen=MAX_HISTORY_SAMPLES)
        self._rates = model.Rates()
        self._sampled_at = clock()
        self._sampled_counts = (0, 0)

    # ---- events ----------------------------------------------------------------------------

    def association_began(self, association: AssociationTally) -> None:
        self.associations_began += 1
        self._open[association.began.association_id] = association

    def instance_stored(self, report: InstanceStored) -> None:
        self.instances[0] += 1
        self.bytes += report.size
        self.latencies[bisect_left(STORE_LATENCY_BUCKETS_S, report.seconds)] += 1
        self.latency_sum += report.seconds

    def instance_refused(self, report: InstanceRefused) -> None:
        self.instances[report.status] += 1
        association = self._open.get(report.association_id)
        who = _text(report.calling_ae_title)
        if association is not None:
            who = _peer(association)
        self.record_failure("instance", who, report.error, f"{report.status:04X}H")

    def association_ended(self, report: AssociationEnded) -> None:
        self.associations["ok" if report.error is None else "error"] += 1
        association = self._open.pop(report.association_id, None)
        if report.error is not None and association is not None:
            self.record_failure("association", _peer(association), report.error)

    def series_completed(self, completed: SeriesCompleted) -> None:
        now = self._wall()
        series = completed.series
        self._registering[series.key, completed.associations] = _series(
            series, completed.received, completed.expected, "registering", now, now
        )
        if len(self._registering) > MAX_REGISTERING_SERIES:
            del self._registering[next(iter(self._registering))]

    def series_registered(self, registered: SeriesRegistered) -> None:
        series, outcome = registered.series, registered.outcome
        line = self._registering.pop((series.key, registered.associations), None)
        started = registered.started_ns / 1e9
        # The failure of a refused registration is recorded by `registration_resolved`.
        if outcome in (RegistrationOutcome.EMPTY, RegistrationOutcome.FAILED):
            self.record_failure(
                "registration", _text(series.pacs_name), registered.error or outcome.value
            )
        recent = model.RecentSeries(
            pacs_name=_text(series.pacs_name),
            series_instance_uid=_text(series.series_instance_uid),
            modality=_modality(series),
            received=registered.ndicom,
            expected=registered.expected,
            state=_RECENT_STATES[outcome],
            since=started if line is None else line.since,
            latest=started,
            ended=registered.ended_ns / 1e9,
        )
        self._recent.appendleft((series.key, recent))

    def registration_resolved(self, resolved: RegistrationResolved) -> None:
        key, refusal = resolved
        self.registered["ok" if refusal is None else "error"] += 1
        if refusal is not None:
            self.record_failure("registration", _text(key.pacs_name), refusal)
        for place, (other, series) in enumerate(self._recent):
            if other == key and series.state == "waiting":
                state: Literal["registered", "refused"] = "refused" if refusal else "registered"
                self._recent[place] = (other, msgspec.structs.replace(series, state=state))

    def lonk_dropped(self, count: int) -> None:
        self.lonk_messages_dropped += count

    def record_failure(
        self, kind: FailureKind, who: str, reason: str, status: str | None = None
    ) -> None:
        """Add a failure to the list, or count it if it is equal to the latest one.

        `who` names the association, PACS or check that failed; `status` is a C-STORE status.
        """
        failure = model.Failure(
            at=self._wall(), kind=kind, who=who, reason=_text(reason, 200), status=status
        )
        if self._failures and _is_repetition(failure, self._failures[0]):
            count = self._failures.popleft().count + 1
            failure = msgspec.structs.replace(failure, count=count)
        self._failures.appendleft(failure)

    # ---- status ----------------------------------------------------------------------------

    def sample(self) -> None:
        """Compute the rates, add a sample to the history, and record checks that begin to fail.

        Must be called once per second.
        """
        now = self._clock()
        elapsed = max(now - self._sampled_at, 1e-3)
        instances, size = self._sampled_counts
        self._sampled_counts = self.instances[0], self.bytes
        self._sampled_at = now
        self._rates = model.Rates(
            instances=round((self.instances[0] - instances) / elapsed, 1),
            bytes=round((self.bytes - size) / elapsed, 1),
        )
        self._samples.append(
            model.Sample(self._wall(), self._rates.instances, self._rates.bytes, len(self._open))
        )
        self._note_failing_checks(self.health.checks())

    def _note_failing_checks(self, checks: Iterable[model.Check]) -> None:
        """Record a failure for each check that was ok at the previous sample and is not ok now."""
        failing = {check.name for check in checks if check.state != "ok"}
        for check in checks:
            if check.name in failing - self._failing_checks and check.name in _FAILURE_KINDS:
                self.record_failure(_FAILURE_KINDS[check.name], check.name, check.detail)
        self._failing_checks = failing

    @property
    def associations_open(self) -> int:
        return len(self._open)

    @property
    def series_open(self) -> int:
        """Number of series that are open or in registration."""
        return self._series.number_open + len(self._registering)

    def history(self) -> model.History:
        return model.History(samples=list(self._samples))

    def readiness(self) -> model.Readiness:
        checks = self.health.checks()
        return model.Readiness(ready=_is_ready(checks), checks=checks)

    def status(self) -> model.ReceiverStatus:
        checks = self.health.checks()
        refused = sum(self.instances.values()) - self.instances[0]
        return model.ReceiverStatus(
            version=self.version,
            aet=self._aet,
            started_at=self._started_at,
            now=self._wall(),
            workers=self._workers,
            ready=_is_ready(checks),
            checks=checks,
            now_rates=self._rates,
            totals=model.Totals(
                associations=self.associations_began,
                associations_aborted=self.associations["error"],
                instances=self.instances[0],
                refused=refused,
                bytes=self.bytes,
                series_registered=self.registered["ok"],
                series_refused=self.registered["error"],
            ),
            associations_open=len(self._open),
            associations=[
                _association(name, each)
                for name, each in islice(reversed(self._open.items()), MAX_LISTED)
            ],
            series_open=self.series_open,
            series=self._latest_series(),
            recent_series=[series for _, series in self._recent],
            outbox=self.health.outbox(),
            failures=list(self._failures),
        )

    def _latest_series(self) -> list[model.Series]:
        behind = self._wall() - self._clock()
        found = [
            _series(
                each.series,
                each.received,
                each.expected,
                "receiving" if each.associations else "settling",
                each.began + behind,
                each.touched + behind,
            )
            for each in self._series.latest(MAX_LISTED)
        ]
        found += islice(reversed(self._registering.values()), MAX_LISTED)
        return heapq.nlargest(MAX_LISTED, found, key=lambda each: each.latest)


def _text(text: str, max_chars: int = 64) -> str:
    return exportable(text, max_chars)


def _is_ready(checks: Iterable[model.Check]) -> bool:
    return all(check.state != "failed" for check in checks)


def _is_repetition(one: model.Failure, other: model.Failure) -> bool:
    return (one.kind, one.who, one.reason, one.status) == (
        other.kind,
        other.who,
        other.reason,
        other.status,
    )


def _modality(series: SeriesInfo) -> str | None:
    return series.modality if series.modality in MODALITIES else None


def _series(
    series: SeriesInfo,
    received: int,
    expected: int | None,
    state: Literal["receiving", "settling", "registering"],
    since: float,
    latest: float,
) -> model.Series:
    return model.Series(
        pacs_name=_text(series.pacs_name),
        series_instance_uid=_text(series.series_instance_uid),
        modality=_modality(series),
        received=received,
        expected=expected,
        state=state,
        since=since,
        latest=latest,
    )


def _peer(association: AssociationTally) -> str:
    began = association.began
    return f"{_text(began.calling_ae_title)} {began.peer_address}"


def _association(name: str, each: AssociationTally) -> model.OpenAssociation:
    began = each.began
    host = f"[{began.peer_address}]" if ":" in began.peer_address else began.peer_address
    return model.OpenAssociation(
        ulid=name,
        calling_aet=_text(began.calling_ae_title),
        called_aet=_text(began.called_ae_title),
        peer=f"{host}:{began.peer_port}",
        since=began.wall_ns / 1e9,
        stored=each.stored,
        refused=each.refused.total(),
        bytes=each.bytes_stored,
        worker=began.worker,
        tls=began.tls,
    )
