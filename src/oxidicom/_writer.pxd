# Fragments to files: gathered writes, then one rename. Knows file descriptors, no DICOM.
from libc.stdint cimport int64_t, uint8_t

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len

cdef enum:
    MAX_PIECES = 256    # iovecs a writev; IOV_MAX is 1024
    MAX_VIEWS = 8       # buffers in one gather; nearly always 1


cdef class Gather:
    cdef iovec pieces[MAX_PIECES]
    cdef int count
    cdef readonly Py_ssize_t size       # bytes gathered
    cdef Py_buffer views[MAX_VIEWS]
    cdef int view_count
    cdef object last_buffer             # owner of the latest view

    cdef int add_view(self, object buffer) except -1
    cpdef add(self, object buffer, Py_ssize_t start, Py_ssize_t stop)


cdef class PartFile:
    cdef int folder_fd                  # where the temporary file stands; not ours to close
    cdef bytes name
    cdef const char *path               # of `name`
    cdef bytes header
    cdef char *header_at                # of `header`
    cdef size_t header_size
    cdef int fd
    cdef bint created                   # it stands under its temporary name
    cdef int failure                    # errno; nothing is written or placed any more
    cdef public int64_t slowest_ns      # longest single stretch of storage calls

    cdef int append(self, Gather gather) noexcept nogil
    cdef int write_pieces(self, iovec *pieces, int count) noexcept nogil
    cdef int complete(self, bint sync) noexcept nogil
    cdef int rename_into(self, int root_fd, const char *folder, const char *final_name,
                         bint sync) noexcept nogil
    cdef void remove(self) noexcept nogil
    cdef void took_since(self, int64_t began) noexcept nogil
