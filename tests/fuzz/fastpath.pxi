# Part of drivers.pyx: the fast path, its storage and its files real, what surrounds it in miniature.

from oxidicom._fastpath cimport Destination, StoreFastPath
from oxidicom._peer_socket cimport PeerSocket
from oxidicom._writer cimport PartFile

from collections import namedtuple
from itertools import count
import atexit
import os
import shutil
import tempfile

from oxidicom.errors import PeerError
from oxidicom.store.identity import read_series
from oxidicom.store.part10 import header_template, file_header

Context = namedtuple("Context", "transfer_syntax encoding")
CONTEXTS = {
    1: Context("1.2.840.10008.1.2.1", 1),
    3: Context("1.2.840.10008.1.2", 0),
    5: Context("1.2.840.10008.1.2", 0),
    7: Context("1.2.840.10008.1.2.1.99", 3),
}
CALLING = "FUZZ"


class Folder:
    """Of all series: what is stored here is looked at and removed at once."""
    series = "S"
    path = b"S"
    listed = True
    placing = {}
    sync = None

    def __init__(self):
        self.files = {}
        self.unregistered = set()
        self.stored = 0


class Storage:
    """As store.storage.Storage, for one association after the other. `writes_inline` as the policy has it."""
    fsync = False
    min_free_space = outstanding = 0
    association_id = "A"
    calling_ae_title = CALLING
    prefix = b"fuzz-"
    header_template = staticmethod(header_template)

    def __init__(self):
        root = tempfile.mkdtemp(prefix="oxidicom-fuzz-", dir="/dev/shm")
        atexit.register(shutil.rmtree, root, ignore_errors=True)
        os.makedirs(f"{root}/S")
        os.makedirs(f"{root}/tmp")
        self.root_fd = os.open(root, os.O_RDONLY)
        self.parts_fd = os.open(f"{root}/tmp", os.O_RDONLY)
        self.folder_fd = os.open(f"{root}/S", os.O_RDONLY)
        self.executors = self.policy = self.completions = self.temporary = self

    def begin(self, reports):
        self.reports = reports
        self.unremoved = []
        self.numbers = count()
        self.folder = Folder()
        self.writes_inline = True

    def clock(self):
        return 0.0

    def observe(self, slowest_ns, now):
        pass

    def part_file(self, header):
        return PartFile(self.parts_fd, b"%s%d.part" % (self.prefix, next(self.numbers)), header, self.unremoved)

    def discard(self, part):
        part.discard()

    def destination(self, walker, association):
        names = read_series(walker, CALLING)
        if names.series is None or not names.instance_is_text:
            return None
        return Destination(walker, self.folder, names.sop_class_uid.encode())

    def remove_older(self, folder, older):
        raise AssertionError("every file is removed at once")


_storage = None


