# cython: language_level=3
"""Fragments to files with as few system calls as can be.

A `Gather` collects pieces of receive buffers without copying; a `PartFile` writes gathers to a
temporary file, header first, and renames it into its folder. The GIL is released around system
calls only. OSError carries no file name: names hold patient data.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EINTR, ENOENT, ENOSYS, EPERM, errno
from libc.string cimport memset

import os

cdef extern from "<sys/uio.h>" nogil:
    Py_ssize_t writev(int fd, const iovec *pieces, int count)

cdef extern from "<fcntl.h>" nogil:
    int openat(int dirfd, const char *name, int flags, ...)
    enum: O_CREAT
    enum: O_EXCL
    enum: O_WRONLY
    enum: O_RDONLY
    enum: O_NOFOLLOW
    enum: O_CLOEXEC
    enum: O_DIRECTORY

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int fsync(int fd)
    int unlinkat(int dirfd, const char *name, int flags)
    long syscall(long number, ...)

cdef extern from "<stdio.h>" nogil:
    int renameat(int olddirfd, const char *oldname, int newdirfd, const char *newname)

cdef extern from "<sys/vfs.h>" nogil:
    cdef struct statfs_t "statfs":
        long f_type
    int fstatfs(int fd, statfs_t *out)

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *out)
    enum: CLOCK_MONOTONIC

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <sys/syscall.h>
    #ifndef SYS_openat2
    #define SYS_openat2 437
    #endif
    /* linux/openat2.h is missing from older header packages */
    struct oxidicom_open_how { uint64_t flags, mode, resolve; };
    #define OXIDICOM_RESOLVE_NO_MAGICLINKS 0x02
    #define OXIDICOM_RESOLVE_NO_SYMLINKS 0x04
    #define OXIDICOM_RESOLVE_BENEATH 0x08
    """
    enum: SYS_openat2
    enum: OXIDICOM_RESOLVE_NO_MAGICLINKS
    enum: OXIDICOM_RESOLVE_NO_SYMLINKS
    enum: OXIDICOM_RESOLVE_BENEATH
    cdef struct oxidicom_open_how:
        unsigned long long flags
        unsigned long long mode
        unsigned long long resolve


cdef bint have_openat2 = True

cdef inline int64_t now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t> t.tv_sec * 1000000000 + t.tv_nsec


def filesystem_type(int fd):
    """The statfs(2) magic number of the file system that `fd` stands on; raises OSError."""
    cdef statfs_t out
    cdef int rc
    with nogil:
        rc = fstatfs(fd, &out)
    if rc < 0:
        raise os_error(errno)
    return out.f_type & 0xFFFFFFFF


cdef object os_error(int number):
    return OSError(number, os.strerror(number))


