# cython: language_level=3
"""One fsync(2) of a folder for all threads that have renamed into it by then.

Who comes first syncs at once, for nobody waits for company. Who comes meanwhile waits for the end
of that sync, which may have begun too early for its rename, and shares the next one.
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
    """Shared by the threads that rename into one folder, each with a descriptor of its own:
    `enter` before the rename, then `sync`, or `leave` if the rename failed."""

    def __cinit__(self):
        pthread_mutex_init(&self.lock, NULL)
        pthread_cond_init(&self.ended, NULL)

    def __dealloc__(self):
        pthread_cond_destroy(&self.ended)
        pthread_mutex_destroy(&self.lock)

    cdef int64_t enter(self, int fd) noexcept nogil:
        """How many syncs have failed so far; or ALONE, where the others have another folder open:
        somebody has removed it, and it was made anew."""
        cdef stat_t status
        cdef int64_t failures = ALONE
        if fstat(fd, &status) < 0:
            return ALONE
        pthread_mutex_lock(&self.lock)
        if self.users == 0:
            self.device, self.inode = status.st_dev, status.st_ino
        if status.st_dev == self.device and status.st_ino == self.inode:
            self.users += 1
            failures = self.failures
        pthread_mutex_unlock(&self.lock)
        return failures

    cdef void leave(self, int64_t failures) noexcept nogil:
        if failures != ALONE:
            pthread_mutex_lock(&self.lock)
            self.users -= 1
            pthread_mutex_unlock(&self.lock)

    cdef int sync(self, int fd, int64_t failures) noexcept nogil:
        """Return when what was renamed before the call is on the device; 0 or an errno.

        `failures` is what `enter` has returned. A failed sync is not tried again: the kernel
        reports it once, and the next one may succeed without what was lost. So it fails all who
        entered before its end.
        """
        cdef int number
        if failures == ALONE:
            return errno if fsync(fd) < 0 else 0
        pthread_mutex_lock(&self.lock)
        number = self.sync_with_others(fd, failures)
        self.users -= 1
        pthread_mutex_unlock(&self.lock)
        return number

    cdef int sync_with_others(self, int fd, int64_t failures) noexcept nogil:
        cdef uint64_t mine = self.begun + 1
        while self.failures == failures:
            if self.done >= mine:
                return 0
            if self.running:
                pthread_cond_wait(&self.ended, &self.lock)
            else:
                self.sync_for_all(fd)
        return self.error

    cdef void sync_for_all(self, int fd) noexcept nogil:
        cdef int number = 0
        self.running = True
        self.begun += 1
        pthread_mutex_unlock(&self.lock)
        if fsync(fd) < 0:
            number = errno
        pthread_mutex_lock(&self.lock)
        self.running = False
        self.done = self.begun
        if number:
            self.failures += 1
            self.error = number
        pthread_cond_broadcast(&self.ended)
