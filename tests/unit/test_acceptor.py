"""The acceptor's state table: each event in each state (PS3.8 9.2; decisions 10, 14, 17, 18)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxidicom.constants import AbortReason, DimseStatus, Encoding
from oxidicom.errors import AssociationRejectedError
from oxidicom.ports import StoreOutcome, StoreRequest
from oxidicom.wire.acceptor import State
from oxidicom.wire.events import Associated, Data, Ended, Event, Output, StoreBegan
from oxidicom.wire.items import AssociateRequest
from oxidicom.wire.negotiation import Policy
from tests.support import raw_peer as peer
from tests.support.acceptor import FramingAcceptor
from tests.support.raw_peer import Context, p_data, parse_command_set, pdu, pdv

CT = peer.CT_IMAGE_STORAGE
RQ = peer.associate_rq(
    [
        Context(1, CT, [peer.EXPLICIT]),
        Context(3, peer.VERIFICATION, [peer.IMPLICIT]),
        Context(5, "1.2.3", [peer.IMPLICIT]),
    ]
)
STORE = peer.c_store_rq(CT, "1.2.3.4", 7)
REQUEST = StoreRequest(1, 7, CT, "1.2.3.4", peer.EXPLICIT, Encoding.EXPLICIT_LE)
RELEASE = bytes((6, 0, 0, 0, 0, 4, 0, 0, 0, 0))

Seen = tuple[object, ...] | Event


def command(data: bytes, context_id: int = 1) -> bytes:
    return p_data(pdv(context_id, data, command=True, last=True))


def data(fragment: bytes, context_id: int = 1, *, last: bool = True) -> bytes:
    return p_data(pdv(context_id, fragment, command=False, last=last))


def refused(reason: int) -> bytes:
    return bytes((7, 0, 0, 0, 0, 4, 0, 0, 2, reason))


def receive(acceptor: FramingAcceptor, stream: bytes) -> list[Seen]:
    """Data as ("data", bytes, last), all else as it is."""
    return [
        ("data", stream[event.start : event.stop], event.last) if isinstance(event, Data) else event
        for event in acceptor.receive(stream, 0, len(stream))
    ]


def established(policy: Policy | None = None) -> FramingAcceptor:
    acceptor = FramingAcceptor(policy or Policy())
    acceptor.receive(RQ, 0, len(RQ))
    assert acceptor.state is State.ESTABLISHED
    return acceptor


def within_data() -> FramingAcceptor:
    acceptor = established()
    receive(acceptor, command(STORE) + data(b"some", last=False))
    return acceptor


def within_skipped_data() -> FramingAcceptor:
    acceptor = established()
    receive(acceptor, command(find_rq()) + data(b"some", last=False))
    return acceptor


def find_rq(field: int = 0x0020, data_set: int = 1) -> bytes:
    return peer.command_set(
        (0x0002, peer.uid("1.2.840.10008.5.1.4.1.2.1.1")),
        (0x0100, peer.number(field)),
        (0x0110, peer.number(9)),
        (0x0800, peer.number(data_set)),
    )


def answers(events: Sequence[Seen]) -> list[dict[int, bytes]]:
    """The command sets of all responses."""
    found = []
    for event in events:
        assert isinstance(event, Output)
        assert event.data[:1] == b"\4"
        found.append(parse_command_set(event.data[12:]))
    return found


def ended(events: Sequence[Seen]) -> Ended:
    (event,) = events
    assert isinstance(event, Ended)
    return event


def assert_over(acceptor: FramingAcceptor) -> None:
    """Sta13: nothing comes of anything."""
    assert acceptor.state is State.CLOSING
    assert not acceptor.mid_message
    for stream in (RQ, command(STORE), peer.release_rq(), peer.abort(), pdu(9, b"")):
        assert receive(acceptor, stream) == []
    assert acceptor.eof() == []


# ---- Sta2: awaiting A-ASSOCIATE-RQ -----------------------------------------------------------


def test_an_accepted_request_is_answered_before_it_is_reported() -> None:
    acceptor = FramingAcceptor(Policy())
    answer, told = receive(acceptor, RQ)
    assert isinstance(answer, Output)
    assert answer.data[0] == 2
    assert peer.context_results(answer.data[6:]) == {
        1: (0, peer.EXPLICIT),
        3: (0, peer.IMPLICIT),
        5: (3, peer.IMPLICIT),
    }
    assert isinstance(told, Associated)
    assert told.request.calling_ae_title == "RAWPEER"
    assert acceptor.state is State.ESTABLISHED


def test_a_request_of_another_protocol_version_is_rejected() -> None:
    acceptor = FramingAcceptor(Policy())
    end = ended(receive(acceptor, peer.associate_rq([], version=2)))
    assert end.last_pdu == bytes((3, 0, 0, 0, 0, 4, 0, 1, 2, 2))
    assert end.error is not None
    assert end.error.startswith("rejected: ")
    assert_over(acceptor)


def test_admission_may_reject_for_reasons_outside_of_the_request() -> None:
    asked: list[str] = []

    def admit(request: AssociateRequest) -> None:
        asked.append(request.calling_ae_title)
        raise AssociationRejectedError(2, 3, 2, "full")

    acceptor = FramingAcceptor(Policy(), admit)
    end = ended(receive(acceptor, RQ))
    assert end == Ended("rejected: full", bytes((3, 0, 0, 0, 0, 4, 0, 2, 3, 2)))
    assert asked == ["RAWPEER"]
    assert_over(acceptor)


@pytest.mark.parametrize("body", [b"", bytes(67), RQ[6:-1], RQ[6:] + b"\x20"])
def test_a_malformed_request_is_an_invalid_parameter(body: bytes) -> None:
    acceptor = FramingAcceptor(Policy())
    assert ended(receive(acceptor, pdu(1, body))).last_pdu == refused(6)
    assert_over(acceptor)


def test_an_overlong_request_is_refused_at_its_header() -> None:
    acceptor = FramingAcceptor(Policy())
    assert ended(receive(acceptor, pdu(1, b"", 256 * 1024 + 1))).last_pdu == refused(6)


@pytest.mark.parametrize("kind", [2, 3, 4, 6])
def test_a_wrong_first_pdu_is_unexpected(kind: int) -> None:
    acceptor = FramingAcceptor(Policy())
    assert ended(receive(acceptor, pdu(kind, bytes(4)))).last_pdu == refused(2)
    assert_over(acceptor)


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01", bytes(6)]
)
def test_bytes_that_are_no_pdu_are_unrecognized(first: bytes) -> None:
    assert ended(receive(FramingAcceptor(Policy()), first)).last_pdu == refused(1)


def test_a_release_before_association_is_answered() -> None:
    acceptor = FramingAcceptor(Policy())
    end = ended(receive(acceptor, peer.release_rq()))
    assert end.last_pdu == RELEASE
    assert end.error == "never associated"
    assert_over(acceptor)


def test_an_abort_before_association_just_closes() -> None:
    acceptor = FramingAcceptor(Policy())
    assert ended(receive(acceptor, peer.abort())).last_pdu == b""
    assert_over(acceptor)


def test_the_end_of_the_stream_before_association_closes() -> None:
    acceptor = FramingAcceptor(Policy())
    (end,) = acceptor.eof()
    assert isinstance(end, Ended)
    assert end.last_pdu == b""
    assert_over(acceptor)


def test_we_may_abort_before_association() -> None:
    acceptor = FramingAcceptor(Policy())
    assert acceptor.abort(AbortReason.NOT_SPECIFIED, "bug") == Ended("bug", refused(0))
    assert_over(acceptor)


# ---- Sta6: established -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [1, 2, 3, 6])
@pytest.mark.parametrize("state", [established, within_data, within_skipped_data])
def test_unexpected_pdus_abort_an_association(
    kind: int, state: Callable[[], FramingAcceptor]
) -> None:
    acceptor = state()
    stream = RQ if kind == 1 else pdu(kind, bytes(4))
    assert ended(receive(acceptor, stream)).last_pdu == refused(2)
    assert_over(acceptor)


@pytest.mark.parametrize("state", [established, within_data, within_skipped_data])
def test_unrecognized_pdus_abort_an_association(state: Callable[[], FramingAcceptor]) -> None:
    acceptor = state()
    assert ended(receive(acceptor, pdu(8, bytes(4)))).last_pdu == refused(1)
    assert_over(acceptor)


def test_two_requests_in_one_segment_are_one_association_and_an_abort() -> None:
    acceptor = FramingAcceptor(Policy())
    answer, told, end = receive(acceptor, RQ + RQ)
    assert isinstance(answer, Output)
    assert isinstance(told, Associated)
    assert isinstance(end, Ended)
    assert end.last_pdu == refused(2)


def test_a_release_is_no_error_and_follows_the_responses() -> None:
    acceptor = established()
    assert receive(acceptor, peer.release_rq()) == [Ended(None, RELEASE, waits=True)]
    assert_over(acceptor)


@pytest.mark.parametrize("state", [within_data, within_skipped_data])
def test_a_release_within_a_message_is_unexpected(state: Callable[[], FramingAcceptor]) -> None:
    acceptor = state()
    assert ended(receive(acceptor, peer.release_rq())).last_pdu == refused(2)
    assert_over(acceptor)


def test_a_release_between_command_and_data_is_unexpected() -> None:
    acceptor = established()
    receive(acceptor, command(STORE))
    assert ended(receive(acceptor, peer.release_rq())).last_pdu == refused(2)


def test_a_release_within_a_command_is_unexpected() -> None:
    acceptor = established()
    assert receive(acceptor, p_data(pdv(1, STORE[:9], command=True, last=False))) == []
    assert ended(receive(acceptor, peer.release_rq())).last_pdu == refused(2)


@pytest.mark.parametrize("state", [established, within_data, within_skipped_data])
def test_an_abort_by_the_peer_ends_the_association(state: Callable[[], FramingAcceptor]) -> None:
    acceptor = state()
    assert receive(acceptor, peer.abort(2, 6)) == [Ended("aborted by peer (source 2, reason 6)")]
    assert_over(acceptor)


@pytest.mark.parametrize("state", [established, within_data, within_skipped_data])
def test_after_the_end_of_the_stream_responses_may_still_be_read(
    state: Callable[[], FramingAcceptor],
) -> None:
    acceptor = state()
    assert acceptor.eof() == [Ended("connection closed by peer", waits=True)]
    assert_over(acceptor)


@pytest.mark.parametrize("state", [established, within_data, within_skipped_data])
def test_our_abort_ends_the_association(state: Callable[[], FramingAcceptor]) -> None:
    acceptor = state()
    assert acceptor.abort(AbortReason.NOT_SPECIFIED, "idle") == Ended("idle", refused(0))
    assert_over(acceptor)


# ---- C-STORE ---------------------------------------------------------------------------------


def test_a_store_and_its_response() -> None:
    acceptor = established()
    assert receive(acceptor, command(STORE)) == [StoreBegan(REQUEST)]
    assert acceptor.mid_message
    assert receive(acceptor, data(b"one", last=False)) == [("data", b"one", False)]
    assert receive(acceptor, data(b"two")) == [("data", b"two", True)]
    assert not acceptor.mid_message
    response = acceptor.store_response(StoreOutcome(REQUEST, DimseStatus.SUCCESS))
    assert (
        response[:12]
        == pdu(4, b"", len(response) - 6)
        + pdv(1, bytes(len(response) - 12), command=True, last=True)[:6]
    )
    elements = parse_command_set(response[12:])
    assert elements[0x0100] == peer.number(0x8001)
    assert elements[0x0120] == peer.number(7)
    assert elements[0x0900] == peer.number(0)
    assert elements[0x1000] == b"1.2.3.4\0"


def test_a_refusal_has_status_and_comment() -> None:
    outcome = StoreOutcome(REQUEST, DimseStatus.CANNOT_UNDERSTAND, "no tag", 0x0020000D)
    elements = parse_command_set(established().store_response(outcome)[12:])
    assert elements[0x0900] == peer.number(0xC000)
    assert elements[0x0901] == bytes.fromhex("20000d00")
    assert elements[0x0902] == b"no tag"


def test_a_response_is_due_even_where_the_release_came_with_the_data_set() -> None:
    acceptor = established()
    *_, end = receive(acceptor, command(STORE) + data(b"d") + peer.release_rq())
    assert end == Ended(None, RELEASE, waits=True)
    assert acceptor.store_response(StoreOutcome(REQUEST, DimseStatus.SUCCESS))


def test_responses_keep_to_the_peers_maximum_length() -> None:
    request = peer.associate_rq([Context(1, CT, [peer.EXPLICIT])], max_length=40)
    acceptor = FramingAcceptor(Policy())
    receive(acceptor, request)
    response = acceptor.store_response(StoreOutcome(REQUEST, DimseStatus.SUCCESS))
    joined = b""
    while response:
        length = int.from_bytes(response[2:6])
        assert length <= 40
        joined += response[12 : 6 + length]
        response = response[6 + length :]
    assert parse_command_set(joined)[0x0120] == peer.number(7)


def test_pipelined_messages_come_in_order() -> None:
    other = peer.c_store_rq(CT, "1.2.3.5", 8)
    stream = (
        command(STORE)
        + data(b"one")
        + command(peer.c_echo_rq(3), 3)
        + command(other)
        + data(b"two", last=False)
        + data(b"")
        + peer.release_rq()
    )
    began, first, echo, again, *rest = receive(established(), stream)
    assert (began, first) == (StoreBegan(REQUEST), ("data", b"one", True))
    assert answers([echo])[0][0x0120] == peer.number(3)
    assert again == StoreBegan(REQUEST._replace(message_id=8, sop_instance_uid="1.2.3.5"))
    assert rest == [
        ("data", b"two", False),
        ("data", b"", True),
        Ended(None, RELEASE, waits=True),
    ]


def test_messages_are_counted() -> None:
    acceptor = established()
    assert acceptor.framer.commands == 0
    receive(acceptor, command(STORE) + data(b"one") + command(peer.c_echo_rq(), 3))
    assert acceptor.framer.commands == 2


@given(st.lists(st.integers(0, 2000)))
def test_a_store_is_the_same_however_its_bytes_are_cut(cuts: list[int]) -> None:
    stream = command(STORE) + data(bytes(range(200)), last=False) + data(b"end")
    acceptor = established()
    seen: list[Seen] = []
    ends = [*sorted(cut for cut in cuts if cut <= len(stream)), len(stream)]
    for start, end in zip([0, *ends], ends, strict=False):
        seen += receive(acceptor, stream[start:end])
    assert seen[0] == StoreBegan(REQUEST)
    fragments = [event for event in seen[1:] if isinstance(event, tuple) and event[0] == "data"]
    assert len(fragments) == len(seen) - 1
    values = [event[1] for event in fragments if isinstance(event[1], bytes)]
    assert b"".join(values) == bytes(range(200)) + b"end"
    assert [event[2] for event in fragments] == [False] * (len(fragments) - 1) + [True]


# ---- what breaks DIMSE (decisions 10, 17) -----------------------------------------------------


@pytest.mark.parametrize(
    "stream",
    [
        data(b"d"),
        data(b"", last=False),
        command(STORE) + data(b"d") + data(b"d"),
        command(STORE) + data(b"d", 3),
        command(STORE) + data(b"d", 9),
        command(STORE) + command(STORE),
        command(STORE) + command(peer.c_echo_rq(), 3),
        command(find_rq()) + command(STORE),
        command(STORE, 5),
        command(STORE, 7),
        command(STORE, 0),
        data(b"d", 5),
        command(b""),
        command(STORE[:-1]),
        command(peer.c_store_rq(None, "1.2.3")),
        command(peer.c_store_rq(CT, None)),
        command(peer.c_store_rq(CT, "1.2.3", None)),
        command(peer.c_store_rq(CT, "1.2.3", data_set=False)),
        p_data(pdv(1, bytes(200_000), command=True, last=False))
        + p_data(pdv(1, bytes(100_000), command=True, last=True)),
        pdu(4, bytes(3)),
    ],
)
def test_broken_messages_are_invalid_parameters(stream: bytes) -> None:
    acceptor = established()
    end = receive(acceptor, stream)[-1]
    assert isinstance(end, Ended)
    assert end.last_pdu == refused(6)
    assert end.error
    assert not end.waits
    assert_over(acceptor)


def test_longer_than_advertised_is_a_fault_only_when_strict() -> None:
    stream = command(STORE) + data(bytes(2000))
    acceptor = established(Policy(max_pdu_length=1000, strict=True))
    assert receive(acceptor, stream)[-1] == Ended("P-DATA-TF longer than advertised", refused(6))
    acceptor = established(Policy(max_pdu_length=1000))
    assert receive(acceptor, stream)[-1] == ("data", bytes(2000), True)


# ---- other commands (decision 18) -------------------------------------------------------------


def test_an_echo_is_answered_with_its_own_message_id() -> None:
    acceptor = established()
    (elements,) = answers(receive(acceptor, command(peer.c_echo_rq(77), 3)))
    assert elements[0x0100] == peer.number(0x8030)
    assert elements[0x0120] == peer.number(77)
    assert elements[0x0002] == peer.uid(peer.VERIFICATION)
    assert elements[0x0900] == peer.number(0)


def test_unknown_commands_are_unrecognized_operations_and_the_association_continues() -> None:
    acceptor = established()
    for field in (0x0010, 0x0020, 0x0021, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150):
        (elements,) = answers(receive(acceptor, command(find_rq(field, 0x0101))))
        assert elements[0x0100] == peer.number(field | 0x8000)
        assert elements[0x0120] == peer.number(9)
        assert elements[0x0900] == peer.number(0x0211)
    assert receive(acceptor, command(STORE)) == [StoreBegan(REQUEST)]


def test_the_data_set_of_an_unknown_command_is_skipped_and_then_answered() -> None:
    acceptor = established()
    assert receive(acceptor, command(find_rq())) == []
    assert acceptor.mid_message
    assert receive(acceptor, data(b"ident", last=False)) == []
    (elements,) = answers(receive(acceptor, data(b"ifier")))
    assert elements[0x0900] == peer.number(0x0211)
    assert not acceptor.mid_message
    assert receive(acceptor, command(STORE)) == [StoreBegan(REQUEST)]


@pytest.mark.parametrize("field", [0x8001, 0x8020, 0x8030])
def test_responses_are_ignored_with_their_data_sets(field: int) -> None:
    acceptor = established()
    assert receive(acceptor, command(find_rq(field, 0x0101))) == []
    assert receive(acceptor, command(find_rq(field)) + data(b"x", last=False) + data(b"")) == []
    assert receive(acceptor, command(STORE)) == [StoreBegan(REQUEST)]


def test_a_cancel_request_is_not_answered() -> None:
    cancel = peer.command_set(
        (0x0100, peer.number(0x0FFF)), (0x0120, peer.number(1)), (0x0800, peer.number(0x0101))
    )
    acceptor = established()
    assert receive(acceptor, command(cancel)) == []
    assert receive(acceptor, peer.release_rq()) == [Ended(None, RELEASE, waits=True)]
