"""Spans: one `association` from its begin to its end, and a child for each series it carried."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Final

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

from oxidicom.ports import (
    AssociationBegan,
    AssociationEnded,
    InstanceRefused,
    InstanceStored,
    Push,
    SeriesInfo,
)
from oxidicom.telemetry.base import Telemetry

MAX_OPEN: Final = 4096
"""Associations; one more than that and the oldest was never reported to have ended."""

MAX_ENDED: Final = 4096
"""Associations whose series may still register; about 1 KiB each. A series that waits longer
than that for its broker gets a span without a parent."""

MAX_TEXT: Final = 256
"""Characters of an attribute that a peer chooses."""

_MAX_LINKS: Final = 32


@dataclass(slots=True)
class _Open:
    span: Span
    began_ns: int
    stored: int = 0
    refused: Counter[int] = field(default_factory=Counter)


class Spans(Telemetry):
    """Reports in, spans out by `tracer`."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._ended: OrderedDict[str, SpanContext] = OrderedDict()

    def association_began(self, report: AssociationBegan) -> None:
        span = self._tracer.start_span(
            "association",
            context=Context(),
            kind=SpanKind.SERVER,
            attributes={
                "association_ulid": report.association_id,
                "client.address": exportable(report.peer_address),
                "client.port": report.peer_port,
                "aet": exportable(report.calling_ae_title),
            },
            start_time=report.wall_ns,
        )
        self._open[report.association_id] = _Open(span, report.wall_ns)
        if len(self._open) > MAX_OPEN:
            lost = next(iter(self._open))
            self._end(lost, "the end of this association was never reported", report.wall_ns)

    def instance_stored(self, report: InstanceStored) -> None:
        association = self._open.get(report.association_id)
        if association is not None:
            association.stored += 1

    def instance_refused(self, report: InstanceRefused) -> None:
        association = self._open.get(report.association_id)
        if association is not None:
            association.refused[report.status] += 1

    def association_ended(self, report: AssociationEnded) -> None:
        association = self._open.get(report.association_id)
        if association is not None:
            association.span.set_attribute("bytes", report.bytes_received)
            self._end(report.association_id, report.error, report.wall_ns)

    def _end(self, association_id: str, error: str | None, wall_ns: int) -> None:
        association = self._open.pop(association_id)
        span = association.span
        span.set_attribute("instances.stored", association.stored)
        span.set_attribute("instances.refused", association.refused.total())
        for status, count in association.refused.items():
            span.set_attribute(f"instances.refused.{status:04X}", count)
        _set_status(span, error)
        span.end(max(association.began_ns, wall_ns))
        self._ended[association_id] = span.get_span_context()
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    def series_registered(
        self,
        series: SeriesInfo,
        associations: tuple[str, ...],
        ndicom: int,
        started_ns: int,
        ended_ns: int,
        attempts: int | None,
        error: str | None,
    ) -> None:
        carriers = [carrier for name in associations if (carrier := self._context(name))]
        parent = Context()
        if carriers:
            parent = set_span_in_context(NonRecordingSpan(carriers[-1]), parent)
        span = self._tracer.start_span(
            "register_series",
            context=parent,
            kind=SpanKind.PRODUCER,
            attributes={
                "pacs_name": exportable(series.pacs_name),
                "SeriesInstanceUID": exportable(series.series_instance_uid),
                "ndicom": ndicom,
            },
            links=[Link(carrier) for carrier in carriers[:-1][-_MAX_LINKS:]],
            start_time=started_ns,
        )
        if attempts is not None:
            span.set_attribute("attempts", attempts)
        _set_status(span, error)
        span.end(max(started_ns, ended_ns))

    def pushed(self, push: Push) -> None:
        attributes: dict[str, str] = {
            "SeriesInstanceUID": exportable(push.series.series_instance_uid),
            "url": exportable(push.url),
        }
        if push.file is not None:
            attributes["fname"] = exportable(push.file)
        name = "push_to_chris"
        if push.metadata is not None:
            name = "register_oxidicom_custom_metadata"
            key, value = push.metadata
            attributes |= {
                "StudyInstanceUID": exportable(push.series.study_instance_uid),
                "oxidicom.custom.key": key,
                "oxidicom.custom.value": value,
            }
        span = self._tracer.start_span(
            name,
            context=self._child_of(push.association_id),
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=push.started_ns,
        )
        for at_ns, error, seconds in push.retries:
            span.add_event(
                "retry_delay",
                {"error": exportable(error), "sleep_duration": seconds},
                at_ns,
            )
        _set_status(span, push.error)
        span.end(max(push.started_ns, push.ended_ns))

    def all_pushed(
        self,
        association_id: str | None,
        association_uuid: str,
        started_ns: int,
        ended_ns: int,
        error: str | None,
    ) -> None:
        span = self._tracer.start_span(
            "register_all_attempted_pushes",
            context=self._child_of(association_id),
            attributes={"association_uuid": association_uuid},
            start_time=started_ns,
        )
        _set_status(span, error)
        span.end(max(started_ns, ended_ns))

    def _child_of(self, association_id: str | None) -> Context:
        carrier = None if association_id is None else self._context(association_id)
        if carrier is None:
            return Context()
        return set_span_in_context(NonRecordingSpan(carrier), Context())

    def _context(self, association_id: str) -> SpanContext | None:
        association = self._open.get(association_id)
        if association is not None:
            return association.span.get_span_context()
        return self._ended.get(association_id)


def exportable(text: str) -> str:
    """Of a length and in an encoding that OTLP takes: one bad text would lose its whole batch."""
    return text[:MAX_TEXT].encode("utf-8", "replace").decode()


def _set_status(span: Span, error: str | None) -> None:
    if error is None:
        span.set_status(Status(StatusCode.OK))
    else:
        span.set_status(Status(StatusCode.ERROR, exportable(error)))
