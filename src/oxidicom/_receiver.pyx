# cython: language_level=3
"""The two calls that an event loop makes for every receive (asyncio.BufferedProtocol), compiled."""

from libc.stdint cimport int64_t

from oxidicom._writer cimport now_ns

cdef int64_t LONG_TURN_NS = 4_000_000
"""Nanoseconds of work of one connection after which others have their turn (promise 6: 50 ms)."""

cdef Py_ssize_t MIN_WINDOW_BYTES = 8 * 1024
"""Bytes of the smallest window. It holds some 100 of the smallest messages: 2 to 3 ms of work."""

cdef int64_t RARE_TURN_NS = 1_000_000_000
"""Nanoseconds since the last long turn after which another one counts as rare.

A connection with a rare long turn does not queue behind those with many in succession, because a
busy thread or slow storage may have caused it."""


cdef class BufferedReceiver:
    """The stub documents this class.

    Each receive gets only the first `window` bytes of the buffer: processing a full one takes 60 us
    within a large instance, but 60 ms if it holds thousands of messages. `window` is small at first
    and doubles while full receives are processed quickly.
    """

    def __cinit__(self, *arguments, **keywords):
        self.long_turn_ns = LONG_TURN_NS
        self.worked_ns = 0
        self.rested_ns = 0
        self.window = MIN_WINDOW_BYTES

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
        self.process(nbytes)
        took = now_ns() - began
        if took > self.long_turn_ns:
            self.window = MIN_WINDOW_BYTES
        elif filled and took < self.long_turn_ns // 4:
            self.window *= 2
        if not filled and took < self.long_turn_ns // 4:
            # The socket is empty and there was little work. Such receives are not added up, or a
            # peer that sends seldom would queue behind peers that send without a pause.
            self.worked_ns = max(0, self.worked_ns + took - self.long_turn_ns // 2)
            return
        # Times are added up, because a loop may call this for many buffers in succession.
        self.worked_ns += took
        if self.worked_ns > self.long_turn_ns:
            self.worked_ns = 0
            self.on_long_turn(began - self.rested_ns > RARE_TURN_NS)
            self.rested_ns = began

    cdef int process(self, Py_ssize_t nbytes) except -1:
        cdef list framed
        try:
            framed = self.framer.take(self.pool.current, 0, nbytes)
        except Exception as error:
            self.on_bug(error)
            return 0
        if self.handles_every_receive or not self.framer.is_served_by_consumer():
            self.on_receive(nbytes, framed)
        elif self.framer.is_mid_message():
            self.peer_socket.acknowledge()
        return 0
