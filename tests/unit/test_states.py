"""The states of connections and sinks, and what may follow each of them."""

from __future__ import annotations

import pytest

from oxidicom.net import connection_state
from oxidicom.net.connection_state import ConnectionState
from oxidicom.store import sink_state
from oxidicom.store.sink_state import SinkState


def test_every_state_of_a_connection_but_the_last_leads_to_closed() -> None:
    closed = ConnectionState.CLOSED
    for state in set(ConnectionState) - {closed}:
        assert connection_state.follow(state, closed) is closed
    assert not connection_state.TRANSITIONS[closed]


def test_a_state_of_a_connection_that_may_not_follow_is_a_bug() -> None:
    assert connection_state.TRANSITIONS.keys() == set(ConnectionState)
    for state in ConnectionState:
        with pytest.raises(AssertionError, match=f"UNASSOCIATED after {state.name}"):
            connection_state.follow(state, ConnectionState.UNASSOCIATED)


def test_a_connection_is_unassociated_associated_or_over() -> None:
    over = {state for state in ConnectionState if state.is_over}
    associated = {state for state in ConnectionState if state.is_associated}
    assert over | associated == set(ConnectionState) - {ConnectionState.UNASSOCIATED}
    assert not over & associated


def test_a_state_of_a_sink_that_may_not_follow_is_a_bug() -> None:
    assert sink_state.TRANSITIONS.keys() == set(SinkState)
    for state in SinkState:
        with pytest.raises(AssertionError, match=f"RECEIVING after {state.name}"):
            sink_state.follow(state, SinkState.RECEIVING)


def test_an_instance_is_stored_only_after_its_last_fragment() -> None:
    assert sink_state.follow(SinkState.RECEIVING, SinkState.STORING) is SinkState.STORING
    for state in (SinkState.REFUSED, SinkState.QUARANTINING, SinkState.DISCARDED):
        assert SinkState.STORING not in sink_state.TRANSITIONS[state]
