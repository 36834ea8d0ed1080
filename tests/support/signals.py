"""Default signals for every process that a test starts.

A shell ignores SIGINT and SIGQUIT for a job that it starts in the background (`make test &`), and
children inherit what is ignored; what is handled, however, is set back to the default by exec. The
product must not restore SIGINT itself: a shell that starts a command in the background expects that
Ctrl-C, which is meant for the job in the foreground, does not end it. (`oxidicom serve` ends by
SIGINT wherever it was started, as the reference does.)
"""

from __future__ import annotations

import signal
from types import FrameType


def give_children_default_signals() -> None:
    """Handle, by doing nothing, each keyboard signal that this process ignores."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _still_ignored)


def _still_ignored(number: int, frame: FrameType | None) -> None:
    pass
