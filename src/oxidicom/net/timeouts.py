"""The time limits of one connection, sans-IO (decisions 8, 10, 16).

They are checked about once per second, so that receiving a message sets no timers.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MIN_WINDOW_BYTES: Final = 64 * 1024
"""Bytes that a peer must send within each window while a message is under way."""

WINDOW_S: Final = 60.0
"""Default length, in seconds, of the window in which a peer's rate is measured."""


class TimeLimits(NamedTuple):
    """Time limits of a connection, in seconds."""

    artim: float = 30.0
    """Time from connecting to the A-ASSOCIATE-RQ, and from our last PDU until the peer closes."""
    idle: float = 300.0
    """Time without a byte from the peer between the messages of an association."""
    window: float = WINDOW_S
    """Length of each window in which MIN_WINDOW_BYTES must arrive during a message."""


class ConnectionTimeouts:
    """Applies the time limits of one connection.

    `now` is a time of one clock in seconds, `received` the number of bytes received so far.
    """

    def __init__(self, limits: TimeLimits, now: float) -> None:
        self._limits = limits
        self._artim_began = now
        self._received = 0
        self._last_byte = now
        self._message: int | None = None
        self._window_began = now
        self._window_received = 0

    def closing(self, now: float) -> None:
        """Restart the ARTIM timer. Called when our last PDU is sent."""
        self._artim_began = now

    def artim_expired(self, now: float) -> bool:
        return now - self._artim_began >= self._limits.artim

    def silence(self, now: float, received: int) -> float:
        """Return the seconds from the first call with the current value of `received` to `now`.

        This is less than the real silence of the peer by at most the interval between two calls.
        """
        if received != self._received:
            self._received = received
            self._last_byte = now
        return now - self._last_byte

    def observe(
        self, now: float, received: int, message: int | None, waiting_for_us: bool
    ) -> str | None:
        """Return why the association is to be aborted, or None.

        `message` identifies the message under way, None between messages. No limit applies while
        the peer waits for us.
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
            if received - self._window_received < MIN_WINDOW_BYTES:
                return "too slow within a message"
            self._begin_window(now, received, message)
        return None

    def _begin_window(self, now: float, received: int, message: int) -> None:
        self._message = message
        self._window_began = now
        self._window_received = received
