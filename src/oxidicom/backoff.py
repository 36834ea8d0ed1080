"""Delays between failing attempts: each is twice the one before, up to a greatest delay."""

from __future__ import annotations


class Backoff:
    """The delay before the next attempt. Its truth value is True if the latest attempt failed.

    Call `failed` after each failure and `reset` after a success. `first` and `greatest` are in
    seconds. Raises ValueError unless `first` is positive and at most `greatest`.
    """

    __slots__ = ("_first", "_greatest", "delay")

    def __init__(self, first: float, greatest: float) -> None:
        if not 0 < first <= greatest:
            raise ValueError("the first delay must be positive and at most the greatest")
        self._first = first
        self._greatest = greatest
        self.delay = 0.0
        """Seconds to wait before the next attempt; 0.0 while attempts succeed."""

    def __bool__(self) -> bool:
        """Whether the latest attempt failed."""
        return self.delay > 0

    def failed(self) -> float:
        """Record a failure, and return the seconds to wait before the next attempt."""
        self.delay = min(self.delay * 2, self._greatest) if self.delay else self._first
        return self.delay

    def reset(self) -> None:
        """Record a success: the delay after the next failure is the first one again."""
        self.delay = 0.0
