# What an event loop calls for every receive of a connection.
from libc.stdint cimport int64_t

from oxidicom._pdu cimport Consumer


cdef class Intake:
    cdef public object pool             # buffers.BufferPool
    cdef public Consumer lane           # where what comes next may be usual; else None
    cdef public int64_t received        # bytes