cdef int open_folder_stepwise(int root_fd, bytes folder) except -2:
    """As `open_folder`, for kernels before 5.6 and sandboxes that refuse openat2."""
    cdef int fd = root_fd, next_fd
    cdef bytes component
    for component in folder.split(b"/"):
        if component in (b"", b".", b".."):
            raise ValueError("a folder's components must be plain names")
        next_fd = openat(fd, <const char *> component, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        number = errno
        if fd != root_fd:
            close(fd)
        if next_fd < 0:
            return -1 if number == ENOENT else raise_os_error(number)
        fd = next_fd
    return fd


cdef int raise_os_error(int number) except -2:
    raise os_error(number)


cdef int open_folder(int root_fd, bytes folder) except -2:
    """A descriptor of `folder` beneath `root_fd`, no symbolic link followed; -1: it is not there."""
    global have_openat2
    cdef oxidicom_open_how how
    cdef const char *path = folder
    cdef int fd, number
    if have_openat2:
        memset(&how, 0, sizeof(how))
        how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC
        how.resolve = OXIDICOM_RESOLVE_BENEATH | OXIDICOM_RESOLVE_NO_SYMLINKS | OXIDICOM_RESOLVE_NO_MAGICLINKS
        with nogil:
            fd = <int> syscall(SYS_openat2, root_fd, path, &how, sizeof(how))
            number = errno
        if fd >= 0:
            return fd
        if number == ENOENT:
            return -1
        if number != ENOSYS and number != EPERM:
            raise os_error(number)
        have_openat2 = False
    return open_folder_stepwise(root_fd, folder)


def use_openat2(bint yes):
    """For tests of the step by step way."""
    global have_openat2
    have_openat2 = yes


@cython.final
@cython.freelist(64)
cdef class Gather:
    """Pieces of buffers, in order, for one gathered write. Holds the buffers until `clear`."""

    def __cinit__(self):
        self.count = 0
        self.view_count = 0
        self.size = 0

    def __dealloc__(self):
        for i in range(self.view_count):
            PyBuffer_Release(&self.views[i])

    cdef int add_view(self, object buffer) except -1:
        PyObject_GetBuffer(buffer, &self.views[self.view_count], PyBUF_SIMPLE)
        self.view_count += 1
        self.last_buffer = buffer
        return 0

    cpdef add(self, object buffer, Py_ssize_t start, Py_ssize_t stop):
        """Gather bytes [start, stop) of `buffer`; raises ValueError outside of it."""
        cdef Py_buffer *view
        if self.count == MAX_PIECES:
            # Rare: hundreds of tiny fragments in one receive. Joined, they are one piece.
            self.detach()
        if buffer is not self.last_buffer:
            self.add_view(buffer)
        view = &self.views[self.view_count - 1]
        if start < 0 or stop < start or stop > view.len:
            raise ValueError(f"range {start}:{stop} is not inside {view.len} bytes")
        self.pieces[self.count].iov_base = <uint8_t *> view.buf + start
        self.pieces[self.count].iov_len = stop - start
        self.count += 1
        self.size += stop - start

    def detach(self):
        """Copy what was gathered, so that the buffers can be reused at once."""
        cdef bytearray joined = bytearray()
        cdef int i
        for i in range(self.count):
            joined += (<const uint8_t *> self.pieces[i].iov_base)[:self.pieces[i].iov_len]
        self.clear()
        if joined:
            self.add(bytes(joined), 0, len(joined))

    def clear(self):
        for i in range(self.view_count):
            PyBuffer_Release(&self.views[i])
        self.view_count = 0
        self.count = 0
        self.size = 0
        self.last_buffer = None

    def __len__(self):
        return self.size


@cython.final
@cython.freelist(64)
cdef class PartFile:
    """A temporary file that becomes a whole file or nothing.

    `folder_fd` is the folder of temporary files, `name` unique in it, `header` what precedes the
    first gathered byte. Nothing is created before the first write.
    """

    def __cinit__(self, int folder_fd, bytes name not None, bytes header not None):
        self.folder_fd = folder_fd
        self.name = name
        self.path = name
        self.header = header
        self.fd = -1

    def __dealloc__(self):
        if self.fd >= 0:
            close(self.fd)
        if self.created:
            unlinkat(self.folder_fd, self.path, 0)

    cdef int create(self) noexcept nogil:
        self.fd = openat(
            self.folder_fd, self.path,
            O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0o644)
        if self.fd < 0:
            return errno
        self.created = True
        return 0

    cdef int write_pieces(self, iovec *pieces, int count) noexcept nogil:
        """Write all of `pieces`, which are used up in doing so; 0 or an errno."""
        cdef Py_ssize_t n
        while count:
            n = writev(self.fd, pieces, count)
            if n < 0:
                if errno == EINTR:
                    continue
                return errno
            while count and <size_t> n >= pieces[0].iov_len:
                n -= pieces[0].iov_len
                pieces += 1
                count -= 1
            if count:
                pieces[0].iov_base = <uint8_t *> pieces[0].iov_base + n
                pieces[0].iov_len -= n
        return 0

    cdef int write_all(self, Gather gather) except -1:
        cdef iovec pieces[MAX_PIECES + 1]
        cdef int count = 0, i, number = 0
        cdef int64_t began, took
        if not self.header_written:
            pieces[0].iov_base = <char *> self.header
            pieces[0].iov_len = len(self.header)
            count = 1
        for i in range(gather.count):
            pieces[count] = gather.pieces[i]
            count += 1
        if count == 0:
            return 0
        with nogil:
            began = now_ns()
            if not self.created:
                number = self.create()
            if number == 0:
                number = self.write_pieces(pieces, count)
            took = now_ns() - began
        self.slowest_ns = max(self.slowest_ns, took)
        if number:
            raise os_error(number)
        self.header_written = True
        gather.clear()
        return 0

    def write(self, Gather gather not None):
        """Append all that `gather` holds, and clear it; raises OSError."""
        self.write_all(gather)

    def place(self, Gather gather not None, int root_fd, bytes folder not None,
              bytes file_name not None, bint sync=False):
        """Append `gather`, then put the file into `folder` beneath `root_fd` under its final name.

        Replaces a file of that name. With `sync`, file and folder are on the device when this
        returns. False: the folder is not there; make it and call again. Raises OSError, with
        ELOOP or ENOTDIR where a symbolic link stands in the way.
        """
        cdef int folder_fd, number = 0
        cdef int64_t began
        cdef const char *final_name = file_name
        self.write_all(gather)
        if self.fd >= 0:
            with nogil:
                began = now_ns()
                if sync and fsync(self.fd) < 0:
                    number = errno
                # A network file system may report a failed write only here.
                if close(self.fd) < 0 and number == 0 and errno != EINTR:
                    number = errno
                self.fd = -1
                self.slowest_ns = max(self.slowest_ns, now_ns() - began)
            if number:
                raise os_error(number)
        began = now_ns()
        folder_fd = open_folder(root_fd, folder)
        if folder_fd < 0:
            return False
        with nogil:
            if renameat(self.folder_fd, self.path, folder_fd, final_name) < 0:
                number = errno
            elif sync and fsync(folder_fd) < 0:
                number = errno
            close(folder_fd)
            self.slowest_ns = max(self.slowest_ns, now_ns() - began)
        if number:
            raise os_error(number)
        self.created = False
        return True

    def discard(self):
        """Nothing of it remains; never raises."""
        cdef bint created = self.created
        cdef int fd = self.fd
        self.fd = -1
        self.created = False
        with nogil:
            if fd >= 0:
                close(fd)
            if created:
                unlinkat(self.folder_fd, self.path, 0)
