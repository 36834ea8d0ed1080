# The two calls that an event loop makes for every receive of a connection.
from libc.stdint cimport int64_t

from oxidicom._pdu cimport Framer
from oxidicom._peer_socket cimport PeerSocket


cdef class BufferedReceiver:
    cdef public object pool             # buffers.BufferPool
    cdef public Framer framer           # of the connection
    cdef public PeerSocket peer_socket  # of the connection
    cdef public bint handles_every_receive  # even those that the consumer took
    cdef public int64_t received        # bytes received
    cdef public int64_t long_turn_ns    # of work, then others have their turn
    cdef public int64_t worked_ns       # of work since then, less half a turn per short receive
    cdef public int64_t rested_ns       # monotonic time at which others last had their turn
    cdef public Py_ssize_t window       # bytes that the next receive may bring

    cdef int process(self, Py_ssize_t nbytes) except -1
