# cython: language_level=3
"""The usual way of a usual instance, compiled: C-STORE-RQ, data set, file, C-STORE-RSP, with one
call into Python, the report that it is stored.

Usual is what nearly every sender does once the first instance of its series is stored. All else is
left to the general way (wire.acceptor, store.sink) before anything was decided: a command that is
not usual is an event like any other, and an instance that turns out not to be usual, a write that
fails included, is handed over as far as it has come. So no rule of refusal stands here.
"""

cimport cython
from libc.string cimport memcmp, memcpy

from oxidicom._dataset cimport INSTANCE_NUMBER, SOP_INSTANCE_UID
from oxidicom._dimse cimport (
    NAME_ROOM, RESPONSE_ROOM, Uid, is_uid, read_number, read_store_command, text_of, write_name,
    write_store_response,
)
from oxidicom._writer cimport now_ns

cdef extern from "<sys/socket.h>" nogil:
    Py_ssize_t send(int fd, const void *data, size_t size, int flags)
    int setsockopt(int fd, int level, int name, const void *value, unsigned int size)
    enum: MSG_NOSIGNAL
    enum: MSG_DONTWAIT

cdef extern from "<netinet/tcp.h>" nogil:
    enum: TCP_QUICKACK

cdef extern from "<netinet/in.h>" nogil:
    enum: IPPROTO_TCP

cdef enum:
    EXPLICIT_BE = 2         # the last of a walker's encodings
    LONGEST_PATH = 1024     # characters below the files root that CUBE takes (decision 25)
    MOST_KEPT = 8192        # bytes of a series' values that are kept as long as the association
    UNSERVED = -1

cdef int64_t SLOW_CALL_NS = 5_000_000
"""As store.write_policy has it: what took longer is told to the policy."""


@cython.final
cdef class Destination:
    """Where instances go whose series-level values are those that `walker` has just read.

    `folder` is a store.folders.SeriesFolder that the association has claimed, listed and journaled.
    """

    def __cinit__(self, Walker walker not None, folder not None, bytes sop_class not None):
        self.series = SeriesFingerprint(walker)
        self.folder = folder
        self.info = folder.series
        self.path = folder.path
        self.sop_class = sop_class
        self.files = folder.files
        self.placing = folder.placing
        self.unregistered = folder.unregistered
        self.sync = folder.sync


