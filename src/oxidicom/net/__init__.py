"""The asyncio skin of the upper layer: sockets, flow control, time limits."""
