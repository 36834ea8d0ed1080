"""Whatever bytes come on a connection: no exception, bounded memory, and nothing after the end."""

from __future__ import annotations

import tracemalloc
from struct import pack

from hypothesis import given, settings
from hypothesis import strategies as st

from oxidicom.constants import DimseStatus
from oxidicom.ports import StoreOutcome
from oxidicom.wire.acceptor import State
from oxidicom.wire.events import Associated, Data, Ended, Event, Output, StoreBegan
from oxidicom.wire.negotiation import Policy
from tests.support import raw_peer as peer
from tests.support.acceptor import FramingAcceptor
from tests.support.raw_peer import Context, p_data, pdu, pdv

CT = peer.CT_IMAGE_STORAGE
CONTEXTS = [
    Context(1, CT, [peer.EXPLICIT]),
    Context(3, peer.VERIFICATION, [peer.IMPLICIT]),
    Context(5, "1.2.3", [peer.IMPLICIT]),
]
POLICIES = st.builds(
    Policy,
    strict=st.booleans(),
    promiscuous=st.booleans(),
    max_pdu_length=st.sampled_from([0, 1, 100, 131072]),
)
REQUESTS = st.builds(
    lambda version, max_length: peer.associate_rq(CONTEXTS, version=version, max_length=max_length),
    st.sampled_from([1, 1, 1, 2, 3]),
    st.sampled_from([None, 0, 1, 6, 7, 40, 16384]),
)
COMMANDS = st.one_of(
    st.builds(peer.c_store_rq, st.sampled_from([CT, None]), st.just("1.2.3"), st.just(1)),
    st.builds(peer.c_echo_rq, st.integers(0, 0xFFFF)),
    st.builds(
        lambda field, data_set: peer.command_set(
            (0x0100, peer.number(field)),
            (0x0110, peer.number(1)),
            (0x0800, peer.number(data_set)),
        ),
        st.sampled_from([0x0001, 0x0020, 0x0FFF, 0x8001, 0x8020]),
        st.sampled_from([1, 0x0101]),
    ),
    st.binary(max_size=60),
)
IDS = st.sampled_from([1, 1, 1, 3, 5, 0])
MESSAGES = st.one_of(
    st.builds(
        lambda context, command, fragments: p_data(
            pdv(context, command, command=True, last=True),
            *(pdv(context, fragment, command=False, last=False) for fragment in fragments),
            pdv(context, b"", command=False, last=True),
        ),
        IDS,
        COMMANDS,
        st.lists(st.binary(max_size=50), max_size=3),
    ),
    st.builds(
        lambda context, command, last: p_data(pdv(context, command, command=True, last=last)),
        IDS,
        COMMANDS,
        st.booleans(),
    ),
    st.builds(
        lambda context, data, last: p_data(pdv(context, data, command=False, last=last)),
        IDS,
        st.binary(max_size=50),
        st.booleans(),
    ),
)
CONTROL = st.one_of(
    st.just(peer.release_rq()),
    st.just(peer.abort()),
    st.builds(pdu, st.integers(0, 9), st.binary(max_size=80)),
    st.builds(
        lambda kind, length, body: pack(">BxI", kind, length) + body,
        st.integers(0, 9),
        st.integers(0, 0xFFFFFFFF),
        st.binary(max_size=40),
    ),
    st.binary(max_size=40),
)
BODIES = st.lists(st.one_of(MESSAGES, MESSAGES, CONTROL), max_size=8).map(b"".join)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Receives of one connection: mostly well formed, with a few bytes changed, cut anywhere."""
    parts = []
    if draw(st.integers(0, 9)):
        parts.append(draw(REQUESTS))
    body = bytearray(draw(BODIES))
    for _ in range(draw(st.integers(0, 3))):
        if body:
            body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=5)))
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        parts.append(bytes(body[start:end]))
    if draw(st.booleans()):
        parts = [b"".join(parts)]
    return parts


class Checker:
    """That events come in an order that makes sense, and refer to bytes that are there."""

    def __init__(self, acceptor: FramingAcceptor) -> None:
        self.acceptor = acceptor
        self.associated = False
        self.storing: StoreBegan | None = None
        self.ended = False

    def see(self, event: Event, length: int) -> None:
        assert not self.ended
        if isinstance(event, Associated):
            assert not self.associated
            self.associated = True
        elif isinstance(event, StoreBegan):
            assert self.associated
            assert self.storing is None
            self.storing = event
        elif isinstance(event, Data):
            assert self.storing is not None
            assert 0 <= event.start <= event.stop <= length
            if event.last:
                outcome = StoreOutcome(self.storing.request, DimseStatus.SUCCESS)
                assert self.acceptor.store_response(outcome)
                self.storing = None
        elif isinstance(event, Ended):
            self.ended = True
            assert not self.acceptor.mid_message
        else:
            assert isinstance(event, Output)
            assert event.data


@settings(max_examples=400, deadline=None)
@given(POLICIES, streams())
def test_any_bytes_are_events_or_the_end(policy: Policy, receives: list[bytes]) -> None:
    acceptor = FramingAcceptor(policy)
    checker = Checker(acceptor)
    for receive in receives:
        for event in acceptor.receive(receive, 0, len(receive)):
            checker.see(event, len(receive))
        assert (acceptor.state is State.CLOSING) == checker.ended
    for event in acceptor.eof():
        checker.see(event, 0)
    assert checker.ended
    assert acceptor.receive(peer.release_rq(), 0, 10) == []
    assert acceptor.eof() == []


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise_ends_a_connection_or_waits_for_more(noise: bytes) -> None:
    acceptor = FramingAcceptor(Policy())
    events = acceptor.receive(noise, 0, len(noise))
    assert [type(event) for event in events] == (
        [Ended] if (acceptor.state is State.CLOSING) else []
    )


def test_what_is_kept_of_a_connection_is_bounded() -> None:
    """A peer that claims the most and sends a lot, in small pieces that never end."""
    request = peer.associate_rq(CONTEXTS)
    acceptor = FramingAcceptor(Policy())
    acceptor.receive(request, 0, len(request))
    endless = b"".join(
        [
            p_data(pdv(1, bytes(60_000), command=True, last=False)) * 4,
            p_data(*[pdv(1, b"", command=True, last=False)] * 1000) * 20,
        ]
    )
    store = p_data(pdv(1, peer.c_store_rq(CT, "1.2.3"), command=True, last=True))
    pieces = pack(">BxI", 4, 0xFFFFFFFF) + pack(">IBB", 0xFFFFFFFB, 1, 0)
    tracemalloc.start()
    try:
        for start in range(0, len(endless), 4096):
            piece = endless[start : start + 4096]
            assert acceptor.receive(piece, 0, len(piece)) == []
        assert acceptor.mid_message
        assert tracemalloc.get_traced_memory()[0] < 600_000

        acceptor = FramingAcceptor(Policy())
        acceptor.receive(request, 0, len(request))
        opening = store + pieces
        acceptor.receive(opening, 0, len(opening))
        chunk = bytes(65536)
        for _ in range(500):
            (data,) = acceptor.receive(chunk, 0, len(chunk))
            assert isinstance(data, Data)
        assert tracemalloc.get_traced_memory()[0] < 600_000
    finally:
        tracemalloc.stop()
