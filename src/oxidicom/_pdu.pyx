# cython: language_level=3
"""Upper layer framing: splits received bytes into PDUs, command sets and fragments of data sets
(PS3.8 9.3, annex E.2).

No byte of a data set is copied: a fragment is a pair of offsets into the caller's buffer.
PDUs and command sets do not depend on how the bytes are divided between receives; fragments do.
Memory is allocated for bytes that have arrived, never for a length that a peer has announced.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer


cdef inline uint32_t big_endian_32(const uint8_t *p) noexcept nogil:
    return (<uint32_t> p[0] << 24) | (<uint32_t> p[1] << 16) | (<uint32_t> p[2] << 8) | p[3]


cdef str unrecognized(const uint8_t *header):
    """Return an error text for a header of unknown PDU type, or of a TLS record (RFC 8446 5.1)."""
    if header[0] == 0x16 and header[1] == 3:
        return "unknown PDU type 16H: a TLS handshake, and this is not the TLS port"
    return f"unknown PDU type {header[0]:02X}H"


@cython.final
@cython.freelist(4)
cdef class Pdu:
    """A whole PDU other than P-DATA-TF. `body` has all bytes after its 6-byte header."""

    def __init__(self, int type, bytes body):
        self.type = type
        self.body = body

    def __repr__(self):
        return f"Pdu(type={self.type}, body=<{len(self.body)} bytes>)"


@cython.final
@cython.freelist(8)
cdef class CommandSet:
    """A whole command set (PS3.7 6.3), joined from its fragments."""

    def __init__(self, int context_id, bytes data):
        self.context_id = context_id
        self.data = data

    def __repr__(self):
        return f"CommandSet(context_id={self.context_id}, data=<{len(self.data)} bytes>)"


@cython.final
@cython.freelist(64)
cdef class Data:
    """A fragment of a data set: bytes [start, stop) of the buffer passed to `feed`.

    `last` is True for the fragment that ends the data set.
    """

    def __init__(self, int context_id, Py_ssize_t start, Py_ssize_t stop, bint last):
        self.context_id = context_id
        self.start = start
        self.stop = stop
        self.last = last

    def __repr__(self):
        return (f"Data(context_id={self.context_id}, start={self.start}, stop={self.stop}, "
                f"last={self.last})")


@cython.final
cdef class Violation:
    """A violation of the protocol by the peer, after which the framer returns no events.

    `reason` is the reason for an A-ABORT (PS3.8 table 9-26); `text` describes the violation.
    """

    def __init__(self, int reason, str text):
        self.reason = reason
        self.text = text

    def __repr__(self):
        return f"Violation(reason={self.reason}, text={self.text!r})"


cdef class Consumer:
    """Takes command sets and fragments from the `Framer` that it is attached to.

    `on_command` and `on_fragment` return whether they took the message; otherwise it becomes an
    event. Nothing is offered while events wait to be handled, so that the order of arrival is kept.
    If `active` is True at the end of a receive, `on_receive_end` is called before the buffer is
    reused. A consumer may close the framer.
    """

    cdef int on_command(self, int context_id, const uint8_t *command, Py_ssize_t size) except -1:
        return 0

    cdef int on_fragment(self, int context_id, object buffer, const uint8_t *base,
                         Py_ssize_t start, Py_ssize_t stop, bint last) except -1:
        return 0

    cdef int on_receive_end(self) except -1:
        return 0


@cython.final
cdef class Framer:
    """Makes events of the bytes received on one connection.

    `max_length` is the P-DATA-TF length that we advertised, in bytes; 0 is unlimited. A longer PDU
    is a violation only if `strict` is True (decision 14).
    """

    def __init__(self, uint32_t max_length=0, bint strict=False):
        self.max_length = max_length
        self.strict = strict
        self.state = PDU_HEADER
        self.requested = False
        self.associated = False
        self.header_have = 0
        self.command = None
        self.body = None

    def close(self):
        """Ignore all further bytes, and detach the consumer."""
        self.stop()
        self.consumer = None

    cdef void stop(self) noexcept:
        """Ignore all further bytes; the consumer stays attached."""
        self.state = DEAD
        self.body = None
        self.command = None

    def attach(self, Consumer consumer not None):
        """Offer messages to `consumer` from now on. Does nothing after `close` or a violation."""
        if self.state != DEAD:
            self.consumer = consumer
            self.offering = True

    @property
    def consuming(self):
        """Whether the consumer has taken a command set whose data set has not ended yet."""
        return self.consumer is not None and self.consumer.active

    @property
    def mid_message(self):
        """Whether a PDU, a command set or a data set taken by the consumer is incomplete."""
        return self.is_mid_message()

    cdef bint is_mid_message(self) noexcept:
        return self.state != DEAD and (
            self.state != PDU_HEADER or self.header_have > 0 or self.command is not None
            or (self.consumer is not None and self.consumer.active)
        )

    cdef bint is_served_by_consumer(self) noexcept:
        """Return whether a consumer is attached that the next message is offered to."""
        return self.offering and self.consumer is not None

    def feed(self, buffer not None, Py_ssize_t start, Py_ssize_t stop):
        """Return the events that bytes [start, stop) of `buffer` complete, in order of arrival.

        Messages that the consumer takes make no events. Once there are events, nothing is offered
        to the consumer until `offering` is set again. Raises ValueError if the range is not inside
        the buffer; exceptions of the consumer propagate.
        """
        return self.take(buffer, start, stop)

    cdef list take(self, object buffer, Py_ssize_t start, Py_ssize_t stop):
        cdef Py_buffer view
        cdef list events = []
        # This reference keeps it alive while its methods run, because they may close the framer.
        cdef Consumer consumer = self.consumer
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
        self.buffer = buffer
        try:
            if start < 0 or stop < start or stop > view.len:
                raise ValueError(f"range {start}:{stop} is not inside {view.len} bytes")
            self.run(<const uint8_t *> view.buf, start, stop, events)
            # The request is answered after this feed; P-DATA-TF that arrived with it was too early
            # (PS3.8 9.2, Sta3).
            self.associated = self.requested
            if events:
                self.offering = False
            if consumer is not None and consumer.active and self.state != DEAD:
                consumer.on_receive_end()
        finally:
            self.buffer = None
            PyBuffer_Release(&view)
        return events

    cdef int run(self, const uint8_t *base, Py_ssize_t p, Py_ssize_t end, list events) except -1:
        cdef Py_ssize_t n
        while p < end and self.state != DEAD:
            if self.state == FRAGMENT:
                n = <Py_ssize_t> min(<int64_t> (end - p), self.fragment_left)
                self.on_fragment(base, p, n, events)
                p += n
            elif self.state == PDU_BODY:
                n = <Py_ssize_t> min(<int64_t> (end - p), self.pdu_left)
                self.on_body(base, p, n, events)
                p += n
            elif self.header_have == 0 and end - p >= HEADER_LENGTH:
                self.on_header(base + p, events)
                p += HEADER_LENGTH
            else:
                self.header[self.header_have] = base[p]
                self.header_have += 1
                p += 1
                if self.header_have == HEADER_LENGTH:
                    self.header_have = 0
                    self.on_header(self.header, events)
        return 0

    cdef int on_header(self, const uint8_t *h, list events) except -1:
        if self.state == PDU_HEADER:
            return self.on_pdu_header(h, events)
        return self.on_pdv_header(h, events)

    cdef int on_pdu_header(self, const uint8_t *h, list events) except -1:
        """Read type, reserved byte and length (PS3.8 9.3.1)."""
        cdef uint32_t length = big_endian_32(h + 2)
        self.pdu_type = h[0]
        self.pdu_left = length
        if self.pdu_type == P_DATA_TF:
            if not self.associated:
                return self.violated(UNEXPECTED_PDU, "P-DATA-TF before the association", events)
            if self.strict and self.max_length and length > self.max_length:
                return self.violated(
                    INVALID_PDU_PARAMETER_VALUE, "P-DATA-TF longer than advertised", events)
            return self.on_pdv_end(events)
        if self.pdu_type < A_ASSOCIATE_RQ or self.pdu_type > A_ABORT:
            return self.violated(UNRECOGNIZED_PDU, unrecognized(h), events)
        return self.on_control_header(length, events)

    cdef int on_control_header(self, uint32_t length, list events) except -1:
        cdef bint release_or_abort = self.pdu_type == A_RELEASE_RQ or self.pdu_type == A_ABORT
        if not release_or_abort and (self.pdu_type != A_ASSOCIATE_RQ or self.requested):
            return self.violated(
                UNEXPECTED_PDU, f"unexpected PDU type {self.pdu_type:02X}H", events)
        if self.pdu_type == A_RELEASE_RQ and self.command is not None:
            return self.violated(UNEXPECTED_PDU, "release within a command set", events)
        # Both have a length of 4 (PS3.8 9.3.6, 9.3.8).
        if release_or_abort and length != 4:
            return self.violated(
                INVALID_PDU_PARAMETER_VALUE,
                f"PDU type {self.pdu_type:02X}H of {length} bytes", events)
        if length > MAX_ASSOCIATE_RQ_LENGTH:
            return self.violated(
                INVALID_PDU_PARAMETER_VALUE, f"A-ASSOCIATE-RQ of {length} bytes", events)
        self.body = bytearray()
        self.state = PDU_BODY
        if length == 0:
            return self.on_body(NULL, 0, 0, events)
        return 0

    cdef int on_body(self, const uint8_t *base, Py_ssize_t p, Py_ssize_t n, list events) except -1:
        if n:
            self.body += base[p:p + n]
        self.pdu_left -= n
        if self.pdu_left == 0:
            self.state = PDU_HEADER
            events.append(Pdu(self.pdu_type, bytes(self.body)))
            self.body = None
            self.requested |= self.pdu_type == A_ASSOCIATE_RQ
        return 0

    cdef int on_pdv_header(self, const uint8_t *h, list events) except -1:
        """Read item length, context id and message control header (PS3.8 9.3.5.1 and E.2)."""
        cdef uint32_t length = big_endian_32(h)
        cdef str fault
        if length < 2 or <int64_t> length + 4 > self.pdu_left:
            return self.violated(
                INVALID_PDU_PARAMETER_VALUE,
                f"PDV of {length} bytes in {self.pdu_left} left of its PDU", events)
        self.pdu_left -= HEADER_LENGTH
        self.fragment_left = <int64_t> length - 2
        self.context_id = h[4]
        self.control = h[5]
        fault = self.pdv_fault()
        if fault is not None:
            return self.violated(INVALID_PDU_PARAMETER_VALUE, fault, events)
        self.state = FRAGMENT
        if self.fragment_left == 0:
            return self.on_fragment(NULL, 0, 0, events)
        return 0

    cdef str pdv_fault(self):
        """Return the error text if the PDV whose header was just read is not allowed, or None."""
        cdef Py_ssize_t have = 0
        if not self.control & COMMAND_SET:
            return None if self.command is None else "data set within a command set"
        if self.command is not None:
            if self.context_id != self.command_context:
                return "command set over two contexts"
            have = len(self.command)
        if have + self.fragment_left > MAX_COMMAND_LENGTH:
            return "command set over 256 KiB"
        return None

    cdef int on_fragment(self, const uint8_t *base, Py_ssize_t p, Py_ssize_t n,
                         list events) except -1:
        cdef bint last
        self.fragment_left -= n
        self.pdu_left -= n
        last = self.fragment_left == 0 and (self.control & LAST_FRAGMENT) != 0
        if self.control & COMMAND_SET:
            self.on_command(base, p, n, last, events)
        elif not self.is_consumed(base, p, n, last, events):
            events.append(Data(self.context_id, p, p + n, last))
        if self.fragment_left == 0:
            return self.on_pdv_end(events)
        return 0

    cdef bint is_consumed(self, const uint8_t *base, Py_ssize_t p, Py_ssize_t n, bint last,
                          list events) except -1:
        if not self.offering or self.consumer is None or not self.consumer.active or events:
            return False
        return self.consumer.on_fragment(self.context_id, self.buffer, base, p, p + n, last)

    cdef int on_pdv_end(self, list events) except -1:
        if self.state == DEAD:  # closed by the consumer
            return 0
        if self.pdu_left == 0:
            self.state = PDU_HEADER
        elif self.pdu_left < HEADER_LENGTH:
            return self.violated(
                INVALID_PDU_PARAMETER_VALUE,
                f"{self.pdu_left} bytes left over in a P-DATA-TF", events)
        else:
            self.state = PDV_HEADER
        return 0

    cdef int on_command(self, const uint8_t *base, Py_ssize_t p, Py_ssize_t n, bint last,
                        list events) except -1:
        cdef bytes joined
        if last and self.command is None:
            return self.deliver_command(base + p, n, events)
        if self.command is None:
            self.command = bytearray()
            self.command_context = self.context_id
        if n:
            self.command += base[p:p + n]
        if last:
            joined = bytes(self.command)
            self.command = None
            return self.deliver_command(joined, len(joined), events)
        return 0

    cdef int deliver_command(self, const uint8_t *command, Py_ssize_t size, list events) except -1:
        self.commands += 1
        if self.offering and self.consumer is not None and not events and size:
            if self.consumer.on_command(self.context_id, command, size):
                return 0
        events.append(CommandSet(self.context_id, b"" if size == 0 else command[:size]))
        return 0

    cdef int violated(self, int reason, str text, list events) except -1:
        self.stop()  # it stays attached, because handling the earlier events may read `consuming`
        events.append(Violation(reason, text))
        return 0
