# cython: language_level=3
"""The fast path of a common C-STORE, compiled: C-STORE-RQ, data set, file and C-STORE-RSP.

It makes one call into Python code per instance: the report that the instance is stored.

A common C-STORE is what nearly every sender sends once the first instance of its series is stored.
The general path (wire.acceptor, store.sink) decides about everything else: any other command
becomes an event. An instance that turns out not to be common, or whose write fails, is handed over
with all bytes received so far. So nothing is refused here.
"""

cimport cython
from libc.string cimport memcmp

from oxidicom._dataset cimport INSTANCE_NUMBER, SOP_INSTANCE_UID
from oxidicom._dimse cimport (
    NAME_ROOM, RESPONSE_ROOM, Uid, is_uid, read_number, read_store_command, text_of, write_name,
    write_store_response,
)
from oxidicom._writer cimport now_ns

from oxidicom.ports import HandOver, InstanceStored, StoreRequest

cdef enum:
    EXPLICIT_BE = 2         # the last of a walker's encodings
    MAX_PATH_LENGTH = 1024  # characters below the files root that CUBE takes (decision 25)
    MAX_KEPT_BYTES = 8192   # bytes of series-level values that an association may keep
    UNSERVED = -1

cdef int64_t SLOW_CALL_NS = 5_000_000
"""Nanoseconds of storage calls from which they are reported to the write policy as slow."""