@cython.final
cdef class StoreFastPath(Consumer):
    """See the stub for the public face."""

    def __cinit__(self, storage, association, owner, contexts, stored_report):
        self.storage = storage
        self.owner = owner
        self.policy = storage.executors.policy
        self.completions = storage.executors.completions
        self.clock = storage.clock
        self.reports = storage.reports
        self.stored_report = stored_report
        self.association = association
        self.association_id = association.association_id
        self.contexts = contexts
        self.numbers = storage.temporary.numbers
        self.unremoved = storage.temporary.unremoved
        self.prefix = storage.temporary.prefix
        self.root_fd = storage.root_fd
        self.sync = storage.fsync
        self.scarce = storage.min_free_space > 0
        self.fd = -1
        self.served_context = -1
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
        if self.part.created:
            self.storage.discard(self.part)
            self.part = self.storage.temporary.part_file(b"")

    # ---- framer's calls ------------------------------------------------------------------

    cdef bint may_begin(self):
        # Whatever is not written inline at once goes the general way, and what hangs there shows.
        # So does what follows on a fault of the storage: it clears away what that left.
        return self.policy.writes_inline and not self.completions.outstanding and not self.unremoved

    cdef int encoding_of(self, int context_id) except -2:
        """A walker's; UNSERVED for a context that was not accepted, or whose data are deflated."""
        if context_id != self.served_context:
            context = self.contexts.get(context_id)
            self.served_context = context_id
            self.served_encoding = UNSERVED
            if context is not None and context.encoding <= EXPLICIT_BE:
                self.served_encoding = context.encoding
        return self.served_encoding

    cdef int on_command(self, int context_id, const uint8_t *command, Py_ssize_t size) except -1:
        cdef int encoding = self.encoding_of(context_id)
        if self.active or encoding == UNSERVED:
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
        self.before_instance, self.after_instance = self.storage.header_around(
            text_of(&self.command.sop_class),
            size + (size & 1),
            self.contexts[self.context_id].transfer_syntax,
            self.association.calling_ae_title,
        )
        self.header_class = self.command.sop_class
        self.header_instance_size = size + (size & 1)
        self.header_context = self.context_id
        return 0

    # ---- receives ------------------------------------------------------------------------

    cdef list receive(self, bytearray buffer, Py_ssize_t nbytes):
        cdef list found
        cdef int on = 1
        self.handed_over = False
        found = self.framer.take(buffer, 0, nbytes, self)
        if found:
            return found
        if self.active:
            self.write_gathered()
        if self.handed_over:
            return found
        if self.fd >= 0 and (self.active or self.framer.is_mid_message()):
            # A sender with Nagle's algorithm on holds the rest of the message back until this
            # much is acknowledged; the kernel forgets the option after a while (decision 19).
            setsockopt(self.fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on))
        return None

    def flush(self):
        if self.active:
            self.write_gathered()

    cdef int write_gathered(self) except -1:
        cdef int number
        cdef int64_t began
        # Storage may have become slow since, in another association's hands.
        if self.walker.failed or not self.policy.writes_inline or not self.has_space():
            return self.hand_over(under_way=True)
        if self.gather.count == 0:
            return 0
        with nogil:
            began = now_ns()
            number = self.part.append(self.gather)
            self.part.took_since(began)
        if number:
            return self.hand_over(under_way=True)
        self.gather.clear()
        if self.part.slowest_ns >= SLOW_CALL_NS:
            self.policy.observe(self.part.slowest_ns, self.clock())
            self.part.slowest_ns = 0
            if not self.policy.writes_inline:
                return self.hand_over(under_way=True)
        return 0

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
        if self.is_usual() and self.policy.writes_inline and self.has_space():
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
        if self.walker.shared.used > MOST_KEPT:
            return None
        if to is None or not self.walker.is_of_series(to.series):
            # As the storage knows it, if this association has stored an instance of the series.
            try:
                to = self.storage.destination(self.walker, self.association)
            except Exception:
                return None  # and the general way meets it again
            if to is None:
                return None
            self.destination = to
        if (len(to.sop_class) != self.command.sop_class.size
                or memcmp(<const char *> to.sop_class, self.command.sop_class.text,
                          self.command.sop_class.size) != 0):
            return None
        # What a failure left there is looked at first, and by nobody but the general way.
        return None if to.placing or not to.folder.listed else to

    cdef bint store(self, Destination to) except -1:
        """Under its final name, or not at all."""
        cdef char name[NAME_ROOM]
        cdef Uid *uid = &self.command.sop_instance
        cdef const char *folder = to.path
        cdef FolderSync sync = to.sync if self.sync else None
        cdef uint32_t instance_number
        cdef int size, number
        cdef str file_name, instance_uid, older
        size = self.walker.sizes[<int> INSTANCE_NUMBER]
        if size <= 0 or not read_number(self.walker.value_at(INSTANCE_NUMBER), size, &instance_number):
            return False
        size = write_name(name, instance_number, uid)
        if len(to.path) + 1 + size > LONGEST_PATH:
            return False
        with nogil:
            number = self.part.store(self.gather, self.root_fd, folder, name, sync)
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
        if self.part.slowest_ns >= SLOW_CALL_NS:
            self.policy.observe(self.part.slowest_ns, now)
        fields = (
            self.association_id,
            to.info,
            text_of(&self.command.sop_instance),
            self.size,
            now - began,
            now,
        )
        # As the class itself does it, but without a call into Python.
        self.reports(tuple.__new__(self.stored_report, fields))
        return 0

    cdef int hand_over(self, bint under_way) except -1:
        """The general way goes on where we stand, with all that we have of the instance."""
        self.active = False
        self.handed_over = True
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

    cdef int respond(self) except -1:
        cdef uint8_t response[RESPONSE_ROOM]
        cdef int size = write_store_response(response, self.context_id, &self.command)
        cdef Py_ssize_t sent = 0
        if self.fd >= 0 and (self.direct or self.owner.nothing_waits()):
            self.direct = True
            sent = max(0, send(self.fd, response, size, MSG_NOSIGNAL | MSG_DONTWAIT))
        if sent < size:
            # The transport waits until the peer reads, or learns that it is gone.
            self.owner.send(<bytes> response[sent:size])
        return 0
