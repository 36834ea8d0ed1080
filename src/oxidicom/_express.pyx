# cython: language_level=3
"""The usual way of a usual instance, compiled: C-STORE-RQ, data set, file, C-STORE-RSP, with one
call into Python, the report that it is stored.

Usual is what nearly every sender does once the first instance of its series is stored. All else is
left to the general way (wire.acceptor, store.sink) before anything was decided: a command that is
not usual is an event like any other, and an instance that turns out not to be usual, a write that
fails included, is handed over as far as it has come. So no rule of refusal stands here.
"""

cimport cython
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memcpy

from oxidicom._dataset cimport INSTANCE_NUMBER, SOP_INSTANCE_UID
from oxidicom._writer cimport now_ns

cdef extern from "<sys/socket.h>" nogil:
    Py_ssize_t send(int fd, const void *data, size_t size, int flags)
    enum: MSG_NOSIGNAL
    enum: MSG_DONTWAIT

cdef enum:
    # PS3.7 table E.1-1; group 0000
    GROUP_LENGTH = 0x0000
    AFFECTED_SOP_CLASS_UID = 0x0002
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
    PRIORITY = 0x0700
    COMMAND_DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    AFFECTED_SOP_INSTANCE_UID = 0x1000
    MOVE_ORIGINATOR_AE_TITLE = 0x1030
    MOVE_ORIGINATOR_MESSAGE_ID = 0x1031

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    NO_DATA_SET = 0x0101
    P_DATA_TF = 0x04
    LAST_FRAGMENT_OF_COMMAND = 3
    HEADERS = 12            # of a PDU and its PDV

    LONGEST_NUMBER = 9      # digits: any such number fits into 32 bits
    LONGEST_PATH = 1024     # characters below the files root that CUBE takes (decision 25)
    NAME_BESIDES_UID = 14   # at most: number, "-", ".dcm"
    UNUSED_ENCODING = -1

cdef int64_t SLOW_NS = 5_000_000
"""As store.writing has it: what took longer is told to the policy."""


# ---- bytes -------------------------------------------------------------------------------------


cdef inline int little_endian_16(const uint8_t *p) noexcept nogil:
    return p[0] | p[1] << 8


cdef inline uint32_t little_endian_32(const uint8_t *p) noexcept nogil:
    return <uint32_t> little_endian_16(p) | <uint32_t> little_endian_16(p + 2) << 16


cdef bint read_uid(const uint8_t *value, uint32_t size, Uid *uid) noexcept nogil:
    """False: it is not plainly digits and dots (PS3.5 9.1), but for its padding (decision 9)."""
    cdef uint32_t i
    while size and (value[size - 1] == 0 or value[size - 1] == c' '):
        size -= 1
    if not 0 < size <= UID_ROOM:
        return False
    for i in range(size):
        if value[i] != c'.' and not c'0' <= value[i] <= c'9':
            return False
    memcpy(uid.text, value, size)
    uid.size = <int> size
    return True


cdef bint read_store_command(const uint8_t *p, Py_ssize_t size, StoreCommand *out) noexcept nogil:
    """Read a C-STORE-RQ of the usual elements in any order (PS3.7 table 9.3-1). False: it is not
    that, though it may be a good command."""
    cdef const uint8_t *end = p + size
    cdef uint32_t length
    cdef int element
    cdef bint is_store = False, has_data_set = False
    out.message_id = -1
    out.sop_class.size = out.sop_instance.size = 0
    while p < end:
        if end - p < 8 or little_endian_16(p) != 0:
            return False
        element = little_endian_16(p + 2)
        length = little_endian_32(p + 4)
        p += 8
        if <Py_ssize_t> length > end - p:
            return False
        if element == AFFECTED_SOP_CLASS_UID:
            if not read_uid(p, length, &out.sop_class):
                return False
        elif element == AFFECTED_SOP_INSTANCE_UID:
            if not read_uid(p, length, &out.sop_instance):
                return False
        elif element == COMMAND_FIELD or element == COMMAND_DATA_SET_TYPE or element == MESSAGE_ID:
            if length != 2:
                return False
            if element == MESSAGE_ID:
                out.message_id = little_endian_16(p)
            elif element == COMMAND_FIELD:
                is_store = little_endian_16(p) == C_STORE_RQ
            else:
                has_data_set = little_endian_16(p) != NO_DATA_SET
        elif (element != GROUP_LENGTH and element != PRIORITY
              and element != MOVE_ORIGINATOR_AE_TITLE and element != MOVE_ORIGINATOR_MESSAGE_ID):
            return False
        p += length
    return (is_store and has_data_set and out.message_id >= 0
            and out.sop_class.size > 0 and out.sop_instance.size > 0)


