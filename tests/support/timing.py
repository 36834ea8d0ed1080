"""How much longer than its limit something may take on a machine that is busy with other work."""

from __future__ import annotations

from typing import Final

BUSY_MACHINE_S: Final = 8.0
"""Seconds added to each limit that a test measures by the clock.

What a test is to exclude must take longer than the limit and these together, so that a busy
machine does not fail it, and a defect does: give the receiver a default of a minute where the rule
says a second.
"""

WAIT_LIMIT_S: Final = 30.0
"""Seconds after which a test gives up waiting for what should come at once."""
