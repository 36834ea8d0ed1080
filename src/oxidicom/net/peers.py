"""Numbers of connections and associations by peer address, over all receiving processes.

Each process counts its own and publishes the numbers in a table in shared memory. No lock is
needed: a process writes only its own part of the table, and reads all parts.
"""

from __future__ import annotations

import hashlib
import heapq
import ipaddress
import sys
from functools import lru_cache
from typing import Final, NamedTuple

MAX_BARE_CONNECTIONS: Final = 64
"""Number of connections that an address may have in addition to its limit of associations: some
have not associated yet, others are not closed yet after a rejection."""

MAX_SHOWN_ADDRESSES: Final = 8192
"""Greatest number of addresses that one process publishes at once. Other processes do not see its
counts of further addresses."""

_ENTRY_BYTES: Final = 16
"""Bytes of an entry: the key of an address (64 bits), then its numbers of connections and of
associations (32 bits each). Each of the three is written in one step."""
_PART_BYTES: Final = _ENTRY_BYTES * (1 + MAX_SHOWN_ADDRESSES)
"""Bytes of the part of one process: a header, then the entries. The header holds the index after
the highest entry used since the part was last empty."""


class PeerCounts(NamedTuple):
    """Numbers of open connections and associations of one address."""

    connections: int = 0
    associations: int = 0


_NOTHING: Final = PeerCounts()


@lru_cache(4096)
def key_of(address: str) -> int | None:
    """Return the key of an address given as text; None if the text is not an address.

    An IPv4-mapped IPv6 address has the key of its IPv4 address.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # the peer disconnected before its address was read
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    # 0 marks a free entry.
    return int.from_bytes(hashlib.blake2b(parsed.packed, digest_size=8).digest(), "little") or 1


class PeerTable:
    """The table of a receiver with one process: it publishes nothing and finds no other counts."""

    def publish(self, key: int, held: PeerCounts) -> None:
        """Show the counts of this process for one address to the other processes."""

    def others(self, key: int) -> PeerCounts:
        """Return the counts of one address, summed over the other processes."""
        return _NOTHING


class SharedPeerTable(PeerTable):
    """The table of several processes, in shared memory.

    `memory` has `peer_table_size` bytes, zero at first; `part` is the number of this process.
    """

    def __init__(self, memory: memoryview, part: int) -> None:
        parts = [memory[at : at + _PART_BYTES] for at in range(0, len(memory), _PART_BYTES)]
        own = parts.pop(part)
        self._keys, self._counts = own.cast("Q"), own.cast("I")
        self._others = parts
        self._places: dict[int, int] = {}
        self._free: list[int] = []
        """Heap of the indices of free entries below the highest index used so far."""
        self._keys[0] = 1

    def publish(self, key: int, held: PeerCounts) -> None:
        place = self._places.get(key)
        if place is None:
            if held == _NOTHING or len(self._places) == MAX_SHOWN_ADDRESSES:
                return
            place = heapq.heappop(self._free) if self._free else 1 + len(self._places)
            self._places[key] = place
            # The key is written last, so that it is never found with counts of an earlier address.
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

    def _write(self, place: int, held: PeerCounts) -> None:
        self._counts[4 * place + 2], self._counts[4 * place + 3] = held

    def others(self, key: int) -> PeerCounts:
        connections = associations = 0
        for part in self._others:
            held = _find(part, key)
            connections += held.connections
            associations += held.associations
        return PeerCounts(connections, associations)


def _find(part: memoryview, key: int) -> PeerCounts:
    keys = part.cast("Q")
    packed = key.to_bytes(8, sys.byteorder)
    shown = bytes(part[: _ENTRY_BYTES * keys[0]])
    at = shown.find(packed, _ENTRY_BYTES)
    while at >= 0 and at % _ENTRY_BYTES:
        at = shown.find(packed, at + 1)
    if at < 0:
        return _NOTHING
    counts = part.cast("I")
    held = PeerCounts(counts[at // 4 + 2], counts[at // 4 + 3])
    # If the key has changed, the entry was given to another address while we read.
    return held if keys[at // 8] == key else _NOTHING


def peer_table_size(processes: int) -> int:
    return _PART_BYTES * processes


def clear_part(memory: memoryview, part: int) -> None:
    """Clear the part of a process that has ended."""
    memory[part * _PART_BYTES : (part + 1) * _PART_BYTES] = bytes(_PART_BYTES)


class Peers:
    """The connections and associations of this process by address."""

    def __init__(self, max_associations: int, table: PeerTable) -> None:
        self._max_associations = max_associations
        self._table = table
        self._held: dict[int, PeerCounts] = {}

    def connected(self, address: str) -> bool:
        """Count one more connection; return False if the address has too many.

        In both cases the caller calls `disconnected` at the end of the connection.
        """
        key = key_of(address)
        if key is None:
            return True
        connections = self._add(key, 1, 0).connections
        return (
            connections + self._table.others(key).connections
            <= self._max_associations + MAX_BARE_CONNECTIONS
        )

    def disconnected(self, address: str) -> None:
        key = key_of(address)
        if key is not None:
            self._add(key, -1, 0)

    def may_associate(self, address: str) -> bool:
        """Return whether one more association is allowed; `associated` or `not_associated` follows.

        The new number is published before it is compared with the limit, so that two processes
        never both take the last place.
        """
        key = key_of(address)
        if key is None:
            return True
        connections, associations = self._held.get(key, _NOTHING)
        self._table.publish(key, PeerCounts(connections, associations + 1))
        return associations + 1 + self._table.others(key).associations <= self._max_associations

    def not_associated(self, address: str) -> None:
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

    def _add(self, key: int, connections: int, associations: int) -> PeerCounts:
        held = self._held.get(key, _NOTHING)
        held = PeerCounts(held.connections + connections, held.associations + associations)
        if held == _NOTHING:
            self._held.pop(key, None)
        else:
            self._held[key] = held
        self._table.publish(key, held)
        return held
