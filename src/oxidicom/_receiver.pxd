# What an event loop calls for every receive of a connection.
from libc.stdint cimport int64_t

from oxidicom._pdu cimport Consumer


cdef class BufferedReceiver:
    cdef public object pool             # buffers.BufferPool
    cdef public Consumer consumer           # where what comes next may be usual; else None
    cdef public int64_t received        # bytes
    cdef public int64_t long_turn_ns    # of work, after which others have their turn
    cdef public int64_t worked_ns       # since they had it last, less what is forgiven
    cdef public int64_t rested_ns       # when others had it last, by the monotonic clock
    cdef public Py_ssize_t window       # bytes that the next receive may bring

    cdef int take_in(self, Py_ssize_t nbytes) except -1
