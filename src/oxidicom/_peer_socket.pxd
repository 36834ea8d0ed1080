# System calls on the socket of one connection that bypass its transport.
from libc.stdint cimport uint8_t


cdef class PeerSocket:
    cdef object transport
    cdef int fd             # -1: everything is sent through the transport
    cdef bint idle          # no bytes wait in the transport: responses may bypass it

    cdef int respond(self, const uint8_t *data, Py_ssize_t size) except -1
    cdef int acknowledge(self) except -1
