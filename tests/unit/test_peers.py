"""How much one address holds, in one process and over several."""

from __future__ import annotations

import random
import threading

import pytest

from oxidicom.net import peers
from oxidicom.net.peers import (
    MAX_BARE_CONNECTIONS,
    PeerCounts,
    Peers,
    PeerTable,
    SharedPeerTable,
    clear_part,
    key_of,
    peer_table_size,
)

A, B = "192.0.2.1", "2001:db8::1"


def boards(count: int) -> tuple[memoryview, list[SharedPeerTable]]:
    memory = memoryview(bytearray(peer_table_size(count)))
    return memory, [SharedPeerTable(memory, part) for part in range(count)]


def associate(side: Peers, address: str) -> bool:
    """As the listener does."""
    side.connected(address)
    if side.may_associate(address):
        side.associated(address)
        return True
    side.not_associated(address)
    return False


@pytest.mark.parametrize("address", ["::ffff:192.0.2.1", "::ffff:c000:201", "::FFFF:192.0.2.1"])
def test_an_ipv4_mapped_address_is_ipv4(address: str) -> None:
    assert key_of(address) == key_of(A)


def test_addresses_that_differ_in_their_zone_only_are_one() -> None:
    assert len({key_of(each) for each in (A, B, "192.0.2.2", "::1", "127.0.0.1")}) == 5
    assert key_of("fe80::1%eth0") == key_of("fe80::1")
    assert key_of("") is None


def test_the_limit_of_associations_in_one_process() -> None:
    side = Peers(2, PeerTable())
    assert [associate(side, A) for _ in range(3)] == [True, True, False]
    assert associate(side, B), "another peer's trouble is its own"
    side.ended(A)
    assert associate(side, A)
    assert not associate(side, A)


def test_the_limit_of_connections_that_have_not_associated() -> None:
    side = Peers(2, PeerTable())
    most = 2 + MAX_BARE_CONNECTIONS
    assert all(side.connected(A) for _ in range(most))
    assert not side.connected(A)
    assert side.connected(B)
    side.disconnected(A)
    assert not side.connected(A), "those that are too many count until they are closed"
    for _ in range(2):
        side.disconnected(A)
    assert side.connected(A)


def test_an_unknown_address_is_not_counted() -> None:
    side = Peers(1, PeerTable())
    assert all(associate(side, "") for _ in range(100))
    side.ended("")
    side.disconnected("")


def test_processes_count_together() -> None:
    _, (first, second, third) = boards(3)
    sides = [Peers(3, each) for each in (first, second, third)]
    assert [associate(sides[n % 3], A) for n in range(4)] == [True, True, True, False]
    assert associate(sides[0], B)
    sides[1].ended(A)
    assert associate(sides[0], A)
    assert not associate(sides[2], A)


def test_a_process_that_died_holds_nothing() -> None:
    memory, (first, second) = boards(2)
    one, two = Peers(1, first), Peers(1, second)
    assert associate(one, A)
    assert not associate(two, A)
    clear_part(memory, 0)
    assert associate(two, A)
    replacement = Peers(1, SharedPeerTable(memory, 0))
    assert not associate(replacement, A)


def test_no_entry_is_left_of_addresses_without_connections() -> None:
    memory, (board, other) = boards(2)
    side = Peers(2, board)
    for _ in range(3):
        for number in range(100):
            address = f"10.0.0.{number}"
            assert associate(side, address)
        for number in range(100):
            address = f"10.0.0.{number}"
            side.ended(address)
            side.disconnected(address)
    assert other.others(key_of("10.0.0.1") or 0) == PeerCounts()
    assert bytes(memory).strip(b"\0") in (b"\1", b"\1" + bytes(len(memory) // 2 - 1) + b"\1")


def test_addresses_beyond_the_size_of_the_table_are_counted_by_their_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "MAX_SHOWN_ADDRESSES", 3)
    _, (board, other) = boards(2)
    side = Peers(1, board)
    for number in range(5):
        assert associate(side, f"10.0.0.{number}")
        assert not associate(side, f"10.0.0.{number}")
    shown = [other.others(key_of(f"10.0.0.{number}") or 0).associations for number in range(5)]
    assert shown == [1, 1, 1, 0, 0]


def test_a_table_holds_what_was_published_last() -> None:
    """Against a plain dict, with addresses that come and go."""
    dice = random.Random(7)
    _, (board, other) = boards(2)
    model: dict[int, PeerCounts] = {}
    keys = [dice.randrange(1, 2**64) for _ in range(40)] + [1, 256, 2**63]
    for _ in range(4000):
        key = dice.choice(keys)
        held = PeerCounts(dice.randrange(3), dice.randrange(2))
        board.publish(key, held)
        model[key] = held
        asked = dice.choice(keys)
        assert other.others(asked) == model.get(asked, PeerCounts())


def test_two_processes_never_both_take_the_last_association() -> None:
    _, made = boards(2)
    for _ in range(300):
        sides = [Peers(1, board) for board in made]
        start = threading.Barrier(2)
        taken: list[bool] = []

        def race(side: Peers, start: threading.Barrier, taken: list[bool]) -> None:
            start.wait()
            taken.append(side.may_associate(A))

        threads = [threading.Thread(target=race, args=(side, start, taken)) for side in sides]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(taken) <= 1
        for side in sides:
            side.not_associated(A)
