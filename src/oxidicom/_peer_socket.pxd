# The socket of one connection, beside its transport.
from libc.stdint cimport uint8_t


cdef class PeerSocket:
    cdef object transport
    cdef int fd             # -1: everything is sent by the transport
    cdef bint idle          # nothing waits in the transport: responses may pass it

    cdef int respond(self, const uint8_t *data, Py_ssize_t size) except -1
    cdef int acknowledge(self) except -1
