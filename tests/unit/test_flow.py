"""When an association stops reading, and when it continues."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oxidicom.buffers import BufferPool
from oxidicom.net.flow import MAX_KEPT_BUFFERS, MAX_PENDING_INSTANCES, FlowControl


class Transport:
    """Reading as a transport knows it; raises where one might."""

    def __init__(self) -> None:
        self.reading = True
        self.closed = False

    def pause_reading(self) -> None:
        assert self.reading
        assert not self.closed
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        assert not self.closed
        self.reading = True


def test_reading_stops_at_the_limit_of_kept_buffers() -> None:
    transport, pool = Transport(), BufferPool(1 << 20, 16)
    flow = FlowControl(transport, pool)
    held = []
    for _ in range(MAX_KEPT_BUFFERS):
        assert transport.reading
        held.append(pool.current)
        flow.buffers_kept(1)
    assert not transport.reading
    assert flow.lagging
    flow.buffer_released(held.pop())
    assert transport.reading
    assert not flow.lagging


def test_an_association_that_keeps_a_buffer_pauses_while_the_pool_is_exhausted() -> None:
    pool = BufferPool(32, 16)
    (one, first), (two, second) = [
        (transport := Transport(), FlowControl(transport, pool)) for _ in range(2)
    ]
    kept_by_first = pool.current
    first.buffers_kept(1)
    assert one.reading
    kept_by_second = pool.current
    second.buffers_kept(1)
    assert not two.reading
    first.buffer_released(kept_by_first)
    second.buffer_released(kept_by_second)
    assert one.reading
    assert two.reading


def test_an_association_that_keeps_no_buffer_reads_though_the_pool_is_exhausted() -> None:
    pool = BufferPool(16, 16)
    hog = FlowControl(Transport(), pool)
    hog.buffers_kept(1)
    assert pool.exhausted
    transport = Transport()
    flow = FlowControl(transport, pool)
    flow.instance_pending()
    flow.peer_reads(True)
    assert transport.reading


def test_reading_stops_at_the_limit_of_pending_instances() -> None:
    transport = Transport()
    flow = FlowControl(transport, BufferPool(1 << 20, 16))
    for _ in range(MAX_PENDING_INSTANCES):
        assert transport.reading
        flow.instance_pending()
    assert not transport.reading
    assert flow.pending == MAX_PENDING_INSTANCES
    flow.instance_done()
    assert transport.reading


def test_a_peer_that_does_not_read_is_not_read_from_and_does_not_count_as_our_lag() -> None:
    transport = Transport()
    flow = FlowControl(transport, BufferPool(1 << 20, 16))
    flow.peer_reads(False)
    assert not transport.reading
    assert flow.paused
    assert not flow.lagging, "its own fault: time limits go on"
    flow.peer_reads(True)
    assert transport.reading


def test_a_released_connection_reads_whatever_is_pending() -> None:
    transport = Transport()
    flow = FlowControl(transport, BufferPool(1 << 20, 16))
    flow.peer_reads(False)
    flow.release()
    assert transport.reading
    flow.peer_reads(True)
    for _ in range(MAX_PENDING_INSTANCES):
        flow.instance_pending()
    assert transport.reading


def test_a_detached_connection_only_counts() -> None:
    transport, pool = Transport(), BufferPool(1 << 20, 16)
    flow = FlowControl(transport, pool)
    flow.instance_pending()
    buffer = pool.current
    flow.buffers_kept(1)
    flow.peer_reads(False)
    flow.detach()
    transport.closed = True
    flow.peer_reads(True)
    flow.buffer_released(buffer)
    flow.instance_done()
    assert len(pool._holders) == 0
    assert flow.pending == 0
    assert not flow.paused


class Flow(RuleBasedStateMachine):
    """Reading is paused exactly while there is a reason, and each pause ends."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BufferPool(80, 16)
        self.transports = [Transport(), Transport()]
        self.flows = [FlowControl(transport, self.pool) for transport in self.transports]
        self.held: list[list[bytearray]] = [[], []]

    INDEX = st.integers(0, 1)

    @rule(index=INDEX, holders=st.integers(1, 3))
    def keep(self, index: int, holders: int) -> None:
        if self.transports[index].reading:
            self.held[index] += [self.pool.current] * holders
            self.flows[index].buffers_kept(holders)

    @rule(index=INDEX)
    def give_back(self, index: int) -> None:
        if self.held[index]:
            self.flows[index].buffer_released(self.held[index].pop(0))

    @rule(index=INDEX)
    def begin(self, index: int) -> None:
        if self.transports[index].reading:
            self.flows[index].instance_pending()

    @rule(index=INDEX)
    def end(self, index: int) -> None:
        if self.flows[index].pending:
            self.flows[index].instance_done()

    @rule(index=INDEX, yes=st.booleans())
    def peer_reads(self, index: int, yes: bool) -> None:
        self.flows[index].peer_reads(yes)

    @precondition(lambda self: not any(self.held))
    @rule()
    def nothing_is_held(self) -> None:
        assert len(self.pool._holders) == 0
        for flow in self.flows:
            assert flow.paused == (flow.pending >= MAX_PENDING_INSTANCES or not flow._peer_reads)

    @invariant()
    def the_transport_follows_the_flow(self) -> None:
        for transport, flow in zip(self.transports, self.flows, strict=True):
            assert transport.reading == (not flow.paused)

    @invariant()
    def a_paused_flow_will_be_resumed(self) -> None:
        for held, flow in zip(self.held, self.flows, strict=True):
            if flow.lagging:
                assert held or flow.pending


TestFlow = Flow.TestCase