@cython.final
cdef class Destination:
    """The stub documents this class."""

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
    """The stub documents this class."""

    def __cinit__(self, storage, association, contexts, PeerSocket peer_socket not None, owner):
        self.storage = storage
        self.owner = owner
        self.policy = storage.executors.policy
        self.completions = storage.executors.completions
        self.clock = storage.clock
        self.reports = storage.reports
        self.association = association
        self.association_id = association.association_id
        self.contexts = contexts
        self.numbers = storage.temporary.numbers
        self.unremoved = storage.temporary.unremoved
        self.prefix = storage.temporary.prefix
        self.root_fd = storage.root_fd
        self.fsync = storage.fsync
        self.limits_space = storage.min_free_space > 0
        self.peer_socket = peer_socket
        self.latest_context = -1
        self.walker = Walker(0)
        self.gather = Gather()
        self.part = storage.temporary.part_file(b"")

    def close(self):
        """Discard the instance that is being received, if there is one, and end the fast path."""
        if self.storage is None:
            return
        self.active = False
        self.gather.clear()
        if self.part.created:
            self.storage.discard(self.part)
        self.owner = self.storage = self.destination = self.part = None

    # ---- the framer's calls --------------------------------------------------------------

    cdef bint may_begin(self):
        # An instance that is not written inline at once takes the general path, which notices a
        # storage call that hangs. So do instances after a storage fault, because only the general
        # path removes the temporary files that the fault left.
        return self.policy.writes_inline and not self.completions.outstanding and not self.unremoved

    cdef int encoding_of(self, int context_id) except -2:
        """Return the encoding of a context, or UNSERVED if it is deflated or not accepted."""
        if context_id != self.latest_context:
            context = self.contexts.get(context_id)
            self.latest_context = context_id
            self.latest_encoding = UNSERVED
            if context is not None and context.encoding <= EXPLICIT_BE:
                self.latest_encoding = context.encoding
        return self.latest_encoding

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
            self.finish()
        return 1

    cdef int on_receive_end(self) except -1:
        cdef int number
        cdef int64_t began
        # Another association may have found the storage slow in the meantime.
        if self.walker.failed or not self.policy.writes_inline or not self.has_space():
            return self.hand_over(complete=False)
        if self.gather.count == 0:
            return 0
        with nogil:
            began = now_ns()
            number = self.part.append(self.gather)
            self.part.took_since(began)
        if number:
            return self.hand_over(complete=False)
        self.gather.clear()
        if self.part.slowest_ns >= SLOW_CALL_NS:
            self.policy.observe(self.part.slowest_ns, self.clock())
            self.part.slowest_ns = 0
            if not self.policy.writes_inline:
                return self.hand_over(complete=False)
        return 0

    # ---- the start of an instance --------------------------------------------------------

    cdef int begin(self, int context_id, int encoding) except -1:
        self.context_id = context_id
        self.part.rename(self.prefix, next(self.numbers))
        if not self.write_header():
            return 0
        self.walker.begin(encoding)
        self.size = 0
        self.space_checked = not self.limits_space
        self.active = True
        self.begun += 1
        return 1

    cdef int write_header(self) except -1:
        """Write the file header to `part.header` and return 1, or return 0 if it is too long."""
        cdef Uid *uid = &self.command.sop_instance
        if (self.header is None or self.header_context != self.context_id
                or self.header.room != uid.size + (uid.size & 1)
                or not is_uid(<const uint8_t *> self.command.sop_class.text,
                              self.command.sop_class.size, &self.header_class)):
            self.find_header()
        if self.header.size > <Py_ssize_t> sizeof(self.part.header):
            return 0
        self.header.write(self.part.header, uid.text, uid.size)
        self.part.header_size = self.header.size
        return 1

    cdef int find_header(self) except -1:
        cdef int size = self.command.sop_instance.size
        self.header = self.storage.header_template(
            text_of(&self.command.sop_class),
            size + (size & 1),
            self.contexts[self.context_id].transfer_syntax,
            self.association.calling_ae_title,
        )
        self.header_class = self.command.sop_class
        self.header_context = self.context_id
        return 0

    cdef bint has_space(self) except -1:
        if not self.space_checked:
            try:
                self.storage.check_space()
            except Exception:
                return False  # the general path will meet and answer the error
            self.space_checked = True
        return True

    # ---- the end of an instance ----------------------------------------------------------

    cdef int finish(self) except -1:
        cdef double began = self.clock()
        cdef Destination to = None
        self.walker.finish()
        if self.is_instance_of_command() and self.policy.writes_inline and self.has_space():
            to = self.find_destination()
        if to is None or not self.store(to):
            return self.hand_over(complete=True)
        self.active = False
        self.report_stored(to, began)
        self.walker.end()
        return self.respond()

    cdef bint is_instance_of_command(self) except -1:
        cdef Walker walker = self.walker
        return (
            not walker.failed
            and walker.sizes[<int> SOP_INSTANCE_UID] > 0
            and is_uid(walker.value_at(SOP_INSTANCE_UID), walker.sizes[<int> SOP_INSTANCE_UID],
                       &self.command.sop_instance)
        )

    cdef Destination find_destination(self):
        cdef Destination to = self.destination
        if self.walker.shared.used > MAX_KEPT_BYTES:
            return None
        if to is None or not self.walker.is_of_series(to.series):
            # It is None until this association has stored an instance of the series.
            try:
                to = self.storage.destination(self.walker, self.association)
            except Exception:
                return None  # the general path will meet and answer the error
            if to is None:
                return None
            self.destination = to
        if (len(to.sop_class) != self.command.sop_class.size
                or memcmp(<const char *> to.sop_class, self.command.sop_class.text,
                          self.command.sop_class.size) != 0):
            return None
        # After a failure the general path must first check which files the folder has.
        return None if to.placing or not to.folder.listed else to

    cdef bint store(self, Destination to) except -1:
        """Write the file under its final name; return False if the general path must do it."""
        cdef char name[NAME_ROOM]
        cdef Uid *uid = &self.command.sop_instance
        cdef const char *folder = to.path
        cdef FolderSync sync = to.sync if self.fsync else None
        cdef uint32_t instance_number
        cdef int size, number
        cdef str file_name, instance_uid, older
        size = self.walker.sizes[<int> INSTANCE_NUMBER]
        if size <= 0:
            return False
        if not read_number(self.walker.value_at(INSTANCE_NUMBER), size, &instance_number):
            return False
        size = write_name(name, instance_number, uid)
        if len(to.path) + 1 + size > MAX_PATH_LENGTH:
            return False
        with nogil:
            number = self.part.store(self.gather, self.root_fd, folder, name, sync)
        if number:
            # The general path must not write these bytes a second time.
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

    cdef int report_stored(self, Destination to, double began) except -1:
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
        # The same as a call of the class, but without running Python code.
        self.reports(tuple.__new__(InstanceStored, fields))
        return 0

    cdef int hand_over(self, bint complete) except -1:
        """Pass the instance, with all bytes received so far, to the general path."""
        cdef Walker walker = self.walker
        cdef Gather gather = self.gather
        cdef PartFile part = self.part
        context = self.contexts[self.context_id]
        fields = (
            self.context_id,
            self.command.message_id,
            text_of(&self.command.sop_class),
            text_of(&self.command.sop_instance),
            context.transfer_syntax,
            context.encoding,
        )
        request = tuple.__new__(StoreRequest, fields)
        self.active = False
        self.walker = Walker(0)
        self.gather = Gather()
        self.part = self.storage.temporary.part_file(b"")
        received = (walker, part, gather, self.size, self.space_checked)
        # The owner may close this fast path.
        self.owner.on_hand_over(tuple.__new__(HandOver, (request, received, complete)))
        return 0

    cdef int respond(self) except -1:
        cdef uint8_t response[RESPONSE_ROOM]
        cdef int size = write_store_response(response, self.context_id, &self.command)
        return self.peer_socket.respond(response, size)
