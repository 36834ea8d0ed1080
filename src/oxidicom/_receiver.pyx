# cython: language_level=3
"""The two calls that an event loop makes for every receive (asyncio.BufferedProtocol), compiled:
where all is usual, neither leads into Python."""

from libc.stdint cimport int64_t

from oxidicom._writer cimport now_ns

cdef int64_t LONG_TURN_NS = 4_000_000
"""After so much work of one connection others have their turn (promise 6: 50 ms)."""

cdef Py_ssize_t NARROW = 8 * 1024
"""Bytes: some 100 of the smallest messages, which take 2 to 3 ms."""

cdef int64_t RARE_NS = 1_000_000_000
"""Whose last long turn is so long ago need not stand in the row of those who have one after the
other: it may have been another thread's doing, or storage's."""


cdef class BufferedReceiver:
    """Receives into the pool's buffer. A subclass handles in `on_receive` what no consumer takes.

    A full buffer is 60 us of copying amid a large instance, but may as well hold thousands of
    messages, 60 ms of work: so a receive is first narrow, and wider where that goes quickly.
    """

    def __cinit__(self, *arguments, **keywords):
        self.long_turn_ns = LONG_TURN_NS
        self.worked_ns = 0
        self.rested_ns = 0
        self.window = NARROW

    def get_buffer(self, sizehint):
        cdef bytearray buffer = self.pool.current
        if self.window >= len(buffer):
            self.window = len(buffer)
            return buffer
        return memoryview(buffer)[:self.window]

    def buffer_updated(self, Py_ssize_t nbytes):
        cdef int64_t began = now_ns()
        cdef bint filled = nbytes >= self.window
        cdef int64_t took
        self.received += nbytes
        self.take_in(nbytes)
        took = now_ns() - began
        if took > self.long_turn_ns:
            self.window = NARROW
        elif filled and took < self.long_turn_ns // 4:
            self.window *= 2
        if not filled and took < self.long_turn_ns // 4:
            # Nothing is left to read, and it was little. Such receives do not add up, or who sends
            # now and then would stand in the row of those that flood.
            self.worked_ns = max(0, self.worked_ns + took - self.long_turn_ns // 2)
            return
        # A loop hands over many buffers in a row.
        self.worked_ns += took
        if self.worked_ns > self.long_turn_ns:
            self.worked_ns = 0
            self.on_long_turn(began - self.rested_ns > RARE_NS)
            self.rested_ns = began

    cdef int take_in(self, Py_ssize_t nbytes) except -1:
        if self.consumer is None:
            self.on_receive(nbytes, None)
            return 0
        try:
            found = self.consumer.receive(self.pool.current, nbytes)
        except Exception as error:
            self.on_bug(error)
            return 0
        if found is not None:
            self.on_receive(nbytes, found)
        return 0
