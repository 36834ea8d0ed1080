"""The time limits of one connection, sans-IO: looked at every second or so, so that the hot path
sets no timers (decisions 8, 10, 16)."""

from __future__ import annotations

from typing import Final, NamedTuple

LEAST_BYTES: Final = 64 * 1024
"""What a peer must send within WINDOW while a message is under way."""

WINDOW: Final = 60.0


class TimeLimits(NamedTuple):
    """Seconds."""

    artim: float = 30.0
    """From connecting to the A-ASSOCIATE-RQ, and from our last words to the peer's closing."""
    idle: float = 300.0
    """Between the messages of an association."""
    window: float = WINDOW


class ConnectionTimeouts:
    def __init__(self, limits: TimeLimits, now: float) -> None:
        self._limits = limits
        self._artim_began = now
        self._received = 0
        self._last_byte = now
        self._message: int | None = None
        self._window_began = now
        self._window_received = 0

    def closing(self, now: float) -> None:
        self._artim_began = now

    def artim_expired(self, now: float) -> bool:
        return now - self._artim_began >= self._limits.artim

    def silence(self, now: float, received: int) -> float:
        """Seconds since the last byte, as finely as we looked."""
        if received != self._received:
            self._received = received
            self._last_byte = now
        return now - self._last_byte

    def observe(
        self, now: float, received: int, message: int | None, waiting_for_us: bool
    ) -> str | None:
        """Why the association is to be aborted, or None.

        `message` tells the message under way from others, None between messages. A peer that we
        keep waiting owes us nothing.
        """
        silence = self.silence(now, received)
        if waiting_for_us:
            self._last_byte = now
            self._message = None
        elif message is None:
            self._message = None
            if silence >= self._limits.idle:
                return "idle for too long"
        elif message != self._message:
            self._begin_window(now, received, message)
        elif now - self._window_began >= self._limits.window:
            if received - self._window_received < LEAST_BYTES:
                return "too slow amid a message"
            self._begin_window(now, received, message)
        return None

    def _begin_window(self, now: float, received: int, message: int) -> None:
        self._message = message
        self._window_began = now
        self._window_received = received
