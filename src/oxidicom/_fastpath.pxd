# The usual way of a usual instance, from the receive buffer to its final name and its response.
from libc.stdint cimport int64_t, uint8_t, uint32_t

from oxidicom._dataset cimport SeriesFingerprint, Walker
from oxidicom._dimse cimport StoreCommand, Uid
from oxidicom._pdu cimport Consumer, Framer
from oxidicom._group_sync cimport FolderSync
from oxidicom._writer cimport Gather, PartFile

cdef class Destination:
    cdef SeriesFingerprint series
    cdef object folder      # store.folders.SeriesFolder
    cdef object info        # ports.SeriesInfo
    cdef bytes path
    cdef bytes sop_class
    cdef dict files         # of the folder, likewise the others
    cdef dict placing
    cdef set unregistered
    cdef FolderSync sync


cdef class StoreFastPath(Consumer):
    cdef object storage, owner, policy, completions, clock, reports, stored_report
    cdef object association, association_id
    cdef object contexts
    cdef object numbers             # of temporary files
    cdef bytes prefix
    cdef list unremoved             # names of temporary files that could not be removed
    cdef int root_fd
    cdef bint sync, scarce          # free space is to be looked at
    cdef public int fd              # of the socket, -1: everything goes by the owner
    cdef public bint direct         # nothing waits in the transport: responses may pass it
    cdef public Framer framer       # of the association
    cdef readonly int64_t messages
    cdef bint handed_over           # since the present receive began

    cdef int served_context         # the latest that was looked up; -1: none
    cdef int served_encoding        # its, or UNSERVED
    cdef Walker walker
    cdef Gather gather
    cdef PartFile part
    cdef Destination destination    # of the latest instance

    # The instance under way
    cdef int context_id
    cdef int encoding
    cdef StoreCommand command
    cdef bint checked               # there is space
    cdef int64_t size

    # The latest instance's header is nearly this one's
    cdef int header_context
    cdef Uid header_class
    cdef int header_instance_size
    cdef bytes before_instance
    cdef bytes after_instance

    cdef bint may_begin(self)
    cdef int encoding_of(self, int context_id) except -2
    cdef int begin(self, int context_id, int encoding) except -1
    cdef int write_header(self) except -1
    cdef int find_header(self) except -1
    cdef int write_gathered(self) except -1
    cdef bint has_space(self) except -1
    cdef int finish(self, object buffer) except -1
    cdef bint is_usual(self) except -1
    cdef Destination destination_of_this(self)
    cdef bint store(self, Destination to) except -1
    cdef int tell_stored(self, Destination to, double began) except -1
    cdef int hand_over(self, bint under_way) except -1
    cdef int respond(self) except -1
