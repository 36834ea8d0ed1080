# Lets threads that rename into one folder share its fsync(2) calls.
from libc.stdint cimport int64_t, uint64_t

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass

cdef enum:
    NOT_SHARED = -1  # in place of a number of failures: this thread syncs alone


cdef class FolderSync:
    cdef pthread_mutex_t lock
    cdef pthread_cond_t ended
    cdef int users                      # threads between `enter` and the end of `sync` or `leave`
    cdef uint64_t device, inode         # of the folder that the users have open
    cdef bint running                   # a thread is syncing
    cdef uint64_t started, finished     # number of syncs started and finished
    cdef int64_t failures               # number of syncs that failed
    cdef int error                      # errno of the latest failure

    cdef int64_t enter(self, int fd) noexcept nogil
    cdef int sync(self, int fd, int64_t failures) noexcept nogil
    cdef int sync_with_others(self, int fd, int64_t failures) noexcept nogil
    cdef void sync_for_all(self, int fd) noexcept nogil
    cdef void leave(self, int64_t failures) noexcept nogil
