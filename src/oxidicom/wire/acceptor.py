"""The association acceptor's state table, sans-IO (PS3.8 9.2, states Sta2 to Sta13)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Final

from oxidicom._pdu import CommandSet, Data, Framer, Pdu, Violation
from oxidicom.constants import AbortReason, DimseStatus, PduType
from oxidicom.errors import AssociationRejectedError, PeerError
from oxidicom.ports import StoreOutcome, StoreRequest
from oxidicom.wire import dimse, items, pdus
from oxidicom.wire.events import Associated, Ended, Event, FramerEvent, Output, StoreBegan
from oxidicom.wire.negotiation import AcceptedContext, Policy
from oxidicom.wire.negotiation_cache import agree
from oxidicom.wire.services import SERVICES, service_of
from oxidicom.wire.services.service import DataSetUse, Service

MAX_RESPONSE_BYTES: Final = 512
"""Maximum Length of a peer, in bytes, from which any C-STORE-RSP of the fast path fits into one
PDU."""


class State(Enum):
    """The states of an association, as its acceptor sees it (PS3.8 9.2)."""

    AWAITING_REQUEST = auto()
    """The A-ASSOCIATE-RQ has not arrived (Sta2)."""
    ESTABLISHED = auto()
    """Messages are received (Sta6)."""
    CLOSING = auto()
    """The association has ended; all further bytes are ignored (Sta13)."""


class PendingResponse:
    """A request other than C-STORE, whose response is due after its data set."""

    __slots__ = ("_collected", "_command", "_service")

    def __init__(self, service: Service, command: dimse.Command) -> None:
        self._service = service
        self._command = command
        self._collected: bytearray | None = bytearray()

    def collect(self, fragment: memoryview) -> None:
        """Keep a fragment if the service collects data sets; drop all if they are too long."""
        if self._service.data_set is DataSetUse.COLLECTED and self._collected is not None:
            if len(self._collected) + len(fragment) <= self._service.max_data_set_bytes:
                self._collected += fragment
            else:
                self._collected = None

    def response(self) -> bytes | None:
        """Return the command set of the response, or None if the service sends no response."""
        if self._collected is None:
            return dimse.encode_failure(
                self._command, DimseStatus.PROCESSING_FAILURE, "Data set is too long"
            )
        return self._service.respond(self._command, bytes(self._collected))


class Acceptor:
    """One association in the role of acceptor.

    `admit` is called with each well-formed request before it is negotiated. It raises
    AssociationRejectedError for reasons outside of the request, such as too many associations or
    the peer's network. `services` maps Command Fields to services.
    """

    def __init__(
        self,
        policy: Policy,
        admit: Callable[[items.AssociateRequest], None] = lambda request: None,
        services: Mapping[int, Service] = SERVICES,
    ) -> None:
        self._policy = policy
        self._admit = admit
        self._services = services
        self._contexts: Mapping[int, AcceptedContext] = {}
        self._peer_max_pdu_length = 0
        self._message: StoreRequest | PendingResponse | None = None
        self._context_id = 0
        self.framer = Framer(policy.max_pdu_length, policy.strict)
        """Framer of the connection, which makes the events for `handle`."""
        self.state = State.AWAITING_REQUEST

    @property
    def is_over(self) -> bool:
        """Whether the association has ended, or can no longer begin."""
        return self.state is State.CLOSING

    @property
    def mid_message(self) -> bool:
        """Whether a PDU or a message is incomplete, so that the peer must send more bytes."""
        return self.framer.mid_message or self._message is not None

    @property
    def contexts(self) -> Mapping[int, AcceptedContext]:
        """Accepted presentation contexts by id; empty before the association is established."""
        return self._contexts

    @property
    def responses_fit_one_pdu(self) -> bool:
        """Whether the peer receives PDUs long enough for each C-STORE-RSP of the fast path."""
        return not 0 < self._peer_max_pdu_length < MAX_RESPONSE_BYTES

    def handle(self, framed: list[FramerEvent], buffer: bytearray | bytes) -> list[Event]:
        """Return the events that result from events of the framer.

        `buffer` must hold the bytes that were framed. `Data` events are offsets into it and must be
        used before it is reused. A violation by the peer does not raise; it ends the association.
        """
        events: list[Event] = []
        closing = State.CLOSING
        for event in framed:
            if self.state is closing:
                break
            try:
                if type(event) is Data:
                    self._on_data(event, buffer, events)
                elif type(event) is CommandSet:
                    self._on_command(event, events)
                elif type(event) is Pdu:
                    self._on_pdu(event, events)
                elif type(event) is Violation:
                    raise PeerError(event.reason, event.text)
            except PeerError as error:
                self._end(events, str(error), pdus.encode_abort(error.source, error.reason))
        self.framer.offering = self._message is None
        return events

    def resume(self, request: StoreRequest) -> None:
        """Continue a C-STORE-RQ that the consumer took; the rest of its data set makes events."""
        self._message = request
        self._context_id = request.context_id
        self.framer.offering = False

    def eof(self) -> list[Event]:
        """End the association, because the peer has closed its sending side; return its `Ended`.

        Return no event if the association has ended before.
        """
        events: list[Event] = []
        if not self.is_over:
            self._end(events, "connection closed by peer", waits=True)
        return events

    def abort(self, reason: AbortReason, text: str) -> Ended:
        """End the association from our side, and return its `Ended` with an A-ABORT of source 2.

        `text` says why it ends, such as a timeout, a shutdown or a bug.
        """
        self._stop()
        return Ended(text, pdus.encode_abort(2, reason))

    def store_response(self, outcome: StoreOutcome) -> bytes:
        """Return the C-STORE-RSP for the request of `outcome`, as P-DATA-TF PDUs.

        It must not be sent after the `last_pdu` of `Ended`.
        """
        request = outcome.request
        response = dimse.encode_store_response(
            request.message_id,
            request.sop_class_uid,
            request.sop_instance_uid,
            outcome.status,
            outcome.comment,
            outcome.offending,
        )
        return pdus.p_data(request.context_id, response, self._peer_max_pdu_length)

    # ---- PDUs ----------------------------------------------------------------------------

    def _on_pdu(self, pdu: Pdu, events: list[Event]) -> None:
        if pdu.type == PduType.A_ASSOCIATE_RQ:
            self._on_associate_rq(pdu.body, events)
        elif pdu.type == PduType.A_RELEASE_RQ:
            if self._data_set_is_due:
                raise PeerError(AbortReason.UNEXPECTED_PDU, "release before the end of a message")
            # Answered before an association too, because peers that test the connection expect it.
            error = None if self.state is State.ESTABLISHED else "never associated"
            self._end(events, error, pdus.encode_release_rp(), waits=True)
        else:
            source, reason = pdu.body[2], pdu.body[3]
            self._end(events, f"aborted by peer (source {source}, reason {reason})")

    def _on_associate_rq(self, body: bytes, events: list[Event]) -> None:
        try:
            request, negotiated, associate_ac = agree(body, self._policy, self._admit)
        except AssociationRejectedError as error:
            rejection = pdus.encode_associate_rj(error.result, error.source, error.reason)
            self._end(events, f"rejected: {error}", rejection)
            return
        self._contexts = negotiated.contexts
        self._peer_max_pdu_length = negotiated.peer_max_pdu_length
        self.state = State.ESTABLISHED
        events.append(Output(associate_ac))
        events.append(Associated(request))

    def _end(
        self, events: list[Event], error: str | None, last_pdu: bytes = b"", waits: bool = False
    ) -> None:
        self._stop()
        events.append(Ended(error, last_pdu, waits))

    def _stop(self) -> None:
        self.framer.close()
        self._message = None
        self.state = State.CLOSING

    # ---- messages ------------------------------------------------------------------------

    def _context(self, context_id: int) -> AcceptedContext:
        context = self._contexts.get(context_id)
        if context is None:
            raise PeerError(
                AbortReason.INVALID_PDU_PARAMETER_VALUE,
                f"presentation context {context_id} is not accepted",
            )
        return context

    @property
    def _data_set_is_due(self) -> bool:
        return self._message is not None or self.framer.consuming

    def _on_command(self, event: CommandSet, events: list[Event]) -> None:
        context = self._context(event.context_id)
        if self._data_set_is_due:
            raise PeerError(
                AbortReason.INVALID_PDU_PARAMETER_VALUE, "command before the end of a data set"
            )
        command = dimse.decode_command(event.data)
        service = service_of(command.field, self._services)
        self._context_id = context.id
        if service.data_set is DataSetUse.STORED:
            self._message = StoreRequest(
                context.id,
                command.message_id,
                command.sop_class_uid,
                command.sop_instance_uid,
                context.transfer_syntax,
                context.encoding,
            )
            events.append(StoreBegan(self._message))
            return
        pending = PendingResponse(service, command)
        if command.has_data_set:
            self._message = pending
        else:
            self._respond(pending, events)

    def _on_data(self, event: Data, buffer: bytearray | bytes, events: list[Event]) -> None:
        message = self._message
        if event.context_id != self._context_id or message is None:
            self._context(event.context_id)
            raise PeerError(AbortReason.INVALID_PDU_PARAMETER_VALUE, "data set without a command")
        if event.last:
            self._message = None
        if type(message) is StoreRequest:
            events.append(event)
        elif isinstance(message, PendingResponse):
            message.collect(memoryview(buffer)[event.start : event.stop])
            if event.last:
                self._respond(message, events)

    def _respond(self, pending: PendingResponse, events: list[Event]) -> None:
        response = pending.response()
        if response is not None:
            events.append(
                Output(pdus.p_data(self._context_id, response, self._peer_max_pdu_length))
            )
