# Upper layer framing: PDU and PDV headers are read in place (PS3.8 9.3.1, 9.3.5, annex E.2).
from libc.stdint cimport uint8_t, uint32_t, int64_t

cdef enum:
    # PS3.8 9.3.1
    A_ASSOCIATE_RQ = 0x01
    A_ASSOCIATE_AC = 0x02
    A_ASSOCIATE_RJ = 0x03
    P_DATA_TF = 0x04
    A_RELEASE_RQ = 0x05
    A_RELEASE_RP = 0x06
    A_ABORT = 0x07

    # PS3.8 table 9-26
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    INVALID_PDU_PARAMETER_VALUE = 6

    # Message control header (PS3.8 annex E.2)
    COMMAND_SET = 1
    LAST_FRAGMENT = 2

    MAX_ASSOCIATE_RQ_LENGTH = 256 * 1024    # bytes
    MAX_COMMAND_LENGTH = 256 * 1024         # bytes
    HEADER_LENGTH = 6   # bytes of a PDU header, and of a PDV header with its control header


cdef enum State:
    PDU_HEADER
    PDU_BODY
    PDV_HEADER
    FRAGMENT
    DEAD


cdef class Pdu:
    cdef readonly int type
    cdef readonly bytes body

cdef class CommandSet:
    cdef readonly int context_id
    cdef readonly bytes data

cdef class Data:
    cdef readonly int context_id
    cdef readonly Py_ssize_t start
    cdef readonly Py_ssize_t stop
    cdef readonly bint last

cdef class Violation:
    cdef readonly int reason
    cdef readonly str text


cdef class Consumer:
    # Takes messages straight from the buffer, so that the framer makes no events of them.
    cdef readonly bint active       # a data set has begun whose fragments it takes
    cdef int on_command(self, int context_id, const uint8_t *command, Py_ssize_t size) except -1
    cdef int on_fragment(self, int context_id, object buffer, const uint8_t *base,
                         Py_ssize_t start, Py_ssize_t stop, bint last) except -1
    cdef int on_receive_end(self) except -1


cdef class Framer:
    cdef State state
    cdef Consumer consumer          # attached, or None
    cdef public bint offering       # whether messages are offered to the consumer
    cdef readonly int64_t commands  # number of command sets received
    cdef object buffer              # during a feed
    cdef bint requested             # an A-ASSOCIATE-RQ was received
    cdef readonly bint associated   # an earlier feed had it: P-DATA-TF may follow
    cdef readonly uint32_t max_length
    cdef readonly bint strict

    # The bytes of a header that was cut by the end of a receive, and their number
    cdef uint8_t header[HEADER_LENGTH]
    cdef int header_have

    cdef int pdu_type
    cdef int64_t pdu_left           # bytes of the PDU not yet consumed
    cdef int64_t fragment_left      # bytes of the PDV's fragment not yet consumed
    cdef int context_id
    cdef int control                # message control header
    cdef bytearray body             # of an A-ASSOCIATE-RQ, A-RELEASE-RQ or A-ABORT
    cdef bytearray command          # fragments of a command set so far, or None
    cdef int command_context

    cdef void stop(self) noexcept
    cdef bint is_mid_message(self) noexcept
    cdef bint is_served_by_consumer(self) noexcept
    cdef list take(self, object buffer, Py_ssize_t start, Py_ssize_t stop)
    cdef int run(self, const uint8_t *base, Py_ssize_t p, Py_ssize_t end, list events) except -1
    cdef int on_header(self, const uint8_t *h, list events) except -1
    cdef int on_pdu_header(self, const uint8_t *h, list events) except -1
    cdef int on_pdv_header(self, const uint8_t *h, list events) except -1
    cdef str pdv_fault(self)
    cdef int on_fragment(self, const uint8_t *base, Py_ssize_t p, Py_ssize_t n,
                         list events) except -1
    cdef bint is_consumed(self, const uint8_t *base, Py_ssize_t p, Py_ssize_t n, bint last,
                          list events) except -1
    cdef int on_pdv_end(self, list events) except -1
    cdef int on_command(self, const uint8_t *base, Py_ssize_t p, Py_ssize_t n, bint last,
                        list events) except -1
    cdef int deliver_command(self, const uint8_t *command, Py_ssize_t size, list events) except -1
    cdef int on_control_header(self, uint32_t length, list events) except -1
    cdef int on_body(self, const uint8_t *base, Py_ssize_t p, Py_ssize_t n, list events) except -1
    cdef int violated(self, int reason, str text, list events) except -1
