"""Instances that wait for an association: few, and sorted by what they need of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection
from typing import Final, NamedTuple

from oxidicom.scu.association import DataSet
from oxidicom.wire.requestor import MAX_CONTEXTS, Context

WAITING: Final = 1024
"""Instances found ahead of sending: enough to see which presentation contexts are needed."""


class Item(NamedTuple):
    data_set: DataSet
    size: int
    """Bytes of the data set."""


class SendQueue:
    """Filled by one thread, emptied by several."""

    def __init__(self, limit: int = WAITING) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._waiting: dict[Context, deque[Item]] = {}
        self._seen: dict[Context, None] = {}
        """The latest last."""
        self._count = 0
        self._taken = 0
        """Of which nobody knows yet whether they come back."""
        self._closed = False
        self._abandoned = False

    def put(self, item: Item) -> bool:
        """Wait for room; False after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._count < self._limit or self._closed)
            if not self._closed:
                self._add(item)
            return not self._closed

    def take(self, proposed: Collection[Context] = ()) -> Item | None:
        """One of a `proposed` context if there is any, else the next; `settle` or `put_back`
        follows. None when there is no more, unless some come back: see `wait_for_returns`."""
        with self._changed:
            self._changed.wait_for(lambda: self._count or self._closed)
            if not self._count:
                return None
            context = next(
                (each for each in self._waiting if each in proposed), next(iter(self._waiting))
            )
            items = self._waiting[context]
            item = items.popleft()
            if not items:
                del self._waiting[context]
            self._count -= 1
            self._taken += 1
            self._changed.notify_all()
            return item

    def wait_for_returns(self) -> bool:
        """After `take` gave None: whether some came back; if not, all is done, or abandoned."""
        with self._changed:
            self._changed.wait_for(lambda: self._count or not self._taken or self._abandoned)
            return self._count > 0

    def settle(self) -> None:
        """What was taken does not come back."""
        with self._changed:
            self._taken -= 1
            self._changed.notify_all()

    def put_back(self, item: Item) -> None:
        """Somebody else shall try."""
        with self._changed:
            self._taken -= 1
            self._add(item)

    def _add(self, item: Item) -> None:
        context = item.data_set.context
        self._waiting.setdefault(context, deque()).append(item)
        self._seen.pop(context, None)
        self._seen[context] = None
        self._count += 1
        self._changed.notify_all()

    def contexts(self, first: Context) -> list[Context]:
        """What to propose for `first`: it, what waits, and what was seen, as far as there is
        room."""
        with self._changed:
            wanted = dict.fromkeys((first, *self._waiting, *reversed(self._seen)))
        return list(wanted)[:MAX_CONTEXTS]

    def close(self, *, abandon: bool = False) -> None:
        """No more will come; `abandon`: nor is anybody to wait for what was taken."""
        with self._changed:
            self._closed = True
            self._abandoned = self._abandoned or abandon
            self._changed.notify_all()
