"""An acceptor that frames what it receives, as `net.protocol` does for it."""

from __future__ import annotations

from oxidicom.wire import acceptor
from oxidicom.wire.events import Event


class FramingAcceptor(acceptor.Acceptor):
    def receive(self, buffer: bytearray | bytes, start: int, stop: int) -> list[Event]:
        """Return what bytes [start, stop) of `buffer` mean."""
        return self.handle(self.framer.feed(buffer, start, stop), buffer)