cdef class Association:
    """Both paths of an instance, without their decisions: what came is listed as (context, message,
    SOP class, SOP instance, data set), whichever path it took (ports.FastPathOwner)."""
    cdef object storage
    cdef Framer framer
    cdef StoreFastPath fast_path
    cdef list told
    cdef tuple request              # of the instance on the general path, None: there is none
    cdef bytes data                 # that has come of it
    cdef bint over, answered

    def __cinit__(self, storage):
        self.storage = storage
        self.told = []
        self.answered = True
        self.framer = Framer(0, False)
        self.framer.take(REQUEST, 0, len(REQUEST))
        storage.begin(self.on_stored)
        self.fast_path = StoreFastPath(storage, storage, CONTEXTS, PeerSocket(self, -1), self)
        self.framer.attach(self.fast_path)

    # ---- what the fast_path calls -------------------------------------------------------------

    def on_stored(self, report):
        self.request = self.fast_path.context_id, *usual_of(&self.fast_path.command)
        name = self.storage.folder.files.pop(self.request[3])
        self.data = self.content(self.storage.folder_fd, name)
        if len(self.data) != report[3] or not self.answered:
            raise AssertionError("stored short, or the one before not answered")
        self.answered = False
        self.tell()

    def write(self, data):
        context_id, *usual = self.told[-1][:4]
        if self.answered or data != p_data(context_id, encode_store_response(*usual), 0):
            raise AssertionError("not the answer to what was stored")
        self.answered = True

    def on_hand_over(self, hand_over):
        walker, part, gather, size, _ = hand_over.received
        request = hand_over.request
        (<PartFile> part).write(gather)
        self.request = request[:4]
        self.data = self.content(self.storage.parts_fd, (<PartFile> part).path)
        part.discard()
        if len(self.data) != size:
            raise AssertionError("handed over short")
        if hand_over.complete:
            self.tell()
        else:
            self.framer.offering = False

    cdef bytes content(self, int folder_fd, name):
        """The data set in a file of the request's, which is removed."""
        context_id, _, sop_class, sop_instance = self.request
        header = file_header(sop_class, sop_instance, CONTEXTS[context_id].transfer_syntax, CALLING)
        fd = os.open(name, os.O_RDONLY, dir_fd=folder_fd)
        content = os.read(fd, os.fstat(fd).st_size)
        os.close(fd)
        if folder_fd == self.storage.folder_fd:
            os.unlink(name, dir_fd=folder_fd)
        if not content.startswith(header):
            raise AssertionError(f"{content} does not begin with {header}")
        return content[len(header):]

    cdef tell(self):
        self.told.append((*self.request, self.data))
        self.request = None

    # ---- what came -----------------------------------------------------------------------

    cdef int receive(self, bytearray buffer, Py_ssize_t size) except -1:
        """As net.protocol does."""
        for event in self.framer.take(buffer, 0, size):
            if not self.over:
                self.on_event(event, buffer)
        self.framer.offering = self.request is None
        return 0

    cdef int on_event(self, object event, bytearray buffer) except -1:
        cdef Data data
        if isinstance(event, Data):
            data = event
            if self.request is None or data.context_id != self.request[0]:
                return self.end()
            self.data += buffer[data.start:data.stop]
            if data.last:
                self.tell()
            return 0
        if isinstance(event, CommandSet) and self.request is None and not self.fast_path.active:
            return self.on_command(event)
        return self.end()

    cdef int on_command(self, CommandSet command) except -1:
        context_id = command.context_id
        try:
            read = decode_command(command.data)
        except PeerError:
            return self.end()
        if context_id not in CONTEXTS:
            return self.end()
        if read.has_data_set:
            self.request = context_id, read.message_id, read.sop_class_uid, read.sop_instance_uid
            self.data = b""
        else:
            self.told.append((context_id, command.data))
        return 0

    cdef int end(self) except -1:
        """By whatever is no message in its turn."""
        self.over = True
        self.request = None
        self.framer.close()
        self.fast_path.close()
        return 0


cdef tuple usual_of(StoreCommand *command):
    return command.message_id, text_of(&command.sop_class), text_of(&command.sop_instance)


cdef list associated(const Input *given, int slow):
    """What came of it; `slow` tells before which receives the storage seems to be slow."""
    global _storage
    if _storage is None:
        _storage = Storage()
    cdef Association association = Association(_storage)
    cdef bytearray buffer = bytearray(given.size)
    cdef Py_ssize_t start = 0, size
    cdef int i
    for i in range(given.parts):
        size = given.ends[i] - start
        memcpy(<char *> buffer, given.payload + start, size)
        start = given.ends[i]
        _storage.writes_inline = not slow >> (i & 7) & 1
        association.receive(buffer, size)
    if association.fast_path.active:
        association.fast_path.hand_over(complete=False)
    if association.request is not None:
        association.told.append((*association.request, association.data, "cut"))
    association.told.append((association.over, association.framer.is_mid_message()))
    association.fast_path.close()
    if not association.answered or _storage.unremoved or _storage.folder.files:
        raise AssertionError("not answered, or something is left")
    return association.told


def any_bytes(bytes data):
    """The same instances come however bytes are cut, and whenever one is handed over."""
    cdef Input cut = input_of(data), uncut = whole(&cut)
    expected = associated(&uncut, 0)
    found = associated(&cut, cut.flags)
    if found != expected:
        raise AssertionError(f"{found} of cut bytes, {expected} of whole ones")


def any_bytes_read(bytes data):
    """What the target compares."""
    cdef Input cut = input_of(data)
    return associated(&cut, cut.flags)
