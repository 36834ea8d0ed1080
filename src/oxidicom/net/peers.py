"""How much of us one peer's address has, over all receiving processes.

Each process counts its own, and shows them to the others on a board in shared memory: it writes its
own part, everybody reads all, and nobody locks.
"""

from __future__ import annotations

import hashlib
import heapq
import ipaddress
import sys
from functools import lru_cache
from typing import Final, NamedTuple

BARE_CONNECTIONS: Final = 64
"""Connections of one address beyond its greatest number of associations: those that come to
associate, and those that linger after a refusal."""

PLACES: Final = 8192
"""Addresses that one process shows at once. Of more, each process knows its own only."""

_PLACE: Final = 16
"""Bytes: an address' key of 64 bits, connections and associations of 32, each written in one
step."""
_PART: Final = _PLACE * (1 + PLACES)
"""Bytes of one process: how many places may be in use, then these."""


class Held(NamedTuple):
    """By one address."""

    connections: int = 0
    associations: int = 0


_NOTHING: Final = Held()


@lru_cache(4096)
def key_of(address: str) -> int | None:
    """Of an address in text, IPv4 in IPv6's clothes as IPv4; None if it is none."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # gone before we could ask who it is
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    # 0 is a free place.
    return int.from_bytes(hashlib.blake2b(parsed.packed, digest_size=8).digest(), "little") or 1


class PeerTable:
    """What others are shown, and show: nothing, where there are no others."""

    def show(self, key: int, held: Held) -> None: ...

    def others(self, key: int) -> Held:
        return _NOTHING


class SharedPeerTable(PeerTable):
    """`memory` has `peer_table_size` bytes, at first zero; `part` is this process' own."""

    def __init__(self, memory: memoryview, part: int) -> None:
        parts = [memory[at : at + _PART] for at in range(0, len(memory), _PART)]
        own = parts.pop(part)
        self._keys, self._counts = own.cast("Q"), own.cast("I")
        self._others = parts
        self._places: dict[int, int] = {}
        self._free: list[int] = []
        """Of those that were used; the first of all others follows the places in use."""
        self._keys[0] = 1

    def show(self, key: int, held: Held) -> None:
        place = self._places.get(key)
        if place is None:
            if held == _NOTHING or len(self._places) == PLACES:
                return
            place = heapq.heappop(self._free) if self._free else 1 + len(self._places)
            self._places[key] = place
            # The key last, so that the others never take an earlier address' counts for its own.
            self._write(place, held)
            self._keys[2 * place] = key
            self._keys[0] = max(self._keys[0], place + 1)
        elif held == _NOTHING:
            del self._places[key]
            self._keys[2 * place] = 0
            self._write(place, held)
            heapq.heappush(self._free, place)
            if not self._places:
                self._keys[0] = 1
        else:
            self._write(place, held)

    def _write(self, place: int, held: Held) -> None:
        self._counts[4 * place + 2], self._counts[4 * place + 3] = held

    def others(self, key: int) -> Held:
        connections = associations = 0
        for part in self._others:
            held = _find(part, key)
            connections += held.connections
            associations += held.associations
        return Held(connections, associations)


def _find(part: memoryview, key: int) -> Held:
    keys = part.cast("Q")
    packed = key.to_bytes(8, sys.byteorder)
    shown = bytes(part[: _PLACE * keys[0]])
    at = shown.find(packed, _PLACE)
    while at >= 0 and at % _PLACE:
        at = shown.find(packed, at + 1)
    if at < 0:
        return _NOTHING
    counts = part.cast("I")
    held = Held(counts[at // 4 + 2], counts[at // 4 + 3])
    # Else it has become another's place while we read.
    return held if keys[at // 8] == key else _NOTHING


def peer_table_size(processes: int) -> int:
    return _PART * processes


def wipe(memory: memoryview, part: int) -> None:
    """Of a process that has ended."""
    memory[part * _PART : (part + 1) * _PART] = bytes(_PART)


class Peers:
    """This process' connections and associations by address."""

    def __init__(self, most_associations: int, board: PeerTable) -> None:
        self._most = most_associations
        self._board = board
        self._held: dict[int, Held] = {}

    def connected(self, address: str) -> bool:
        """One more; False if these are too many. `disconnected` is called in any case."""
        key = key_of(address)
        if key is None:
            return True
        connections = self._add(key, 1, 0).connections
        return connections + self._board.others(key).connections <= self._most + BARE_CONNECTIONS

    def disconnected(self, address: str) -> None:
        key = key_of(address)
        if key is not None:
            self._add(key, -1, 0)

    def may_associate(self, address: str) -> bool:
        """Whether one more may. Taken first and counted then, so that two processes never both
        take the last one: `associated` or `let_go` follows."""
        key = key_of(address)
        if key is None:
            return True
        connections, associations = self._held.get(key, _NOTHING)
        self._board.show(key, Held(connections, associations + 1))
        return associations + 1 + self._board.others(key).associations <= self._most

    def let_go(self, address: str) -> None:
        key = key_of(address)
        if key is not None:
            self._add(key, 0, 0)

    def associated(self, address: str) -> None:
        key = key_of(address)
        if key is not None:
            self._add(key, 0, 1)

    def ended(self, address: str) -> None:
        key = key_of(address)
        if key is not None:
            self._add(key, 0, -1)

    def _add(self, key: int, connections: int, associations: int) -> Held:
        held = self._held.get(key, _NOTHING)
        held = Held(held.connections + connections, held.associations + associations)
        if held == _NOTHING:
            self._held.pop(key, None)
        else:
            self._held[key] = held
        self._board.show(key, held)
        return held
