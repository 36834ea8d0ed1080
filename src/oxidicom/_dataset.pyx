# cython: language_level=3
"""Incremental walk of the element headers of a data set (PS3.5 7.1).

It keeps the values of the few elements that identify and describe an instance and skips all others.
A walker is "asleep" once it has passed the last wanted element: it ignores the rest of the data
set. The result does not depend on how the data set is divided between calls of `feed`.
Memory does not depend on lengths or nesting that the peer claims: there is no recursion, nesting of
undefined length is a counter, elements of defined length are skipped as a whole, and the size of a
kept value is limited.

No read goes beyond the available bytes: a header is parsed only once it is complete, in place or in
the scratch buffer, and a value is copied piece by piece.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memmove, memset


IMPLICIT_LE = 0
EXPLICIT_LE = 1
EXPLICIT_BE = 2

WANTED_TAGS = (
    0x00080005,  # SpecificCharacterSet
    0x00080016,  # SOPClassUID
    0x00080018,  # SOPInstanceUID
    0x00080020,  # StudyDate
    0x00080050,  # AccessionNumber
    0x00080060,  # Modality
    0x00081030,  # StudyDescription
    0x0008103E,  # SeriesDescription
    0x00100010,  # PatientName
    0x00100020,  # PatientID
    0x00100030,  # PatientBirthDate
    0x00100040,  # PatientSex
    0x00101010,  # PatientAge
    0x00181030,  # ProtocolName
    0x0020000D,  # StudyInstanceUID
    0x0020000E,  # SeriesInstanceUID
    0x00200011,  # SeriesNumber
    0x00200013,  # InstanceNumber
)

cdef uint32_t wanted_tags[WANTED]
for _slot, _tag in enumerate(WANTED_TAGS):
    wanted_tags[_slot] = _tag

cdef enum:
    SMALL_ARENA = 4096      # greatest size in bytes of an arena that `end` does not free

cdef uint32_t UNDEFINED = 0xFFFFFFFF
cdef uint32_t ITEM = 0xFFFEE000
cdef uint32_t ITEM_DELIMITATION = 0xFFFEE00D
cdef uint32_t SEQUENCE_DELIMITATION = 0xFFFEE0DD
cdef uint32_t NEEDED = (
    1 << SOP_CLASS_UID
    | 1 << SOP_INSTANCE_UID
    | 1 << STUDY_DATE
    | 1 << PATIENT_ID
    | 1 << STUDY_INSTANCE_UID
    | 1 << SERIES_INSTANCE_UID
)


cdef inline uint16_t load_16(const uint8_t *p, bint little) noexcept nogil:
    if little:
        return <uint16_t> (p[0] | p[1] << 8)
    return <uint16_t> (p[0] << 8 | p[1])


cdef inline uint32_t load_32(const uint8_t *p, bint little) noexcept nogil:
    if little:
        return load_16(p, True) | <uint32_t> load_16(p + 2, True) << 16
    return <uint32_t> load_16(p, False) << 16 | load_16(p + 2, False)


cdef inline bint is_vr(const uint8_t *p) noexcept nogil:
    return c'A' <= p[0] <= c'Z' and c'A' <= p[1] <= c'Z'


cdef int keep(Arena *arena, const uint8_t *p, uint32_t n) except -1:
    cdef uint32_t capacity
    cdef void *grown
    if n > arena.capacity - arena.used:
        # At most WANTED values of VALUE_LIMIT bytes each: no overflow.
        capacity = max(2 * arena.capacity, arena.used + n, <uint32_t> 512)
        grown = realloc(arena.bytes, capacity)
        if grown == NULL:
            raise MemoryError
        arena.bytes = <uint8_t *> grown
        arena.capacity = capacity
    memcpy(arena.bytes + arena.used, p, n)
    arena.used += n
    return 0


cdef void shrink(Arena *arena) noexcept nogil:
    if arena.capacity > SMALL_ARENA:
        free(arena.bytes)
        arena.bytes = NULL
        arena.capacity = 0
    arena.used = 0


cdef inline bint has_long_form(const uint8_t *vr) noexcept nogil:
    """Return whether the length field of a VR has 32 bits (PS3.5 table 7.1-1). It is False for
    unknown VRs."""
    if vr[0] == c'O':
        return vr[1] in (c'B', c'D', c'F', c'L', c'V', c'W')
    if vr[0] == c'U':
        return vr[1] in (c'C', c'N', c'R', c'T', c'V')
    return vr[0] == c'S' and vr[1] in (c'Q', c'V')


@cython.final
@cython.freelist(64)
cdef class Walker:
    """The walk of one data set in one of the three encodings. The stub documents its interface."""

    def __cinit__(self, int encoding):
        if not 0 <= encoding <= 2:
            raise ValueError("encoding is none of IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE")
        self.begin(encoding)

    def __dealloc__(self):
        free(self.shared.bytes)
        free(self.own.bytes)

    cdef void begin(self, int encoding) noexcept:
        """Drop the values of the previous data set and begin to read a new one."""
        cdef int slot
        self.asleep = self.failed = False
        self.error = None
        self.offending = -1
        self.implicit = encoding == 0
        self.little = encoding != 2
        self.implicit_since = self.little_since = 0
        self.depth = 0
        self.item_begins = False
        self.last_tag = -1
        self.ascending = True
        self.next_slot = 0
        self.seen = 0
        self.scratched = 0
        self.remaining = 0
        self.slot = -1
        self.shared.used = self.own.used = 0
        for slot in range(WANTED):
            self.sizes[slot] = -1
        memset(self.vr_codes, 0, sizeof(self.vr_codes))

    cdef void end(self) noexcept:
        """Drop all values, and free the memory of each arena of more than SMALL_ARENA bytes."""
        shrink(&self.shared)
        shrink(&self.own)

    # ---- bytes in ----------------------------------------------------------------------------

    def feed(self, buffer, Py_ssize_t start, Py_ssize_t stop):
        cdef Py_buffer view
        if self.asleep:
            return True
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
        try:
            if not 0 <= start <= stop <= view.len:
                raise ValueError("start and stop do not lie in the buffer")
            self.walk(<const uint8_t *> view.buf + start, stop - start)
        finally:
            PyBuffer_Release(&view)
        return self.asleep

    def finish(self):
        """Note that the data set has ended. The stub says in which cases this sets `failed`."""
        if self.asleep:
            return
        if self.depth:
            self.fail("ends within a sequence")
        elif self.scratched:
            self.fail("ends within an element header")
            self.offending = -1
        elif self.remaining and (self.slot >= 0 or not self.enough()):
            self.fail("ends within an element")
        self.asleep = True

    cdef int walk(self, const uint8_t *p, Py_ssize_t n) except -1:
        cdef Py_ssize_t taken
        while n > 0 and not self.asleep:
            if self.slot >= 0:
                taken = self.take_value(p, n)
            elif self.remaining:
                taken = n if <uint64_t> n < self.remaining else <Py_ssize_t> self.remaining
                self.remaining -= <uint64_t> taken
            else:
                taken = self.take_header(p, n)
            p += taken
            n -= taken
        return 0

    # ---- headers -----------------------------------------------------------------------------

    cdef Py_ssize_t take_header(self, const uint8_t *p, Py_ssize_t n) except -1:
        """Parse a whole header in place, or add one byte of a cut one to the scratch buffer."""
        cdef Py_ssize_t size
        if self.scratched == 0:
            size = self.header_size(p, n)
            if size <= n:
                self.on_header(p)
                return size
        self.scratch[self.scratched] = p[0]
        self.scratched += 1
        if self.scratched == self.header_size(self.scratch, self.scratched):
            self.scratched = 0
            self.on_header(self.scratch)
        return 1

    cdef Py_ssize_t header_size(self, const uint8_t *h, Py_ssize_t n) noexcept nogil:
        """Return the size of a header, 8 or 12 bytes; 8 while fewer than 8 are available."""
        if n < 8 or self.implicit or self.depth & 1 or not has_long_form(h + 4):
            return 8
        return 12

    cdef int on_header(self, const uint8_t *h) except -1:
        self.tag = <uint32_t> load_16(h, self.little) << 16 | load_16(h + 2, self.little)
        if self.depth & 1:
            return self.on_item(h)
        if self.depth:
            return self.on_nested_element(h)
        return self.on_element(h)

    cdef int on_item(self, const uint8_t *h) except -1:
        """Parse the header of an item: of a sequence (PS3.5 7.5) or of encapsulated data (A.4)."""
        cdef uint32_t length
        if not self.little and h[0] == 0xFE and h[1] == 0xFF:
            # A UN of undefined length is little endian in every transfer syntax (PS3.5 6.2.2).
            self.little = True
            self.little_since = self.depth
            self.tag = <uint32_t> load_16(h, True) << 16 | load_16(h + 2, True)
        length = load_32(h + 4, self.little)
        if self.tag == SEQUENCE_DELIMITATION:
            self.end_sequence()
        elif self.tag == ITEM and length == UNDEFINED:
            self.depth += 1
            self.item_begins = True
        elif self.tag == ITEM or self.tag == ITEM_DELIMITATION:
            # Some writers delimit items of defined length too.
            self.remaining = length
        else:
            self.fail("neither item nor delimiter in a sequence")
        return 0

    cdef int on_nested_element(self, const uint8_t *h) except -1:
        cdef uint32_t length
        if self.tag == ITEM_DELIMITATION:
            self.end_item()
            return 0
        if self.tag >> 16 == 0xFFFE:
            return self.fail("item or delimiter among elements")
        if self.item_begins and not self.implicit and not is_vr(h + 4):
            # Items of a UN sequence are implicit (PS3.5 6.2.2); some writers do so in SQ too.
            self.implicit = True
            self.implicit_since = self.depth
        self.item_begins = False
        length = self.element_length(h)
        if length == UNDEFINED:
            self.depth += 1
        else:
            self.remaining = length
        return 0

    cdef int on_element(self, const uint8_t *h) except -1:
        cdef uint32_t length = self.element_length(h)
        cdef int slot = self.slot_of_tag()
        if self.tag > LAST_WANTED and self.ascending and self.enough():
            self.asleep = True
            return 0
        if self.tag >> 16 == 0xFFFE:
            return self.fail("item or delimiter among elements")
        if slot >= 0:
            return self.begin_value(slot, h, length)
        if length == UNDEFINED:
            self.depth = 1
        else:
            self.remaining = length
        return 0

    cdef int slot_of_tag(self) noexcept nogil:
        """Return the index of the current tag in WANTED_TAGS, or -1 if it is not there."""
        if self.last_tag >= self.tag:
            self.ascending = False
            self.next_slot = 0
        self.last_tag = self.tag
        while self.next_slot < WANTED and wanted_tags[self.next_slot] < self.tag:
            self.next_slot += 1
        if self.next_slot < WANTED and wanted_tags[self.next_slot] == self.tag:
            return self.next_slot
        return -1

    cdef uint32_t element_length(self, const uint8_t *h) noexcept nogil:
        """Return the length of a value. A header without VR is read as implicit, as in pydicom."""
        if self.implicit or not is_vr(h + 4):
            return load_32(h + 4, self.little)
        if has_long_form(h + 4):
            return load_32(h + 8, self.little)
        return load_16(h + 6, self.little)

    cdef bint enough(self) noexcept nogil:
        return self.seen & NEEDED == NEEDED

    cdef void end_sequence(self) noexcept nogil:
        if self.little_since == self.depth:
            self.little = False
            self.little_since = 0
        self.depth -= 1

    cdef void end_item(self) noexcept nogil:
        if self.implicit_since == self.depth:
            self.implicit = False
            self.implicit_since = 0
        self.item_begins = False
        self.depth -= 1

    # ---- wanted values -----------------------------------------------------------------------

    cdef int begin_value(self, int slot, const uint8_t *h, uint32_t length) except -1:
        """Begin to keep a value, in place of that of an earlier element of the same tag."""
        cdef bint explicit = not self.implicit and is_vr(h + 4)
        self.seen |= <uint32_t> 1 << slot
        self.vr_codes[2 * slot] = h[4] if explicit else 0
        self.vr_codes[2 * slot + 1] = h[5] if explicit else 0
        self.forget(slot)
        if length == UNDEFINED:
            self.depth = 1
            return 0
        self.sizes[slot] = 0
        self.offsets[slot] = self.arena_of(slot).used
        if length == 0:
            return 0
        self.room = min(length, <uint32_t> VALUE_LIMIT)
        self.remaining = length
        self.slot = slot
        return 0

    cdef Py_ssize_t take_value(self, const uint8_t *p, Py_ssize_t n) except -1:
        cdef Py_ssize_t taken = n if <uint64_t> n < self.remaining else <Py_ssize_t> self.remaining
        cdef Py_ssize_t kept = min(taken, self.room)
        if kept:
            keep(self.arena_of(self.slot), p, <uint32_t> kept)
            self.sizes[self.slot] += <int32_t> kept
            self.room -= kept
        self.remaining -= <uint64_t> taken
        if self.remaining == 0:
            self.slot = -1
        return taken

    cdef Arena *arena_of(self, int slot) noexcept nogil:
        return &self.own if slot == SOP_INSTANCE_UID or slot == INSTANCE_NUMBER else &self.shared

    cdef void forget(self, int slot) noexcept nogil:
        """Remove the value in `slot`, if there is one, from its arena."""
        cdef Arena *arena = self.arena_of(slot)
        cdef int32_t size = self.sizes[slot]
        cdef uint32_t end
        cdef int other
        self.sizes[slot] = -1
        if size <= 0:
            return
        end = self.offsets[slot] + <uint32_t> size
        memmove(arena.bytes + self.offsets[slot], arena.bytes + end, arena.used - end)
        arena.used -= <uint32_t> size
        for other in range(WANTED):
            if (self.sizes[other] >= 0 and self.arena_of(other) == arena
                    and self.offsets[other] >= end):
                self.offsets[other] -= <uint32_t> size

    cdef int fail(self, str error) except -1:
        self.failed = self.asleep = True
        self.error = error
        self.offending = self.last_tag
        return 0

    # ---- values out --------------------------------------------------------------------------

    cdef const uint8_t *value_at(self, int slot) noexcept nogil:
        """Return the address of the value in `slot`, which must be present but may be empty."""
        return self.arena_of(slot).bytes + self.offsets[slot]

    cdef object value_of(self, int slot):
        if self.sizes[slot] < 0:
            return None
        if self.slot == slot and self.remaining:
            return None  # cut by the end of the data set
        if self.sizes[slot] == 0:
            return b""
        return PyBytes_FromStringAndSize(<const char *> self.value_at(slot), self.sizes[slot])

    cdef bint is_of_series(self, SeriesFingerprint known) noexcept:
        """Return whether all VRs and all series-level values are equal, byte by byte."""
        cdef int slot
        if <Py_ssize_t> self.shared.used != PyBytes_GET_SIZE(known.values):
            return False
        for slot in range(WANTED):
            if slot == SOP_INSTANCE_UID or slot == INSTANCE_NUMBER:
                continue
            if self.sizes[slot] != known.sizes[slot]:
                return False
            if self.sizes[slot] > 0 and self.offsets[slot] != known.offsets[slot]:
                return False
        return (
            memcmp(self.vr_codes, known.vr_codes, sizeof(self.vr_codes)) == 0
            and (self.shared.used == 0 or memcmp(  # NULL must not be passed to it
                self.shared.bytes, PyBytes_AS_STRING(known.values), self.shared.used) == 0)
        )

    def series_values(self):
        return tuple(
            [self.value_of(slot) for slot in range(WANTED)
             if slot != SOP_INSTANCE_UID and slot != INSTANCE_NUMBER]
        )

    @property
    def sop_instance_uid(self):
        return self.value_of(SOP_INSTANCE_UID)

    @property
    def instance_number(self):
        return self.value_of(INSTANCE_NUMBER)

    @property
    def vrs(self):
        return PyBytes_FromStringAndSize(<const char *> self.vr_codes, sizeof(self.vr_codes))


@cython.final
cdef class SeriesFingerprint:
    """A copy of the series-level values of `walker`, for `Walker.is_of_series`."""

    def __cinit__(self, Walker walker not None):
        self.values = PyBytes_FromStringAndSize(
            <const char *> walker.shared.bytes, walker.shared.used)
        memcpy(self.vr_codes, walker.vr_codes, sizeof(self.vr_codes))
        memcpy(self.sizes, walker.sizes, sizeof(self.sizes))
        memcpy(self.offsets, walker.offsets, sizeof(self.offsets))
