# cython: language_level=3
"""Lets threads that rename into one folder share its fsync(2) calls.

The first thread syncs at once. Threads that arrive during its sync wait for its end, because it may
have started before their renames, and share the next one.
"""

cimport cython
from libc.errno cimport errno

cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_init(pthread_mutex_t *lock, void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *lock)
    int pthread_mutex_lock(pthread_mutex_t *lock)
    int pthread_mutex_unlock(pthread_mutex_t *lock)
    int pthread_cond_init(pthread_cond_t *condition, void *attributes)
    int pthread_cond_destroy(pthread_cond_t *condition)
    int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *lock)
    int pthread_cond_broadcast(pthread_cond_t *condition)

cdef extern from "<sys/stat.h>" nogil:
    cdef struct stat_t "stat":
        uint64_t st_dev
        uint64_t st_ino
    int fstat(int fd, stat_t *out)

cdef extern from "<unistd.h>" nogil:
    int fsync(int fd)


@cython.final
cdef class FolderSync:
    """The fsync(2) calls of one folder, shared by the threads that rename into it.

    Each thread must have its own descriptor of the folder. It calls `enter` before its rename, then
    `sync`, or `leave` if the rename failed.
    """

    def __cinit__(self):
        pthread_mutex_init(&self.lock, NULL)
        pthread_cond_init(&self.ended, NULL)

    def __dealloc__(self):
        pthread_cond_destroy(&self.ended)
        pthread_mutex_destroy(&self.lock)

    cdef int64_t enter(self, int fd) noexcept nogil:
        """Count the calling thread as a user, and return the number of syncs that have failed.

        Return NOT_SHARED, and count nothing, if fstat(2) fails or if the other threads have another
        folder open, because the folder was removed and made again.
        """
        cdef stat_t status
        cdef int64_t failures = NOT_SHARED
        if fstat(fd, &status) < 0:
            return NOT_SHARED
        pthread_mutex_lock(&self.lock)
        if self.users == 0:
            self.device, self.inode = status.st_dev, status.st_ino
        if status.st_dev == self.device and status.st_ino == self.inode:
            self.users += 1
            failures = self.failures
        pthread_mutex_unlock(&self.lock)
        return failures

    cdef void leave(self, int64_t failures) noexcept nogil:
        if failures != NOT_SHARED:
            pthread_mutex_lock(&self.lock)
            self.users -= 1
            pthread_mutex_unlock(&self.lock)

    cdef int sync(self, int fd, int64_t failures) noexcept nogil:
        """Wait until all renames before the call are on the device; return 0 or an errno.

        `failures` must be the result of `enter`. A failed sync fails all threads that entered
        before its end and is not repeated: the kernel reports a failure once, and the next sync may
        succeed although data was lost.
        """
        cdef int number
        if failures == NOT_SHARED:
            return errno if fsync(fd) < 0 else 0
        pthread_mutex_lock(&self.lock)
        number = self.sync_with_others(fd, failures)
        self.users -= 1
        pthread_mutex_unlock(&self.lock)
        return number

    cdef int sync_with_others(self, int fd, int64_t failures) noexcept nogil:
        cdef uint64_t mine = self.started + 1
        while self.failures == failures:
            if self.finished >= mine:
                return 0
            if self.running:
                pthread_cond_wait(&self.ended, &self.lock)
            else:
                self.sync_for_all(fd)
        return self.error

    cdef void sync_for_all(self, int fd) noexcept nogil:
        cdef int number = 0
        self.running = True
        self.started += 1
        pthread_mutex_unlock(&self.lock)
        if fsync(fd) < 0:
            number = errno
        pthread_mutex_lock(&self.lock)
        self.running = False
        self.finished = self.started
        if number:
            self.failures += 1
            self.error = number
        pthread_cond_broadcast(&self.ended)