cdef inline bint is_uid(const uint8_t *value, int size, Uid *uid) noexcept nogil:
    """Whether a value is this UID, padding aside."""
    while size > uid.size and value[size - 1] == 0:
        size -= 1
    return size == uid.size and memcmp(value, uid.text, size) == 0


cdef bint read_number(const uint8_t *value, int size, uint32_t *number) noexcept nogil:
    """False: it is not plainly a number of some digits."""
    cdef int i
    while size > 0 and value[size - 1] == c' ':
        size -= 1
    while size > 0 and value[0] == c' ':
        value += 1
        size -= 1
    if not 0 < size <= LONGEST_NUMBER:
        return False
    number[0] = 0
    for i in range(size):
        if not c'0' <= value[i] <= c'9':
            return False
        number[0] = number[0] * 10 + (value[i] - c'0')
    return True


cdef inline void put_big_endian(uint8_t *p, uint32_t number) noexcept nogil:
    p[0] = p[1] = 0
    p[2] = number >> 8
    p[3] = number & 0xFF


cdef inline uint8_t *put_header(uint8_t *p, int element, uint32_t length) noexcept nogil:
    p[0] = p[1] = p[6] = p[7] = 0
    p[2] = element & 0xFF
    p[3] = element >> 8
    p[4] = length & 0xFF
    p[5] = length >> 8
    return p + 8


cdef inline uint8_t *put_number(uint8_t *p, int element, int number) noexcept nogil:
    p = put_header(p, element, 2)
    p[0] = number & 0xFF
    p[1] = number >> 8
    return p + 2


cdef inline uint8_t *put_uid(uint8_t *p, int element, Uid *uid) noexcept nogil:
    cdef int padded = uid.size + (uid.size & 1)
    p = put_header(p, element, padded)
    p[padded - 1] = 0
    memcpy(p, uid.text, uid.size)
    return p + padded


cdef inline str text_of(Uid *uid):
    return uid.text[:uid.size].decode("ascii")


# ---- instances ---------------------------------------------------------------------------------


@cython.final
cdef class Destination:
    """Where instances go whose series-level values are those that `walker` has just read.

    `folder` is a store.folders.SeriesFolder that the association has claimed, listed and journaled.
    """

    def __cinit__(self, Walker walker not None, folder not None, bytes sop_class not None):
        self.series = SeriesPrint(walker)
        self.folder = folder
        self.info = folder.series
        self.path = folder.path
        self.sop_class = sop_class
        self.files = folder.files
        self.placing = folder.placing
        self.unregistered = folder.unregistered


