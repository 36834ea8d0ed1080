# cython: language_level=3
"""The two calls that an event loop makes for every receive (asyncio.BufferedProtocol), compiled:
where all is usual, neither leads into Python."""


cdef class Intake:
    """Receives into the pool's buffer. A subclass handles in `on_receive` what no lane takes."""

    def get_buffer(self, sizehint):
        return self.pool.current

    def buffer_updated(self, Py_ssize_t nbytes):
        self.received += nbytes
        if self.lane is None:
            self.on_receive(nbytes, None)
            return
        try:
            found = self.lane.receive(self.pool.current, nbytes)
        except Exception as error:
            self.on_bug(error)
            return
        if found is not None:
            self.on_receive(nbytes, found)
