"""DIMSE services: which one serves a command, and what becomes of its data set."""

from __future__ import annotations

import pytest

from oxidicom.constants import CommandField, DimseStatus
from oxidicom.wire.dimse import Command
from oxidicom.wire.events import Associated, Event, Output
from oxidicom.wire.negotiation import Policy
from oxidicom.wire.services import SERVICES, refusal, service_of, storage, unanswered, verification
from oxidicom.wire.services.service import DataSetUse, Service
from tests.support import raw_peer as peer
from tests.support.acceptor import FramingAcceptor
from tests.support.raw_peer import Context, command_set, number, p_data, parse_command_set, pdv, uid

N_ACTION_RQ = 0x0130
REQUEST = command_set(
    (0x0003, uid("1.2.3")),
    (0x0100, number(N_ACTION_RQ)),
    (0x0110, number(7)),
    (0x0800, number(1)),
    (0x1001, uid("1.2.3.4")),
)


@pytest.mark.parametrize(
    ("field", "service"),
    [
        (CommandField.C_STORE_RQ, storage.SERVICE),
        (CommandField.C_ECHO_RQ, verification.SERVICE),
        (CommandField.C_CANCEL_RQ, unanswered.SERVICE),
        (CommandField.C_STORE_RSP, unanswered.SERVICE),
        (N_ACTION_RQ, refusal.SERVICE),
        (0x0021, refusal.SERVICE),
    ],
)
def test_each_command_field_has_its_service(field: int, service: Service) -> None:
    assert service_of(field) is service


def test_only_c_store_hands_its_data_set_on() -> None:
    stored = [key for key, each in SERVICES.items() if each.data_set is DataSetUse.STORED]
    assert stored == [CommandField.C_STORE_RQ]


def echoing(max_data_set_bytes: int) -> Service:
    """A service that responds with the data set it got."""

    def respond(command: Command, data_set: bytes) -> bytes:
        assert command.sop_class_uid == "1.2.3"
        return data_set

    return Service(respond, DataSetUse.COLLECTED, max_data_set_bytes)


def responses(service: Service, *fragments: bytes) -> list[bytes]:
    """Return what a further service answers to a request with a data set in these fragments."""
    acceptor = FramingAcceptor(Policy(), services={N_ACTION_RQ: service})
    stream = peer.associate_rq([Context(1, peer.CT_IMAGE_STORAGE, [peer.EXPLICIT])])
    events: list[Event] = acceptor.receive(stream, 0, len(stream))
    assert any(isinstance(event, Associated) for event in events)
    message = p_data(pdv(1, REQUEST, command=True, last=True))
    for fragment in fragments[:-1]:
        message += p_data(pdv(1, fragment, command=False, last=False))
    message += p_data(pdv(1, fragments[-1], command=False, last=True))
    events = []
    for start in range(0, len(message), 50):
        part = message[start : start + 50]
        assert not events, "before the data set has passed"
        events = acceptor.receive(part, 0, len(part))
    assert not acceptor.mid_message
    return [event.data[12:] for event in events if isinstance(event, Output)]


def test_a_collected_data_set_is_given_to_its_service_whole() -> None:
    fragments = (b"one " * 20, b"two " * 20, b"three ")
    assert responses(echoing(200), *fragments) == [b"".join(fragments)]


def test_a_data_set_beyond_the_limit_of_its_service_is_answered_by_a_failure() -> None:
    (response,) = responses(echoing(99), b"x" * 98, b"yz")
    elements = parse_command_set(response)
    assert elements[0x0100] == number(N_ACTION_RQ | 0x8000)
    assert elements[0x0120] == number(7)
    assert elements[0x0900] == number(DimseStatus.PROCESSING_FAILURE)
    assert elements[0x0902] == b"Data set is too long"


def test_a_skipped_data_set_is_not_kept() -> None:
    service = Service(lambda command, data_set: b"%d" % len(data_set), DataSetUse.SKIPPED, 1000)
    assert responses(service, b"x" * 98, b"yz") == [b"0"]
