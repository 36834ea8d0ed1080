# cython: language_level=3
"""System calls on the socket of a connection that bypass its transport."""

cimport cython

cdef extern from "<sys/socket.h>" nogil:
    Py_ssize_t send(int fd, const void *data, size_t size, int flags)
    int setsockopt(int fd, int level, int name, const void *value, unsigned int size)
    enum: MSG_NOSIGNAL
    enum: MSG_DONTWAIT

cdef extern from "<netinet/tcp.h>" nogil:
    enum: TCP_QUICKACK

cdef extern from "<netinet/in.h>" nogil:
    enum: IPPROTO_TCP


@cython.final
cdef class PeerSocket:
    """The stub documents this class."""

    def __cinit__(self, transport not None, int fd):
        self.transport = transport
        self.fd = fd

    def send(self, bytes data not None):
        self.idle = False
        self.transport.write(data)

    def acknowledge_soon(self):
        self.acknowledge()

    def detach(self):
        self.fd = -1

    cdef int respond(self, const uint8_t *data, Py_ssize_t size) except -1:
        """Send a response directly to the socket unless bytes wait in the transport.

        Bytes that the kernel does not accept at once are sent through the transport.
        """
        cdef Py_ssize_t sent = 0
        if self.fd >= 0 and (self.idle or not self.transport.get_write_buffer_size()):
            self.idle = True
            sent = max(0, send(self.fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT))
        if sent < size:
            # The transport keeps them until the peer reads or the connection is lost.
            self.send(<bytes> data[sent:size])
        return 0

    cdef int acknowledge(self) except -1:
        """Set TCP_QUICKACK, which the kernel resets after some time (decision 19).

        A sender that uses Nagle's algorithm keeps the rest of a message until the bytes sent before
        it are acknowledged.
        """
        cdef int on = 1
        if self.fd >= 0:
            setsockopt(self.fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on))
        return 0
