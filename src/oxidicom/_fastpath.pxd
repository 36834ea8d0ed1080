# The fast path of a common C-STORE, from the receive buffer to its final name and its response.
from libc.stdint cimport int64_t, uint8_t, uint32_t

from oxidicom._dataset cimport SeriesFingerprint, Walker
from oxidicom._dimse cimport HeaderTemplate, StoreCommand, Uid
from oxidicom._group_sync cimport FolderSync
from oxidicom._pdu cimport Consumer
from oxidicom._peer_socket cimport PeerSocket
from oxidicom._writer cimport Gather, PartFile

cdef class Destination:
    cdef SeriesFingerprint series
    cdef object folder      # store.folders.SeriesFolder
    cdef object info        # ports.SeriesInfo
    cdef bytes path
    cdef bytes sop_class
    cdef dict files         # like the next three, an attribute of `folder`
    cdef dict placing
    cdef set unregistered
    cdef FolderSync sync


cdef class StoreFastPath(Consumer):
    cdef object storage, owner, policy, completions, clock, reports
    cdef object association, association_id
    cdef object contexts
    cdef object numbers             # iterator of the numbers in names of temporary files
    cdef bytes prefix
    cdef list unremoved             # names of temporary files that could not be removed
    cdef int root_fd
    cdef bint fsync, limits_space   # `limits_space`: a least free space is configured
    cdef PeerSocket peer_socket
    cdef readonly int64_t begun     # number of instances that began here

    cdef int latest_context         # id of the context looked up last; -1: none
    cdef int latest_encoding        # encoding of that context, or UNSERVED
    cdef Walker walker
    cdef Gather gather
    cdef PartFile part
    cdef Destination destination    # of the latest instance

    # The instance that is being received
    cdef int context_id
    cdef StoreCommand command
    cdef bint space_checked
    cdef int64_t size               # bytes of its data set so far

    # The header of the latest instance; the next one usually differs from it in the UID only.
    cdef HeaderTemplate header
    cdef int header_context
    cdef Uid header_class

    cdef bint may_begin(self)
    cdef int encoding_of(self, int context_id) except -2
    cdef int begin(self, int context_id, int encoding) except -1
    cdef int write_header(self) except -1
    cdef int find_header(self) except -1
    cdef bint has_space(self) except -1
    cdef int finish(self) except -1
    cdef bint is_instance_of_command(self) except -1
    cdef Destination find_destination(self)
    cdef bint store(self, Destination to) except -1
    cdef int report_stored(self, Destination to, double began) except -1
    cdef int hand_over(self, bint complete) except -1
    cdef int respond(self) except -1
