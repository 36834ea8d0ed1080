"""Makes spans: one for each association, with children for the registrations and count queries of
its series."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)

from oxidicom.association_tally import AssociationTally
from oxidicom.observers import (
    FailureLog,
    HttpRegistration,
    HttpSeriesRegistration,
    Observer,
    SeriesRegistered,
    TraceContext,
    exportable,
)
from oxidicom.ports import (
    AssociationEnded,
    CountQueryResult,
    SeriesCompleted,
    SeriesInfo,
    SeriesKey,
)
from oxidicom.ulid import uuid_of

MAX_TRACKED: Final = 4096
"""Greatest number of open spans of each kind. If there are more, the report that would end the
oldest one is assumed to be lost."""

MAX_ENDED_ASSOCIATIONS: Final = 4096
"""Greatest number of ended associations whose spans may still get children; each takes about 1 KiB.
A series that is registered after its association is forgotten gets a span without a parent."""

MAX_ATTRIBUTE_CHARS: Final = 256
"""Greatest length in characters of an attribute that a peer chooses."""

_MAX_LINKS: Final = 32
"""Greatest number of links from the span of a registration to those of the associations that
carried its series."""


@dataclass(slots=True)
class _OpenAssociation:
    """The span of an open association, and the tally from which its attributes are set at the
    end."""

    span: Span
    tally: AssociationTally


_RegistrationKey = tuple[SeriesKey, tuple[str, ...]]
"""Identifies a registration: the key of the series, and the associations that carried it."""


class Spans(Observer, TraceContext):
    """Makes spans of `tracer` from the events of the control plane."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._open: OrderedDict[str, _OpenAssociation] = OrderedDict()
        self._ended: OrderedDict[str, SpanContext] = OrderedDict()
        self._registrations: OrderedDict[_RegistrationKey, Span] = OrderedDict()
        self._http_registrations: OrderedDict[str, Span] = OrderedDict()
        """Open spans of HTTP registrations, by their `traceparent`."""
        self._failures = FailureLog()

    def association_began(self, association: AssociationTally) -> None:
        report = association.began
        span = self._tracer.start_span(
            "association",
            context=Context(),
            kind=SpanKind.SERVER,
            attributes={
                "association_ulid": report.association_id,
                "client.address": _text(report.peer_address),
                "client.port": report.peer_port,
                "aet": _text(report.calling_ae_title),
                **({} if report.tls is None else {"tls": report.tls}),
            },
            start_time=report.wall_ns,
        )
        self._open[report.association_id] = _OpenAssociation(span, association)
        if len(self._open) > MAX_TRACKED:
            oldest = next(iter(self._open))
            self._end(oldest, "the end of this association was never reported", report.wall_ns)

    def association_ended(self, report: AssociationEnded) -> None:
        association = self._open.get(report.association_id)
        if association is not None:
            association.span.set_attribute("bytes", report.bytes_received)
            self._end(report.association_id, report.error, report.wall_ns)

    def _end(self, association_id: str, error: str | None, wall_ns: int) -> None:
        association = self._open.pop(association_id)
        span, tally = association.span, association.tally
        span.set_attribute("instances.stored", tally.stored)
        span.set_attribute("instances.refused", tally.refused.total())
        for status, count in tally.refused.items():
            span.set_attribute(f"instances.refused.{status:04X}", count)
        _set_status(span, error)
        span.end(max(tally.began.wall_ns, wall_ns))
        self._ended[association_id] = span.get_span_context()
        if len(self._ended) > MAX_ENDED_ASSOCIATIONS:
            self._ended.popitem(last=False)

    def of_association(self, association_id: str) -> str | None:
        context = self._context(association_id)
        return None if context is None else _traceparent(context)

    def begin_registration(self, completed: SeriesCompleted, started_ns: int) -> str | None:
        try:
            return self._begin_registration(completed.series, completed.associations, started_ns)
        except Exception as error:
            self._failures.log(self.begin_registration, error)
            return None

    def _begin_registration(
        self, series: SeriesInfo, associations: tuple[str, ...], started_ns: int
    ) -> str:
        carriers = [carrier for name in associations if (carrier := self._context(name))]
        parent = Context()
        if carriers:
            parent = set_span_in_context(NonRecordingSpan(carriers[-1]), parent)
        span = self._tracer.start_span(
            "register_series",
            context=parent,
            kind=SpanKind.PRODUCER,
            attributes={
                "pacs_name": _text(series.pacs_name),
                "SeriesInstanceUID": _text(series.series_instance_uid),
            },
            links=[Link(carrier) for carrier in carriers[:-1][-_MAX_LINKS:]],
            start_time=started_ns,
        )
        self._registrations[series.key, associations] = span
        _drop_oldest(self._registrations)
        return _traceparent(span.get_span_context())

    def series_registered(self, registered: SeriesRegistered) -> None:
        span = self._registrations.pop((registered.series.key, registered.associations), None)
        if span is None:
            return
        span.set_attribute("ndicom", registered.ndicom)
        if registered.expected is not None:
            span.set_attribute("expected", registered.expected)
        _set_status(span, registered.error)
        span.end(max(registered.started_ns, registered.ended_ns))

    def begin_http_registration(self, association_id: str | None, started_ns: int) -> str | None:
        try:
            return self._begin_http_registration(association_id, started_ns)
        except Exception as error:
            self._failures.log(self.begin_http_registration, error)
            return None

    def _begin_http_registration(self, association_id: str | None, started_ns: int) -> str:
        span = self._tracer.start_span(
            "push_to_chris",
            context=self._child_of(association_id),
            kind=SpanKind.CLIENT,
            start_time=started_ns,
        )
        traceparent = _traceparent(span.get_span_context())
        self._http_registrations[traceparent] = span
        _drop_oldest(self._http_registrations)
        return traceparent

    def http_registration_ended(self, registration: HttpRegistration) -> None:
        span = self._http_registrations.pop(registration.traceparent or "", None)
        if span is None:
            return
        attributes: dict[str, str] = {
            "SeriesInstanceUID": _text(registration.series.series_instance_uid),
            "url": _text(registration.url),
        }
        if registration.file is not None:
            attributes["fname"] = _text(registration.file)
        if registration.metadata is not None:
            span.update_name("register_oxidicom_custom_metadata")
            key, value = registration.metadata
            attributes |= {
                "StudyInstanceUID": _text(registration.series.study_instance_uid),
                "oxidicom.custom.key": key,
                "oxidicom.custom.value": value,
            }
        span.set_attributes(attributes)
        for at_ns, error, seconds in registration.retries:
            span.add_event(
                "retry_delay",
                {"error": _text(error), "sleep_duration": seconds},
                at_ns,
            )
        _set_status(span, registration.error)
        span.end(max(registration.started_ns, registration.ended_ns))

    def http_series_registration_ended(self, registration: HttpSeriesRegistration) -> None:
        span = self._tracer.start_span(
            "register_all_attempted_pushes",
            context=self._child_of(registration.association_id),
            attributes={"association_uuid": registration.association_uuid},
            start_time=registration.started_ns,
        )
        _set_status(span, registration.error)
        span.end(max(registration.started_ns, registration.ended_ns))

    def _child_of(self, association_id: str | None) -> Context:
        carrier = None if association_id is None else self._context(association_id)
        if carrier is None:
            return Context()
        return set_span_in_context(NonRecordingSpan(carrier), Context())

    def count_query_ended(self, result: CountQueryResult) -> None:
        """Record the spans of a count query.

        Names and attributes are those of the first generation of oxidicom; only `expected` is new.
        """
        parent = Context()
        if (carrier := self._context(result.association_id)) is not None:
            parent = set_span_in_context(NonRecordingSpan(carrier), parent)
        outer = self._tracer.start_span(
            "getset_number_of_series_related_instances",
            context=parent,
            attributes=_identity(result.association_id),
            start_time=result.asked_ns,
        )
        if result.began_ns is not None:
            self._find_span(result, result.began_ns, set_span_in_context(outer, parent))
        if result.expected is not None:
            outer.set_attribute("expected", result.expected)
        _set_status(outer, result.error if result.expected is None else None)
        outer.end(max(result.asked_ns, result.ended_ns))

    def _find_span(self, result: CountQueryResult, began_ns: int, parent: Context) -> None:
        ended_ns = max(began_ns, result.ended_ns)
        span = self._tracer.start_span(
            "findscu",
            context=parent,
            kind=SpanKind.CLIENT,
            attributes=_identity(result.association_id)
            | {
                "pacs_address": _text(result.pacs_address),
                "aec": _text(result.called_ae_title),
                "aet": _text(result.calling_ae_title),
                "StudyInstanceUID": _text(result.series.study_instance_uid),
                "SeriesInstanceUID": _text(result.series.series_instance_uid),
            },
            start_time=began_ns,
        )
        if result.status is not None:
            span.add_event("status", {"status": f"{result.status:04X}"}, ended_ns)
        _set_status(span, result.error)
        span.end(ended_ns)

    def _context(self, association_id: str) -> SpanContext | None:
        association = self._open.get(association_id)
        if association is not None:
            return association.span.get_span_context()
        return self._ended.get(association_id)


def _text(text: str) -> str:
    return exportable(text, MAX_ATTRIBUTE_CHARS)


def _traceparent(context: SpanContext) -> str:
    """Return the value of the header `traceparent` for a span (W3C Trace Context, 3.2)."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0xFF:02x}"


def _drop_oldest(spans: OrderedDict[Any, Span]) -> None:
    """Forget the oldest span if there are more than MAX_TRACKED; its end was probably lost."""
    if len(spans) > MAX_TRACKED:
        spans.popitem(last=False)


def _identity(association_id: str) -> dict[str, str]:
    """Return the attributes that identify an association: its ULID, and that as a UUID.

    The UUID is the identifier in the first generation of oxidicom; it is left out if the ULID is
    invalid.
    """
    identity = {"association_ulid": association_id}
    with contextlib.suppress(ValueError):
        identity["association_uuid"] = uuid_of(association_id)
    return identity


def _set_status(span: Span, error: str | None) -> None:
    if error is None:
        span.set_status(Status(StatusCode.OK))
    else:
        span.set_status(Status(StatusCode.ERROR, _text(error)))
