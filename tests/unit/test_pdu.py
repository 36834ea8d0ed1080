"""Framing: whatever the cuts between receives, the same PDUs (PS3.8 9.3, annex E.2)."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import oxidicom
from oxidicom import constants
from oxidicom._pdu import CommandSet, Data, Framer, Pdu, Violation
from oxidicom.constants import AbortReason, PduType
from tests.support.raw_peer import abort, p_data, pdu, pdv, release_rq

UNEXPECTED = AbortReason.UNEXPECTED_PDU
UNRECOGNIZED = AbortReason.UNRECOGNIZED_PDU
INVALID = AbortReason.INVALID_PDU_PARAMETER_VALUE

RQ = pdu(PduType.A_ASSOCIATE_RQ, b"request")

Event = Pdu | CommandSet | Data | Violation
Plain = tuple[object, ...]


def associated(max_length: int = 0, strict: bool = False) -> Framer:
    framer = Framer(max_length, strict)
    framer.feed(RQ, 0, len(RQ))
    return framer


def plain(event: Event, buffer: bytes) -> Plain:
    if isinstance(event, Data):
        return ("data", event.context_id, buffer[event.start : event.stop], event.last)
    if isinstance(event, CommandSet):
        return ("command", event.context_id, event.data)
    if isinstance(event, Pdu):
        return ("pdu", event.type, event.body)
    return ("violation", event.reason, event.text)


def feed(framer: Framer, stream: bytes, cuts: Iterable[int] = ()) -> list[Plain]:
    """Events of `stream`, cut at `cuts`."""
    ends = [*sorted(cuts), len(stream)]
    events: list[Plain] = []
    start = 0
    for end in ends:
        events += [plain(event, stream) for event in framer.feed(stream, start, end)]
        start = end
    return events


def joined(events: Sequence[Plain]) -> list[Plain]:
    """Neighbouring fragments of one data set as one."""
    result: list[Plain] = []
    for event in events:
        before = result[-1] if result else ("",)
        if event[0] == before[0] == "data" and event[1] == before[1] and not before[3]:
            assert isinstance(before[2], bytes)
            assert isinstance(event[2], bytes)
            result[-1] = ("data", event[1], before[2] + event[2], event[3])
        else:
            result.append(event)
    return result


def violation(framer: Framer, stream: bytes) -> int:
    """The reason of the one event, the same however the stream is cut."""
    ((kind, reason, text),) = feed(framer, stream)
    assert kind == "violation"
    assert text
    assert isinstance(reason, int)
    return reason


# ---- each kind ------------------------------------------------------------------------------


def test_request_release_and_abort_come_whole() -> None:
    stream = RQ + release_rq() + abort(2, 6)
    assert feed(Framer(), stream) == [
        ("pdu", PduType.A_ASSOCIATE_RQ, b"request"),
        ("pdu", PduType.A_RELEASE_RQ, bytes(4)),
        ("pdu", PduType.A_ABORT, bytes((0, 0, 2, 6))),
    ]


def test_a_request_may_be_empty_for_all_that_framing_knows() -> None:
    assert feed(Framer(), pdu(PduType.A_ASSOCIATE_RQ, b"")) == [("pdu", 1, b"")]


def test_command_and_data_are_offsets_into_what_was_fed() -> None:
    stream = p_data(
        pdv(1, b"command", command=True, last=True), pdv(1, b"data", command=False, last=True)
    )
    padding = b"x" * 11
    command, data = associated().feed(padding + stream, len(padding), len(padding + stream))
    assert isinstance(command, CommandSet)
    assert (command.context_id, command.data) == (1, b"command")
    assert isinstance(data, Data)
    assert (padding + stream)[data.start : data.stop] == b"data"
    assert data.last


def test_fragments_of_a_command_are_joined() -> None:
    stream = p_data(pdv(3, b"com", command=True, last=False)) + p_data(
        pdv(3, b"", command=True, last=False), pdv(3, b"mand", command=True, last=True)
    )
    assert feed(associated(), stream) == [("command", 3, b"command")]


@pytest.mark.parametrize("last", [False, True])
def test_empty_fragments_are_accepted(last: bool) -> None:
    stream = p_data(pdv(5, b"", command=False, last=last))
    assert feed(associated(), stream) == [("data", 5, b"", last)]
    stream = p_data(pdv(5, b"", command=True, last=True))
    assert feed(associated(), stream) == [("command", 5, b"")]


def test_a_p_data_tf_without_pdvs_makes_no_event() -> None:
    assert feed(associated(), p_data() + p_data()) == []


def test_other_bits_of_the_message_control_header_are_ignored() -> None:
    # PS3.8 E.2: bits 2 through 7 are never checked by the receiver.
    stream = p_data(struct.pack(">IBB", 3, 1, 0b11111111) + b"c")
    assert feed(associated(), stream) == [("command", 1, b"c")]
    stream = p_data(struct.pack(">IBB", 3, 1, 0b11111110) + b"d")
    assert feed(associated(), stream) == [("data", 1, b"d", True)]


def test_the_reserved_byte_is_ignored() -> None:
    stream = bytearray(release_rq())
    stream[1] = 0xFF
    assert feed(Framer(), bytes(stream)) == [("pdu", PduType.A_RELEASE_RQ, bytes(4))]


# ---- each violation ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [0x00, 0x08, 0x47, 0xFF])
@pytest.mark.parametrize("new", [Framer, associated])
def test_unknown_types_are_refused_at_their_header(kind: int, new: Callable[[], Framer]) -> None:
    assert violation(new(), pdu(kind, b"", 0xFFFFFFFF)) == UNRECOGNIZED


@pytest.mark.parametrize(
    "kind", [PduType.A_ASSOCIATE_AC, PduType.A_ASSOCIATE_RJ, PduType.A_RELEASE_RP]
)
@pytest.mark.parametrize("before", [True, False])
def test_pdus_that_only_a_requestor_receives_are_unexpected(kind: int, before: bool) -> None:
    framer = Framer() if before else associated()
    assert violation(framer, pdu(kind, bytes(4))) == UNEXPECTED


def test_data_before_the_association_are_a_violation() -> None:
    assert violation(Framer(), p_data()) == UNEXPECTED


def test_a_second_request_is_a_violation() -> None:
    assert violation(associated(), RQ) == UNEXPECTED


@pytest.mark.parametrize("more", [RQ, p_data(pdv(1, b"c", command=True, last=True))])
def test_what_comes_with_the_request_comes_too_early(more: bytes) -> None:
    events = feed(Framer(), RQ + more)
    assert [event[:2] for event in events] == [("pdu", 1), ("violation", UNEXPECTED)]


@pytest.mark.parametrize("kind", [PduType.A_RELEASE_RQ, PduType.A_ABORT])
@pytest.mark.parametrize("length", [0, 3, 5, 0xFFFFFFFF])
def test_release_and_abort_have_four_bytes(kind: int, length: int) -> None:
    assert violation(associated(), pdu(kind, b"", length)) == INVALID


def test_requests_over_256_kib_are_refused_at_their_header() -> None:
    limit = constants.MAX_ASSOCIATE_RQ_LENGTH
    assert violation(Framer(), pdu(1, b"", limit + 1)) == INVALID
    assert violation(Framer(), pdu(1, b"", 0xFFFFFFFF)) == INVALID
    ((kind, _, body),) = feed(Framer(), pdu(1, bytes(limit)), [1000, 200_000])
    assert (kind, body) == ("pdu", bytes(limit))


@pytest.mark.parametrize("length", range(1, 6))
def test_a_p_data_tf_too_short_for_a_pdv(length: int) -> None:
    assert violation(associated(), pdu(PduType.P_DATA_TF, b"", length)) == INVALID


@pytest.mark.parametrize("length", [0, 1, 15, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFB, 0xFFFFFFFF])
def test_a_pdv_that_does_not_fit_its_pdu(length: int) -> None:
    body = struct.pack(">IBB", length, 1, 2) + bytes(12)
    assert violation(associated(), pdu(PduType.P_DATA_TF, body)) == INVALID


@pytest.mark.parametrize("left", range(1, 6))
def test_bytes_left_over_after_the_last_pdv(left: int) -> None:
    body = pdv(1, b"c", command=True, last=True) + bytes(left)
    events = feed(associated(), pdu(PduType.P_DATA_TF, body))
    assert [event[:2] for event in events] == [("command", 1), ("violation", INVALID)]


def test_a_data_set_within_a_command_set_is_a_violation() -> None:
    stream = p_data(pdv(1, b"c", command=True, last=False), pdv(1, b"d", command=False, last=True))
    assert violation(associated(), stream) == INVALID


def test_a_command_set_over_two_contexts() -> None:
    stream = p_data(pdv(1, b"c", command=True, last=False), pdv(3, b"c", command=True, last=True))
    assert violation(associated(), stream) == INVALID


def test_a_release_within_a_command_set_is_a_violation() -> None:
    stream = p_data(pdv(1, b"c", command=True, last=False)) + release_rq()
    assert violation(associated(), stream) == UNEXPECTED


def test_an_abort_within_a_command_set_is_an_abort() -> None:
    stream = p_data(pdv(1, b"c", command=True, last=False)) + abort()
    assert feed(associated(), stream) == [("pdu", PduType.A_ABORT, bytes(4))]


def test_command_sets_over_256_kib_are_refused_at_the_header_that_goes_beyond() -> None:
    limit = constants.MAX_COMMAND_LENGTH
    start = p_data(pdv(1, bytes(limit - 1), command=True, last=False))
    assert feed(associated(), start + p_data(pdv(1, b"c", command=True, last=True))) == [
        ("command", 1, bytes(limit - 1) + b"c")
    ]
    header = p_data(pdv(1, b"cc", command=True, last=True))[:12]
    assert violation(associated(), start + header) == INVALID
    header = pdu(PduType.P_DATA_TF, b"", 0xFFFFFFFF) + struct.pack(">IBB", limit + 3, 1, 3)
    assert violation(associated(), header) == INVALID


@pytest.mark.parametrize(
    ("max_length", "strict", "length", "refused"),
    [
        (100, True, 101, True),
        (100, True, 100, False),
        (100, False, 0xFFFFFFFF, False),
        (0, True, 0xFFFFFFFF, False),
    ],
)
def test_longer_than_advertised(max_length: int, strict: bool, length: int, refused: bool) -> None:
    stream = pdu(PduType.P_DATA_TF, struct.pack(">IBB", length - 4, 1, 0), length)
    events = feed(associated(max_length, strict), stream)
    assert [event[:2] for event in events] == ([("violation", INVALID)] if refused else [])


def test_the_longest_pdu_is_streamed() -> None:
    length = 0xFFFFFFFF
    framer = associated()
    header = pdu(PduType.P_DATA_TF, struct.pack(">IBB", length - 4, 1, 2), length)
    assert feed(framer, header) == []
    chunk = bytes(1 << 24)
    left = length - 6
    while left:
        n = min(left, len(chunk))
        (data,) = framer.feed(chunk, 0, n)
        assert isinstance(data, Data)
        left -= n
        assert (data.start, data.stop, data.last) == (0, n, left == 0)
    assert feed(framer, release_rq()) == [("pdu", PduType.A_RELEASE_RQ, bytes(4))]


def test_nothing_follows_a_violation() -> None:
    framer = associated()
    assert violation(framer, pdu(0x47, b"") + release_rq()) == UNRECOGNIZED
    assert feed(framer, release_rq() + RQ) == []
    assert not framer.mid_message


def test_a_closed_framer_makes_no_event() -> None:
    framer = associated()
    feed(framer, p_data(pdv(1, b"c", command=True, last=False)))
    framer.close()
    assert not framer.mid_message
    assert feed(framer, release_rq()) == []


# ---- the rest ---------------------------------------------------------------------------------


def test_mid_message_is_true_between_the_first_and_the_last_byte() -> None:
    stream = p_data(pdv(1, b"co", command=True, last=False)) + p_data(
        pdv(1, b"", command=True, last=True)
    )
    framer = associated()
    assert not framer.mid_message
    for i in range(len(stream)):
        framer.feed(stream, i, i + 1)
        assert framer.mid_message == (i + 1 < len(stream))


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 5), (5, 5)])
def test_a_range_outside_of_the_buffer_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="not inside 4 bytes"):
        Framer().feed(bytes(4), start, stop)


def test_events_show_no_data() -> None:
    events = associated().feed(
        stream := p_data(pdv(1, b"SECRET", command=True, last=True)), 0, len(stream)
    )
    assert repr(events) == "[CommandSet(context_id=1, data=<6 bytes>)]"
    assert repr(Pdu(1, b"SECRET")) == "Pdu(type=1, body=<6 bytes>)"
    assert repr(Data(1, 2, 3, True)) == "Data(context_id=1, start=2, stop=3, last=True)"
    assert repr(Violation(6, "why")) == "Violation(reason=6, text='why')"


PDVS = st.builds(
    pdv,
    st.sampled_from([1, 3]),
    st.binary(max_size=40),
    command=st.booleans(),
    last=st.booleans(),
)
PDUS = st.one_of(
    st.lists(PDVS, max_size=4).map(lambda pdvs: p_data(*pdvs)),
    st.just(release_rq()),
    st.builds(abort, st.integers(0, 2), st.integers(0, 6)),
    st.builds(pdu, st.integers(0, 8), st.binary(max_size=5)),
)
STREAMS = st.one_of(
    st.lists(PDUS, max_size=8).map(b"".join),
    st.builds(
        lambda pdus, tail: b"".join(pdus) + tail,
        st.lists(PDUS, max_size=3),
        st.binary(max_size=40),
    ),
)


@given(STREAMS, st.lists(st.integers(0, 400)))
def test_whole_equals_cut_anywhere(stream: bytes, cuts: list[int]) -> None:
    cuts = [cut for cut in cuts if cut <= len(stream)]
    whole = joined(feed(associated(), stream))
    assert joined(feed(associated(), stream, cuts)) == whole
    assert joined(feed(associated(), stream, range(len(stream)))) == whole


@given(STREAMS)
def test_whole_equals_byte_by_byte_before_the_association_too(stream: bytes) -> None:
    whole = feed(Framer(), stream)
    # A request is the exception: its answer tells what came too early.
    assume(PduType.A_ASSOCIATE_RQ not in [event[1] for event in whole if event[0] == "pdu"])
    assert feed(Framer(), stream, range(len(stream))) == whole


def test_the_constants_of_the_compiled_core_are_those_of_the_package() -> None:
    text = (Path(oxidicom.__file__).parent / "_pdu.pxd").read_text()
    found = {
        name: eval(value, {})
        for name, value in re.findall(r"^ +([A-Z_]+) = ([0-9a-zx* ]+?) *(?:#.*)?$", text, re.M)
    }
    for kind in PduType:
        assert found.pop(kind.name) == kind
    for reason in (UNRECOGNIZED, UNEXPECTED, INVALID):
        assert found.pop(reason.name) == reason
    assert found.pop("MAX_ASSOCIATE_RQ_LENGTH") == constants.MAX_ASSOCIATE_RQ_LENGTH
    assert found.pop("MAX_COMMAND_LENGTH") == constants.MAX_COMMAND_LENGTH
    assert found == {"HEADER_LENGTH": 6, "COMMAND_SET": 1, "LAST_FRAGMENT": 2}
