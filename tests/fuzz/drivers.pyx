# cython: language_level=3
"""Targets that never leave compiled code while nothing unusual turns up: the laws of `targets.py`
that are about the cores, for a hundredth of the time. Built for fuzzing alone, never shipped.

They take the same inputs as the targets of the same name. What is fed is in memory of its own
size, so that AddressSanitizer sees the first byte read beyond it; a bytes object ends with a NUL.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy

from oxidicom._dataset cimport VALUE_LIMIT, WANTED, SeriesFingerprint, Walker
from oxidicom._dimse cimport (
    NAME_ROOM, RESPONSE_ROOM, StoreCommand, Uid, is_uid, read_number, read_store_command, read_uid,
    text_of, write_name, write_store_response,
)
from oxidicom._pdu cimport A_ASSOCIATE_RQ, CommandSet, Consumer, Data, Framer, Pdu, Violation

from oxidicom.store.paths import instance_file_name
from oxidicom.store.tags import text_of as value_text
from oxidicom.wire.dimse import decode_command, encode_store_response
from oxidicom.wire.pdus import p_data

cdef enum:
    HEAD = 5                # inputs.py: a byte of choices, two places to cut at
    MOST_CUTS = 32


@cython.final
@cython.freelist(64)
cdef class Part:
    """A copy of some bytes, without a neighbour."""
    cdef uint8_t *at
    cdef Py_ssize_t size

    def __dealloc__(self):
        free(self.at)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.at, self.size, 1, flags)


cdef Part room_of(Py_ssize_t size):
    cdef Part part = Part.__new__(Part)
    part.at = <uint8_t *> malloc(size)
    part.size = size
    return part


cdef Part part_of(const uint8_t *p, Py_ssize_t size):
    cdef Part part = room_of(size)
    memcpy(part.at, p, size)
    return part


# ---- inputs ------------------------------------------------------------------------------------


cdef struct Input:
    int flags
    const uint8_t *payload
    Py_ssize_t size
    Py_ssize_t ends[MOST_CUTS + 2]      # of the parts that the payload is cut into
    int parts


cdef Input input_of(bytes data):
    """As inputs.py reads it. The upper bits of the choices cut the bytes after a place singly, which
    finds what is cut within a header sooner than a feed of all, byte by byte."""
    cdef Input found
    cdef uint8_t head[HEAD]
    cdef const uint8_t *p = data
    cdef Py_ssize_t size = len(data), first, second, place
    cdef int i
    for i in range(HEAD):
        head[i] = p[i] if i < size else 0
    found.flags = head[0]
    found.size = max(0, size - HEAD)
    found.payload = p + size - found.size
    first = (head[1] | head[2] << 8) % (found.size + 1)
    second = (head[3] | head[4] << 8) % (found.size + 1)
    if second < first:
        first, second = second, first
    found.parts = 0
    for place in range(first, min(first + 1 + 2 * (head[0] >> 4), second)):
        found.ends[found.parts] = place
        found.parts += 1
    found.ends[found.parts] = second
    found.ends[found.parts + 1] = found.size
    found.parts += 2
    return found


cdef Input whole(const Input *cut):
    cdef Input found = cut[0]
    found.ends[0] = found.size
    found.parts = 1
    return found


# ---- PDUs --------------------------------------------------------------------------------------


cdef struct Happening:
    int32_t kind, context_id, last
    int32_t size            # of what follows


cdef enum:
    PDU, COMMAND, DATA, VIOLATION, END


cdef class Log(Consumer):
    """What a framer finds, one after the other, with neighbouring fragments joined. As a consumer
    it takes what is of odd contexts."""
    cdef uint8_t *bytes
    cdef size_t used, room
    cdef Py_ssize_t fragment        # where the data set under way is, -1: none
    cdef Part part                  # that is fed
    cdef bint ended

    def __cinit__(self):
        self.active = True
        self.fragment = -1

    def __dealloc__(self):
        free(self.bytes)

    cdef int put(self, const void *p, size_t size) except -1:
        if size > self.room - self.used:
            self.room = 2 * self.room + size + 256
            self.bytes = <uint8_t *> realloc(self.bytes, self.room)
        memcpy(self.bytes + self.used, p, size)
        self.used += size
        return 0

    cdef int add(self, int kind, int context_id, int last, const void *p, Py_ssize_t size) except -1:
        cdef Happening one
        if self.ended:
            raise AssertionError("something after the end")
        one.kind, one.context_id, one.last, one.size = kind, context_id, last, <int32_t> size
        self.fragment = self.used if kind == DATA and not last else -1
        self.put(&one, sizeof(one))
        self.put(p, size)
        self.ended = kind == VIOLATION or kind == END
        return 0

    cdef int add_fragment(self, int context_id, Py_ssize_t start, Py_ssize_t stop, bint last) except -1:
        cdef Happening one
        if not 0 <= start <= stop <= self.part.size:
            raise AssertionError("a fragment outside of its receive")
        if self.fragment >= 0:
            memcpy(&one, self.bytes + self.fragment, sizeof(one))
            if one.context_id == context_id:
                one.last = last
                one.size += <int32_t> (stop - start)
                memcpy(self.bytes + self.fragment, &one, sizeof(one))
                if last:
                    self.fragment = -1
                return self.put(self.part.at + start, stop - start)
        return self.add(DATA, context_id, last, self.part.at + start, stop - start)

    cdef int on_command(self, int context_id, const uint8_t *command, Py_ssize_t size) except -1:
        if context_id & 1:
            self.add(COMMAND, context_id, 0, command, size)
        return context_id & 1

    cdef int on_fragment(self, int context_id, object buffer, const uint8_t *base,
                         Py_ssize_t start, Py_ssize_t stop, bint last) except -1:
        if buffer is not self.part or (base != self.part.at and stop > start):
            raise AssertionError("a fragment of another buffer")
        if context_id & 1:
            self.add_fragment(context_id, start, stop, last)
        return context_id & 1

    cdef int add_event(self, object event) except -1:
        cdef Data data
        if isinstance(event, Data):
            data = event
            self.add_fragment(data.context_id, data.start, data.stop, data.last)
        elif isinstance(event, CommandSet):
            command = (<CommandSet> event).data
            self.add(COMMAND, (<CommandSet> event).context_id, 0, <const char *> command, len(command))
        elif isinstance(event, Pdu):
            body = (<Pdu> event).body
            self.add(PDU, (<Pdu> event).type, 0, <const char *> body, len(body))
        else:
            text = (<Violation> event).text.encode()
            self.add(VIOLATION, (<Violation> event).reason, 0, <const char *> text, len(text))
        return 0

    def __iter__(self):
        """In the form in which targets.framed tells it."""
        cdef Happening one
        cdef size_t at = 0
        while at < self.used:
            memcpy(&one, self.bytes + at, sizeof(one))
            at += sizeof(one)
            content = self.bytes[at:at + one.size]
            at += one.size
            if one.kind == DATA:
                yield Data, one.context_id, content, bool(one.last)
            elif one.kind == END:
                yield (bool(one.last),)
            elif one.kind == VIOLATION:
                yield Violation, one.context_id, content.decode()
            else:
                yield Pdu if one.kind == PDU else CommandSet, one.context_id, content


cdef uint32_t advertised[4]
advertised[:] = [0, 16, 100, 16384]
cdef bytes REQUEST = b"\1\0\0\0\0\0"


cdef Log framed(const Input *given, bint consumed):
    cdef Framer framer = Framer(advertised[given.flags >> 2 & 3], bool(given.flags & 1))
    cdef bint associated = not given.flags & 2
    cdef Log log = Log.__new__(Log)
    cdef Py_ssize_t start = 0
    cdef int i
    if associated:
        framer.take(REQUEST, 0, len(REQUEST))
    if consumed:
        framer.attach(log)
    for i in range(given.parts):
        log.part = part_of(given.payload + start, given.ends[i] - start)
        start = given.ends[i]
        found = framer.take(log.part, 0, log.part.size)
        framer.offering = True
        for event in found:
            log.add_event(event)
            if not associated and isinstance(event, Pdu) and (<Pdu> event).type == A_ASSOCIATE_RQ:
                # What comes in the same receive comes too early, so here the cuts matter.
                return log
        if (framer.body is not None and len(framer.body) > start
                or framer.command is not None and len(framer.command) > start):
            raise AssertionError("more is kept than has come")
        if log.ended and framer.is_mid_message():
            raise AssertionError("something is under way after the end")
    log.ended = log.active = False
    log.add(END, 0, framer.is_mid_message(), b"", 0)
    return log


def framing(bytes data):
    """Whatever the cuts, and with a consumer as without one, a framer finds the same."""
    cdef Input cut = input_of(data), uncut = whole(&cut)
    cdef Log expected = framed(&uncut, False), found = framed(&cut, True)
    if found.used != expected.used or memcmp(found.bytes, expected.bytes, found.used) != 0:
        raise AssertionError(f"{[*found]} of cut bytes, {[*expected]} of whole ones")


def framing_read(bytes data):
    """What the target compares, for comparison with targets.framed."""
    cdef Input cut = input_of(data)
    return [*framed(&cut, True)]


# ---- data sets ---------------------------------------------------------------------------------


cdef int feed(Walker walker, const Input *given) except -1:
    cdef Py_ssize_t start = 0
    cdef Part part
    cdef int i
    for i in range(given.parts):
        part = part_of(given.payload + start, given.ends[i] - start)
        walker.walk(part.at, part.size)
        start = given.ends[i]
    walker.finish()
    return 0


def walk(bytes data):
    """Whatever the cuts, and whatever the walker has walked before, it finds the same values."""
    cdef Input cut = input_of(data), uncut = whole(&cut), other
    cdef int encoding = cut.flags % 3
    cdef Walker expected = Walker(encoding), found = Walker((cut.flags >> 2) % 3)
    feed(expected, &uncut)
    other = uncut
    other.payload += cut.ends[0]
    other.size -= cut.ends[0]
    other.ends[0] = other.size
    feed(found, &other)
    found.end()
    found.begin(encoding)
    feed(found, &cut)
    check_walked(found, uncut.size)
    if not same_walked(found, expected):
        raise AssertionError(f"{read_of(found)} of cut bytes, {read_of(expected)} of whole ones")


cdef int check_walked(Walker walker, Py_ssize_t fed) except -1:
    cdef int slot
    if not walker.asleep or walker.failed != (walker.error is not None):
        raise AssertionError("neither failed nor done")
    if walker.error is not None and len(walker.error) > 40:
        raise AssertionError("a long error")
    if walker.shared.used + walker.own.used > fed:
        raise AssertionError("more is kept than has come")
    for slot in range(WANTED):
        if walker.sizes[slot] > VALUE_LIMIT:
            raise AssertionError("a long value")
        if walker.sizes[slot] > 0 and (
                walker.offsets[slot] + walker.sizes[slot] > walker.arena_of(slot).used):
            raise AssertionError("a value that is not in its arena")
    return 0


cdef bint same_walked(Walker one, Walker other):
    return (
        one.failed == other.failed
        and one.error == other.error
        and one.offending == other.offending
        and one.own.used == other.own.used
        and (one.own.used == 0 or memcmp(one.own.bytes, other.own.bytes, one.own.used) == 0)
        and memcmp(one.sizes, other.sizes, sizeof(one.sizes)) == 0
        and same_offsets(one, other)
        and one.is_of_series(SeriesFingerprint(other))
    )


cdef bint same_offsets(Walker one, Walker other):
    cdef int slot
    for slot in range(WANTED):
        if one.sizes[slot] > 0 and one.offsets[slot] != other.offsets[slot]:
            return False
    return True


def read_of(Walker walker):
    """Return (values, VRs, failed, error, offending)."""
    return (
        tuple([walker.value_of(slot) for slot in range(WANTED)]),
        walker.vrs, walker.failed, walker.error, walker.offending,
    )


def walk_read(bytes data):
    """What the target compares, for comparison with tests.unit.test_dataset_walk.read."""
    cdef Input cut = input_of(data)
    cdef Walker walker = Walker(cut.flags % 3)
    feed(walker, &cut)
    return read_of(walker)


# ---- commands and names ------------------------------------------------------------------------


def command_read(bytes data):
    """What the fast path makes of a command set: as _dimse.read_store_request."""
    cdef Part part = part_of(data, len(data))
    cdef StoreCommand read
    if not read_store_command(part.at, part.size, &read):
        return None
    return usual_of(&read)


def command(bytes data):
    """A command that the fast path takes is what the general path reads, and answered so too."""
    cdef Part part = part_of(data, len(data))
    cdef Part room
    cdef StoreCommand read
    cdef int context_id = len(data) & 0xFF
    if not read_store_command(part.at, part.size, &read):
        return
    room = room_of(RESPONSE_ROOM)
    response = room.at[:write_store_response(room.at, context_id, &read)]
    usual = usual_of(&read)
    decoded = decode_command(data)
    if (usual != (decoded.message_id, decoded.sop_class_uid, decoded.sop_instance_uid)
            or decoded.field != 1 or not decoded.has_data_set):
        raise AssertionError(f"{usual} is {decoded}")
    if response != p_data(context_id, encode_store_response(*usual), 0):
        raise AssertionError(f"answered by {response}")


def file_name_read(bytes data):
    """The name on the fast path, as _dimse.file_name, or None."""
    cdef bytes number_value, uid_value
    number_value, _, uid_value = data.partition(b"\\")
    cdef Part number = part_of(number_value, len(number_value))
    cdef Part uid = part_of(uid_value, len(uid_value))
    cdef Uid instance
    cdef uint32_t instance_number
    cdef char name[NAME_ROOM]
    if not read_uid(uid.at, <uint32_t> uid.size, &instance):
        return None
    if not is_uid(uid.at, <int> uid.size, &instance):
        return None
    if not read_number(number.at, <int> number.size, &instance_number):
        return None
    return name[:write_name(name, instance_number, &instance)].decode("ascii")


def file_name(bytes data):
    """A name that the fast path gives is the general path's."""
    name = file_name_read(data)
    if name is None:
        return
    number, _, uid = data.partition(b"\\")
    instance = value_text("SOPInstanceUID", uid, "UI")
    expected = instance_file_name(value_text("InstanceNumber", number, "IS"), instance)
    if name != expected:
        raise AssertionError(f"{name} is {expected}")


# ---- connections -------------------------------------------------------------------------------

include "fastpath.pxi"
