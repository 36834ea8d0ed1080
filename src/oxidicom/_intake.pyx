# cython: language_level=3
"""The two calls that an event loop makes for every receive (asyncio.BufferedProtocol), compiled:
where all is usual, neither leads into Python."""

from libc.stdint cimport int64_t

from oxidicom._writer cimport now_ns

cdef int64_t LONG_TURN_NS = 4_000_000
"""A receive that takes longer is followed by the turn of others (promise 6: 50 ms)."""


cdef class Intake:
    """Receives into the pool's buffer. A subclass handles in `on_receive` what no lane takes."""

    def __cinit__(self, *arguments, **keywords):
        self.long_turn_ns = LONG_TURN_NS

    def get_buffer(self, sizehint):
        return self.pool.current

    def buffer_updated(self, Py_ssize_t nbytes):
        cdef int64_t began = now_ns()
        self.received += nbytes
        self.take_in(nbytes)
        # A buffer may hold hundreds of instances, and a loop hands over many buffers in a row.
        if now_ns() - began > self.long_turn_ns:
            self.on_long_turn()

    cdef int take_in(self, Py_ssize_t nbytes) except -1:
        if self.lane is None:
            self.on_receive(nbytes, None)
            return 0
        try:
            found = self.lane.receive(self.pool.current, nbytes)
        except Exception as error:
            self.on_bug(error)
            return 0
        if found is not None:
            self.on_receive(nbytes, found)
        return 0
