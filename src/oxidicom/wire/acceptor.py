"""The association acceptor's state table, sans-IO (PS3.8 9.2, states Sta2 to Sta13)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Final

from oxidicom._pdu import CommandSet, Data, Framer, Pdu, Violation
from oxidicom.constants import AbortReason, CommandField, PduType
from oxidicom.errors import AssociationRejectedError, PeerError
from oxidicom.ports import FastPath, StoreOutcome, StoreRequest
from oxidicom.wire import dimse, items, pdus
from oxidicom.wire.events import Associated, Ended, Event, FramerEvent, Output, StoreBegan
from oxidicom.wire.negotiation import AcceptedContext, Policy
from oxidicom.wire.negotiation_cache import agree

_RESPONSE = 0x8000

LONGEST_RESPONSE: Final = 512
"""Bytes that a C-STORE-RSP of legal UIDs stays under, by far."""


class State(Enum):
    AWAITING_REQUEST = auto()  # Sta2
    ESTABLISHED = auto()  # Sta6
    CLOSING = auto()  # Sta13


class Skipped:
    """A data set that nobody wants: its request is answered once it has passed."""

    __slots__ = ("answer",)

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer


class Acceptor:
    """One association as its acceptor.

    `admit` is called before a well-formed request is accepted; it raises AssociationRejectedError
    for reasons outside of the request: too many associations, the peer's network.
    """

    def __init__(
        self, policy: Policy, admit: Callable[[items.AssociateRequest], None] = lambda request: None
    ) -> None:
        self._policy = policy
        self._admit = admit
        self._framer = Framer(policy.max_pdu_length, policy.strict)
        self._contexts: Mapping[int, AcceptedContext] = {}
        self._peer_max_pdu_length = 0
        self._message: StoreRequest | Skipped | None = None
        self._context_id = 0
        self._fast_path: FastPath | None = None
        self.state = State.AWAITING_REQUEST
        self.closing = False
        """The association is over; whatever else arrives is dropped."""
        self._messages = 0

    @property
    def messages(self) -> int:
        """Commands received, which tells one message from the next."""
        return self._messages + (0 if self._fast_path is None else self._fast_path.messages)

    @property
    def fast_path(self) -> FastPath | None:
        """The fast path in use, while no message is under way that is not its own."""
        return self._fast_path if self._message is None else None

    @property
    def _amid_data(self) -> bool:
        return self._message is not None or (self._fast_path is not None and self._fast_path.active)

    @property
    def mid_message(self) -> bool:
        """A message has begun and not ended: the peer owes us bytes."""
        return self._framer.mid_message or self._amid_data

    @property
    def contexts(self) -> Mapping[int, AcceptedContext]:
        """By id; of an association that is established."""
        return self._contexts

    def use(self, fast_path: FastPath) -> None:
        """Let it take usual instances from here on: of those there are no events."""
        # A response in one PDU must fit; what else the peer may mean by so small a limit is not
        # usual either.
        if not 0 < self._peer_max_pdu_length < LONGEST_RESPONSE:
            fast_path.framer = self._framer
            self._fast_path = fast_path

    def take_back(self, request: StoreRequest) -> None:
        """What the fast path had begun: the rest of its data are events."""
        self._message = request
        self._context_id = request.context_id

    def receive(self, buffer: bytearray | bytes, start: int, stop: int) -> list[Event]:
        """Return what bytes [start, stop) of `buffer` amount to. Never raises for what they hold.

        `Data` events are offsets into `buffer`: use them before it is reused.
        """
        if self.closing:
            return []
        return self.take(self._framer.feed(buffer, start, stop, self.fast_path))

    def take(self, found: list[FramerEvent]) -> list[Event]:
        """As `receive`, of what the framer has made of the bytes already."""
        events: list[Event] = []
        for event in found:
            try:
                if type(event) is Data:
                    self._on_data(event, events)
                elif type(event) is CommandSet:
                    self._on_command(event, events)
                elif type(event) is Pdu:
                    self._on_pdu(event, events)
                elif type(event) is Violation:
                    raise PeerError(event.reason, event.text)
            except PeerError as error:
                self._end(events, str(error), pdus.encode_abort(error.source, error.reason))
            if self.closing:
                break
        return events

    def eof(self) -> list[Event]:
        """The peer closed its sending side."""
        events: list[Event] = []
        if not self.closing:
            self._end(events, "connection closed by peer", waits=True)
        return events

    def abort(self, reason: AbortReason, text: str) -> Ended:
        """End it from our side, whatever the peer said last: a time-out, a shutdown, a bug."""
        self._stop()
        return Ended(text, pdus.encode_abort(2, reason))

    def store_request(
        self, context_id: int, message_id: int, sop_class_uid: str, sop_instance_uid: str
    ) -> StoreRequest:
        context = self._contexts[context_id]
        return StoreRequest(
            context_id,
            message_id,
            sop_class_uid,
            sop_instance_uid,
            context.transfer_syntax,
            context.encoding,
        )

    def store_response(self, outcome: StoreOutcome) -> bytes:
        """The P-DATA-TF that answers a `StoreBegan`; not to be sent after the last words."""
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
            if self._amid_data:
                raise PeerError(AbortReason.UNEXPECTED_PDU, "release amid a message")
            # Before association too, as peers expect that ask whether anybody is there.
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
        self, events: list[Event], error: str | None, last_words: bytes = b"", waits: bool = False
    ) -> None:
        self._stop()
        events.append(Ended(error, last_words, waits))

    def _stop(self) -> None:
        self._framer.close()
        self._message = self._fast_path = None
        self.state = State.CLOSING
        self.closing = True

    # ---- messages ------------------------------------------------------------------------

    def _context(self, context_id: int) -> AcceptedContext:
        context = self._contexts.get(context_id)
        if context is None:
            raise PeerError(
                AbortReason.INVALID_PDU_PARAMETER_VALUE,
                f"presentation context {context_id} is not accepted",
            )
        return context

    def _on_command(self, event: CommandSet, events: list[Event]) -> None:
        self._messages += 1
        context = self._context(event.context_id)
        if self._amid_data:
            raise PeerError(AbortReason.INVALID_PDU_PARAMETER_VALUE, "command amid a data set")
        command = dimse.decode_command(event.data)
        if command.field == CommandField.C_STORE_RQ:
            request = self.store_request(
                context.id, command.message_id, command.sop_class_uid, command.sop_instance_uid
            )
            self._message = request
            self._context_id = context.id
            events.append(StoreBegan(request))
            return
        answer = self._answer(command, context.id)
        if command.has_data_set:
            self._message = Skipped(answer)
            self._context_id = context.id
        elif answer is not None:
            events.append(Output(answer))

    def _answer(self, command: dimse.Command, context_id: int) -> bytes | None:
        if command.field == CommandField.C_ECHO_RQ:
            response = dimse.encode_echo_response(command.message_id)
        elif command.field == CommandField.C_CANCEL_RQ or command.field & _RESPONSE:
            return None
        else:
            response = dimse.encode_unsupported_response(command)
        return pdus.p_data(context_id, response, self._peer_max_pdu_length)

    def _on_data(self, event: Data, events: list[Event]) -> None:
        message = self._message
        if event.context_id != self._context_id or message is None:
            self._context(event.context_id)
            raise PeerError(AbortReason.INVALID_PDU_PARAMETER_VALUE, "data set without a command")
        if event.last:
            self._message = None
        if type(message) is StoreRequest:
            events.append(event)
        elif event.last and isinstance(message, Skipped) and message.answer is not None:
            events.append(Output(message.answer))
