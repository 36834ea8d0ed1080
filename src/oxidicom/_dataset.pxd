# cython: language_level=3
"""The data set walker: limits, its state, then its steps."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    WANTED = 18             # elements kept, see WANTED_TAGS
    VALUE_LIMIT = 65535     # bytes kept of one value; no short-form value is longer (PS3.5 7.1.2)
    LAST_WANTED = 0x00200013

cdef enum Slot:
    # Indices in WANTED_TAGS: elements without which an instance is refused, and InstanceNumber.
    SOP_CLASS_UID = 1
    SOP_INSTANCE_UID = 2
    STUDY_DATE = 3
    PATIENT_ID = 9
    STUDY_INSTANCE_UID = 14
    SERIES_INSTANCE_UID = 15
    INSTANCE_NUMBER = 17


cdef struct Arena:
    # A buffer of kept values, one after another. It grows with the bytes received, never by a
    # length that a peer claims.
    uint8_t *bytes
    uint32_t used
    uint32_t capacity


cdef class SeriesFingerprint:
    # The raw series-level values of one data set, compared with those of each later one.
    cdef bytes values
    cdef uint8_t vr_codes[36]
    cdef int32_t sizes[WANTED]
    cdef uint32_t offsets[WANTED]


cdef class Walker:
    cdef readonly bint asleep
    cdef readonly bint failed
    cdef readonly str error
    cdef readonly int64_t offending

    # Encoding at the current position, and the depths at which it changed (0: not changed).
    cdef bint implicit
    cdef bint little
    cdef int64_t implicit_since
    cdef int64_t little_since

    # Undefined-length nesting: even depths hold elements, odd ones hold items (PS3.5 7.5).
    cdef int64_t depth
    cdef bint item_begins

    # Whether the top-level tags have ascended so far, and which wanted ones were seen.
    cdef int64_t last_tag
    cdef bint ascending
    cdef int next_slot
    cdef uint32_t seen

    # Bytes collected so far of a header that was cut by the end of a buffer, and their number.
    cdef uint8_t scratch[12]
    cdef Py_ssize_t scratched

    # The current value. It is skipped if `slot` is -1.
    cdef uint32_t tag
    cdef uint64_t remaining
    cdef int slot
    cdef Py_ssize_t room            # bytes of the value that may still be kept

    # Kept values. The size is -1 if the element is absent or of undefined length.
    cdef Arena shared               # values of the series level
    cdef Arena own                  # SOPInstanceUID and InstanceNumber
    cdef int32_t sizes[WANTED]
    cdef uint32_t offsets[WANTED]
    cdef uint8_t vr_codes[36]

    cdef void begin(self, int encoding) noexcept
    cdef void end(self) noexcept
    cdef bint is_of_series(self, SeriesFingerprint known) noexcept
    cdef const uint8_t *value_at(self, int slot) noexcept nogil
    cdef Arena *arena_of(self, int slot) noexcept nogil
    cdef void forget(self, int slot) noexcept nogil
    cdef object value_of(self, int slot)
    cdef int walk(self, const uint8_t *p, Py_ssize_t n) except -1
    cdef Py_ssize_t take_header(self, const uint8_t *p, Py_ssize_t n) except -1
    cdef Py_ssize_t header_size(self, const uint8_t *h, Py_ssize_t n) noexcept nogil
    cdef int on_header(self, const uint8_t *h) except -1
    cdef int on_item(self, const uint8_t *h) except -1
    cdef int on_nested_element(self, const uint8_t *h) except -1
    cdef int on_element(self, const uint8_t *h) except -1
    cdef int slot_of_tag(self) noexcept nogil
    cdef uint32_t element_length(self, const uint8_t *h) noexcept nogil
    cdef bint enough(self) noexcept nogil
    cdef int begin_value(self, int slot, const uint8_t *h, uint32_t length) except -1
    cdef Py_ssize_t take_value(self, const uint8_t *p, Py_ssize_t n) except -1
    cdef void end_sequence(self) noexcept nogil
    cdef void end_item(self) noexcept nogil
    cdef int fail(self, str error) except -1