@cython.final
cdef class Express(Consumer):
    """See the stub for the public face."""

    def __cinit__(self, storage, association, owner, dict contexts not None, stored_report):
        cdef int i
        self.storage = storage
        self.owner = owner
        self.policy = storage.writers.policy
        self.completions = storage.writers.completions
        self.clock = storage.clock
        self.reports = storage.reports
        self.stored_report = stored_report
        self.association = association
        self.association_id = association.association_id
        self.contexts = contexts
        self.numbers = storage.temporary.numbers
        self.prefix = storage.temporary.prefix
        self.root_fd = storage.root_fd
        self.sync = storage.fsync
        self.scarce = storage.min_free_space > 0
        self.fd = -1
        for i in range(256):
            self.encodings[i] = UNUSED_ENCODING
        for context_id, (encoding, _) in contexts.items():
            self.encodings[<uint8_t> context_id] = encoding
        self.walker = Walker(0)
        self.gather = Gather()
        self.part = storage.temporary.part_file(b"")
        self.header_context = -1

    def close(self):
        """The association is over: nothing more is fed. What is under way is discarded."""
        self.discard()
        self.owner = self.storage = self.destination = None

    def discard(self):
        """The instance under way, if there is one, will never be complete."""
        self.active = False
        self.gather.clear()
        self.part.discard()

    # ---- framer's calls ------------------------------------------------------------------

    cdef bint may_begin(self):
        # Whatever is not written inline at once goes the general way, and what hangs there shows.
        return self.policy.quick and not self.completions.outstanding

    cdef int on_command(self, int context_id, const uint8_t *command, Py_ssize_t size) except -1:
        cdef int encoding = self.encodings[<uint8_t> context_id]
        if self.active or encoding == UNUSED_ENCODING:
            return 0
        if not read_store_command(command, size, &self.command) or not self.may_begin():
            return 0
        return self.begin(context_id, encoding)

    cdef int on_fragment(self, int context_id, object buffer, const uint8_t *base,
                         Py_ssize_t start, Py_ssize_t stop, bint last) except -1:
        if context_id != self.context_id:
            return 0
        if stop > start:
            if not self.walker.asleep:
                self.walker.walk(base + start, stop - start)
            self.gather.add(buffer, start, stop)
            self.size += stop - start
        if last:
            self.finish(buffer)
        return 1

    cdef int begin(self, int context_id, int encoding) except -1:
        self.context_id = context_id
        self.part.rename(self.prefix, next(self.numbers))
        if not self.write_header():
            return 0
        self.walker.begin(encoding)
        self.size = 0
        self.checked = not self.scarce
        self.active = True
        self.messages += 1
        return 1

    cdef int write_header(self) except -1:
        """All of it but the SOP Instance UID is the same again and again; 0: too long for us."""
        cdef Uid *uid = &self.command.sop_instance
        cdef int padded = uid.size + (uid.size & 1)
        cdef size_t before, after
        cdef char *p
        if (self.header_context != self.context_id or self.header_instance_size != padded
                or self.header_class.size != self.command.sop_class.size
                or memcmp(self.header_class.text, self.command.sop_class.text,
                          self.header_class.size) != 0):
            self.find_header()
        before, after = len(self.before_instance), len(self.after_instance)
        if before + padded + after > sizeof(self.part.header):
            return 0
        p = self.part.header
        memcpy(p, <const char *> self.before_instance, before)
        p += before
        p[padded - 1] = 0
        memcpy(p, uid.text, uid.size)
        memcpy(p + padded, <const char *> self.after_instance, after)
        self.part.header_size = before + padded + after
        return 1

    cdef int find_header(self) except -1:
        cdef int size = self.command.sop_instance.size
        self.header_context = -1
        _, transfer_syntax = self.contexts[self.context_id]
        self.before_instance, self.after_instance = self.storage.header_around(
            text_of(&self.command.sop_class),
            size + (size & 1),
            transfer_syntax,
            self.association.calling_ae_title,
        )
        self.header_class = self.command.sop_class
        self.header_instance_size = size + (size & 1)
        self.header_context = self.context_id
        return 0

    # ---- between two receives ------------------------------------------------------------

    def flush(self):
        """The receive buffer is about to be reused: write what came of the instance under way."""
        cdef int number
        cdef int64_t began
        if not self.active or self.gather.count == 0:
            return
        if self.walker.failed or not self.has_space():
            self.hand_over(under_way=True)
            return
        with nogil:
            began = now_ns()
            number = self.part.append(self.gather)
            self.part.took_since(began)
        if number:
            self.hand_over(under_way=True)
            return
        self.gather.clear()
        if self.part.slowest_ns >= SLOW_NS:
            self.policy.observe(self.part.slowest_ns, self.clock())
            self.part.slowest_ns = 0
            if not self.policy.quick:
                self.hand_over(under_way=True)

    cdef bint has_space(self) except -1:
        if not self.checked:
            try:
                self.storage.check_space()
            except Exception:
                return False  # and the general way meets it again
            self.checked = True
        return True

    # ---- the end of an instance ----------------------------------------------------------

    cdef int finish(self, object buffer) except -1:
        cdef double began = self.clock()
        cdef Destination to = None
        self.walker.finish()
        if self.is_usual() and self.has_space():
            to = self.destination_of_this()
        if to is not None and self.store(to):
            self.active = False
            self.tell_stored(to, began)
            self.walker.end()
            self.respond()
            return 0
        self.hand_over(under_way=False)
        self.owner.finish_adopted(buffer)
        return 0

    cdef bint is_usual(self) except -1:
        cdef Walker walker = self.walker
        return (
            not walker.failed
            and walker.sizes[<int> SOP_INSTANCE_UID] > 0
            and is_uid(walker.value_at(SOP_INSTANCE_UID), walker.sizes[<int> SOP_INSTANCE_UID],
                       &self.command.sop_instance)
        )

    cdef Destination destination_of_this(self):
        cdef Destination to = self.destination
        if to is None or not self.walker.is_of_series(to.series):
            # As the storage knows it, if this association has stored an instance of the series.
            to = self.storage.destination(self.walker, self.association)
            if to is None:
                return None
            self.destination = to
        if (len(to.sop_class) != self.command.sop_class.size
                or memcmp(<const char *> to.sop_class, self.command.sop_class.text,
                          self.command.sop_class.size) != 0):
            return None
        return None if to.placing else to

    cdef bint store(self, Destination to) except -1:
        """Under its final name, or not at all."""
        cdef char name[UID_ROOM + NAME_BESIDES_UID + 1]
        cdef Uid *uid = &self.command.sop_instance
        cdef const char *folder = to.path
        cdef uint32_t instance_number
        cdef int size, number
        cdef str file_name, instance_uid, older
        size = self.walker.sizes[<int> INSTANCE_NUMBER]
        if size <= 0 or not read_number(self.walker.value_at(INSTANCE_NUMBER), size, &instance_number):
            return False
        size = snprintf(name, sizeof(name), "%04u-%.*s.dcm", instance_number, uid.size, uid.text)
        if len(to.path) + 1 + size > LONGEST_PATH:
            return False
        with nogil:
            number = self.part.store(self.gather, self.root_fd, folder, name, self.sync)
        if number:
            # What was written is not to be written again.
            if self.part.created:
                self.gather.clear()
            return False
        self.gather.clear()
        file_name = name[:size].decode("ascii")
        instance_uid = text_of(uid)
        older = to.files.get(instance_uid)
        to.files[instance_uid] = file_name
        if older is not None and older != file_name:
            self.storage.remove_older(to.folder, older)
        return True

    cdef int tell_stored(self, Destination to, double began) except -1:
        cdef double now = self.clock()
        to.folder.stored += 1
        to.unregistered.add(self.association_id)
        if self.part.slowest_ns >= SLOW_NS:
            self.policy.observe(self.part.slowest_ns, now)
        self.reports(
            self.stored_report(
                self.association_id,
                to.info,
                text_of(&self.command.sop_instance),
                self.size,
                now - began,
                now,
            )
        )
        return 0

    cdef int hand_over(self, bint under_way) except -1:
        """The general way goes on where we stand, with all that we have of the instance."""
        self.active = False
        self.owner.adopt(
            self.context_id,
            self.command.message_id,
            text_of(&self.command.sop_class),
            text_of(&self.command.sop_instance),
            (self.walker, self.part, self.gather, self.size),
            under_way,
        )
        self.walker = Walker(0)
        self.gather = Gather()
        self.part = self.storage.temporary.part_file(b"")
        return 0

    # ---- the response --------------------------------------------------------------------

    cdef int encode_response(self, uint8_t *out) noexcept nogil:
        """A Success in one PDU and PDV (PS3.7 9.3.1.2, PS3.8 9.3.5); its size in bytes."""
        cdef uint8_t *group = out + HEADERS
        cdef uint8_t *p = put_header(group, GROUP_LENGTH, 4) + 4
        cdef uint8_t *first = p
        cdef uint32_t size
        p = put_uid(p, AFFECTED_SOP_CLASS_UID, &self.command.sop_class)
        p = put_number(p, COMMAND_FIELD, C_STORE_RSP)
        p = put_number(p, MESSAGE_ID_BEING_RESPONDED_TO, self.command.message_id)
        p = put_number(p, COMMAND_DATA_SET_TYPE, NO_DATA_SET)
        p = put_number(p, STATUS, 0)
        p = put_uid(p, AFFECTED_SOP_INSTANCE_UID, &self.command.sop_instance)
        size = <uint32_t> (p - first)
        group[8] = size & 0xFF
        group[9] = size >> 8
        group[10] = group[11] = 0
        size = <uint32_t> (p - out)
        out[0] = P_DATA_TF
        out[1] = 0
        put_big_endian(out + 2, size - 6)
        put_big_endian(out + 6, size - 10)
        out[10] = self.context_id
        out[11] = LAST_FRAGMENT_OF_COMMAND
        return <int> size

    cdef int respond(self) except -1:
        cdef uint8_t response[RESPONSE_ROOM]
        cdef int size = self.encode_response(response)
        cdef Py_ssize_t sent = 0
        if self.fd >= 0 and (self.direct or self.owner.nothing_waits()):
            self.direct = True
            sent = max(0, send(self.fd, response, size, MSG_NOSIGNAL | MSG_DONTWAIT))
        if sent < size:
            # The transport waits until the peer reads, or learns that it is gone.
            self.owner.send(<bytes> response[sent:size])
        return 0
