"""The queue of instances that wait to be sent, grouped by presentation context."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection
from typing import Final, NamedTuple

from oxidicom.scu.association import DataSet
from oxidicom.wire.requestor import MAX_CONTEXTS, Context

MAX_WAITING_INSTANCES: Final = 1024
"""Greatest number of instances that wait to be sent: enough to know which presentation contexts to
propose."""


class Item(NamedTuple):
    """One instance to send."""

    data_set: DataSet
    size: int
    """Size of the data set in bytes."""


class SendQueue:
    """A bounded queue that one thread fills and several empty.

    A thread that cannot send the item that it has taken puts it back for another association.
    """

    def __init__(self, limit: int = MAX_WAITING_INSTANCES) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._waiting: dict[Context, deque[Item]] = {}
        self._seen: dict[Context, None] = {}
        """The context of every item added so far; contexts are in order of their latest items."""
        self._count = 0
        self._taken = 0
        """Number of taken items that have been neither finished nor put back."""
        self._closed = False
        self._abandoned = False

    def put(self, item: Item) -> bool:
        """Wait until the queue is not full, add the item and return True.

        Returns False without adding the item if the queue is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._count < self._limit or self._closed)
            if not self._closed:
                self._add(item)
            return not self._closed

    def take(self, proposed: Collection[Context] = ()) -> Item | None:
        """Wait for an item and take it, if possible one of a `proposed` context.

        The caller must call `finish` or `put_back` for it afterwards. Returns None if the queue is
        closed and empty; an item may still be put back (see `wait_for_returns`).
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
        """Wait, after `take` has returned None, until an item is put back; then return True.

        Returns False if every item is finished, or if the queue is abandoned.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._count or not self._taken or self._abandoned)
            return self._count > 0

    def finish(self) -> None:
        """Record that one taken item will not be put back."""
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
        """Return the contexts, at most 128, to propose in an association that must have `first`.

        They are `first`, those of waiting items, and those of earlier items, the latest first.
        """
        with self._changed:
            wanted = dict.fromkeys((first, *self._waiting, *reversed(self._seen)))
        return list(wanted)[:MAX_CONTEXTS]

    def close(self, *, abandon: bool = False) -> None:
        """Accept no further items; `abandon` also lets every `wait_for_returns` return at once."""
        with self._changed:
            self._closed = True
            self._abandoned = self._abandoned or abandon
            self._changed.notify_all()
