"""The asyncio side of the upper layer: sockets, flow control, time limits."""
