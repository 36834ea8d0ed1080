"""The queue of instances that wait for an association, sorted by presentation context."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection
from typing import Final, NamedTuple

from oxidicom.scu.association import DataSet
from oxidicom.wire.requestor import MAX_CONTEXTS, Context

MAX_WAITING_INSTANCES: Final = 1024
"""Instances that are found ahead of sending: enough to see which presentation contexts to
propose."""


class Item(NamedTuple):
    """One instance to send."""

    data_set: DataSet
    size: int
    """Bytes of the data set."""


class SendQueue:
    """A bounded queue that one thread fills and several empty.

    An item that was taken may come back for another association.
    """

    def __init__(self, limit: int = MAX_WAITING_INSTANCES) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._waiting: dict[Context, deque[Item]] = {}
        self._seen: dict[Context, None] = {}
        """Every context so far, the latest one last."""
        self._count = 0
        self._taken = 0
        """Number of items of which it is not known yet whether they come back."""
        self._closed = False
        self._abandoned = False

    def put(self, item: Item) -> bool:
        """Wait for room and add the item; return False, without adding it, after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._count < self._limit or self._closed)
            if not self._closed:
                self._add(item)
            return not self._closed

    def take(self, proposed: Collection[Context] = ()) -> Item | None:
        """Take an item of a `proposed` context if there is one, else the next one.

        Call `finish` or `put_back` for it afterwards. Returns None if the queue is closed and
        empty; an item may still come back, see `wait_for_returns`.
        """
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
        """Wait after `take` gave None, and return whether an item has come back.

        False means that every item is finished, or that the queue is abandoned.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._count or not self._taken or self._abandoned)
            return self._count > 0

    def finish(self) -> None:
        """Say that a taken item does not come back."""
        with self._changed:
            self._taken -= 1
            self._changed.notify_all()

    def put_back(self, item: Item) -> None:
        """Return a taken item to the queue for another association."""
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
        """Return the contexts to propose in an association for `first`.

        At most 128: it, those of waiting items, then those seen before, the latest first.
        """
        with self._changed:
            wanted = dict.fromkeys((first, *self._waiting, *reversed(self._seen)))
        return list(wanted)[:MAX_CONTEXTS]

    def close(self, *, abandon: bool = False) -> None:
        """Say that no more items will come; `abandon` also ends every `wait_for_returns`."""
        with self._changed:
            self._closed = True
            self._abandoned = self._abandoned or abandon
            self._changed.notify_all()
