# Gathered writes to a temporary file, then one rename. Nothing here depends on DICOM.
from libc.stdint cimport int64_t, uint8_t, uint64_t

from oxidicom._group_sync cimport FolderSync

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len

cdef enum:
    MAX_PIECES = 256    # iovecs of one writev; IOV_MAX is 1024
    MAX_VIEWS = 8       # buffers of one gather; nearly always 1
    NAME_ROOM = 256     # bytes of a temporary file's name, with its NUL
    HEADER_ROOM = 1024  # bytes of a header; one with valid UIDs has less than 700
    NO_FOLDER = -1      # a result that is no errno: the folder does not exist


cdef class Gather:
    cdef iovec pieces[MAX_PIECES]
    cdef int count
    cdef readonly Py_ssize_t size       # bytes gathered
    cdef Py_buffer views[MAX_VIEWS]
    cdef int view_count
    cdef object last_buffer             # the buffer of the latest view

    cdef int add_view(self, object buffer) except -1
    cpdef add(self, object buffer, Py_ssize_t start, Py_ssize_t stop)


cdef class PartFile:
    cdef int folder_fd                  # folder of temporary files; its owner closes it
    cdef char path[NAME_ROOM]           # its temporary name
    cdef char header[HEADER_ROOM]
    cdef list unremoved                 # names of temporary files that could not be removed
    cdef bytes long_header              # the header, if that is too small for it
    cdef char *header_at
    cdef size_t header_size
    cdef int fd
    cdef bint created                   # the file exists under its temporary name
    cdef int failure                    # errno; unless 0, nothing is written or placed
    cdef readonly bint unsynced         # placed, but the sync of the folder failed
    cdef public int64_t slowest_ns      # longest uninterrupted series of storage calls

    cdef int rename(self, bytes prefix, uint64_t number) except -1
    cdef int append(self, Gather gather) noexcept nogil
    cdef int write_pieces(self, iovec *pieces, int count) noexcept nogil
    cdef int store(self, Gather gather, int root_fd, const char *folder, const char *final_name,
                   FolderSync sync) noexcept nogil
    cdef int complete(self, bint sync) noexcept nogil
    cdef int rename_into(self, int root_fd, const char *folder, const char *final_name,
                         FolderSync sync) noexcept nogil
    cdef void remove(self) noexcept nogil
    cdef void took_since(self, int64_t began) noexcept nogil


cdef int64_t now_ns() noexcept nogil
