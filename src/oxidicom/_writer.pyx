# cython: language_level=3
"""Writes fragments of instances to files, with as few system calls as possible.

A `Gather` collects pieces of receive buffers without a copy. A `PartFile` writes gathers to a
temporary file, after a header, and renames it into its folder. The GIL is released around system
calls only. OSErrors have no file name, because names contain patient data.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EBADF, EINTR, EINVAL, EIO, ENAMETOOLONG, ENOENT, ENOSYS, EPERM, errno
from libc.string cimport memcpy, memset, strchr, strlen

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
    enum: O_PATH

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
    #ifndef O_PATH
    #define O_PATH 010000000
    #endif
    #ifndef SYS_openat2
    #define SYS_openat2 437
    #endif
    /* Older header packages lack linux/openat2.h. */
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

cdef int64_t now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t> t.tv_sec * 1000000000 + t.tv_nsec


def filesystem_type(int fd):
    """Return the statfs(2) magic number of the file system of `fd`. Raises OSError."""
    cdef statfs_t out
    cdef int rc
    with nogil:
        rc = fstatfs(fd, &out)
    if rc < 0:
        raise os_error(errno)
    return out.f_type & 0xFFFFFFFF


cdef object os_error(int number):
    return OSError(number, os.strerror(number))


cdef const char *c_string(bytes path) except NULL:
    if <Py_ssize_t> strlen(<const char *> path) != len(path):
        raise ValueError("NUL in a path")
    return <const char *> path


cdef const char *plain_name(bytes name) except NULL:
    if not name or name == b"." or name == b".." or b"/" in name:
        raise ValueError("not the plain name of a file")
    return c_string(name)


cdef int open_folder_stepwise(int root_fd, const char *path, int flags) noexcept nogil:
    """Open as `open_folder`, one component at a time: without openat2 (kernel < 5.6, sandbox)."""
    cdef char component[256]
    cdef const char *slash
    cdef size_t length
    cdef int fd = root_fd, next_fd, number
    while True:
        slash = strchr(path, c'/')
        length = slash - path if slash != NULL else strlen(path)
        if length >= sizeof(component):
            next_fd = -ENAMETOOLONG
        elif length == 0 or path[0] == c'.' and (length == 1 or length == 2 and path[1] == c'.'):
            next_fd = -EINVAL
        else:
            memcpy(component, path, length)
            component[length] = 0
            next_fd = openat(fd, component, flags | O_NOFOLLOW)
            if next_fd < 0:
                next_fd = -errno
        if fd != root_fd:
            close(fd)
        if next_fd < 0 or slash == NULL:
            return next_fd
        fd = next_fd
        path = slash + 1


cdef int open_folder(int root_fd, const char *path, bint sync) noexcept nogil:
    """Return a descriptor of a folder below `root_fd`, or -errno. No symbolic link is followed.

    `below_root.open_folder` follows the same rule.
    """
    global have_openat2
    cdef oxidicom_open_how how
    cdef int fd
    # O_PATH is cheaper and sufficient for a rename, but not for a sync.
    cdef int flags = O_DIRECTORY | O_CLOEXEC | (O_RDONLY if sync else O_PATH)
    if have_openat2:
        memset(&how, 0, sizeof(how))
        how.flags = flags
        how.resolve = (
            OXIDICOM_RESOLVE_BENEATH | OXIDICOM_RESOLVE_NO_SYMLINKS
            | OXIDICOM_RESOLVE_NO_MAGICLINKS)
        fd = <int> syscall(SYS_openat2, root_fd, path, &how, sizeof(how))
        if fd >= 0:
            return fd
        if errno != ENOSYS and errno != EPERM:
            return -errno
        have_openat2 = False
    return open_folder_stepwise(root_fd, path, flags)


def use_openat2(bint yes):
    """Open folders with openat2(2) if `yes`, otherwise step by step; for tests only."""
    global have_openat2
    have_openat2 = yes


@cython.final
@cython.freelist(64)
cdef class Gather:
    """Pieces of buffers, in order, for one writev(2). It holds the buffers until `clear`."""

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
        """Append bytes [start, stop) of `buffer`. Raises ValueError if it does not have them."""
        cdef Py_buffer *view
        if self.count == MAX_PIECES:
            # Rare: a receive had hundreds of tiny fragments. They are joined to one piece.
            self.detach()
        if buffer is not self.last_buffer:
            if self.view_count == MAX_VIEWS:
                self.detach()
            self.add_view(buffer)
        view = &self.views[self.view_count - 1]
        if start < 0 or stop < start or stop > view.len:
            raise ValueError(f"range {start}:{stop} is not inside {view.len} bytes")
        self.pieces[self.count].iov_base = <uint8_t *> view.buf + start
        self.pieces[self.count].iov_len = stop - start
        self.count += 1
        self.size += stop - start

    def detach(self):
        """Replace the pieces by a copy, so that the buffers can be reused at once."""
        cdef bytearray joined = bytearray()
        cdef int i
        for i in range(self.count):
            joined += (<const uint8_t *> self.pieces[i].iov_base)[:self.pieces[i].iov_len]
        self.clear()
        if joined:
            self.add(joined, 0, len(joined))

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
    """A temporary file, which becomes a complete file or is removed.

    `folder_fd` is the folder of temporary files, `name` must be unique in it, and `header` has the
    bytes before the first gathered one. The first write creates the file. The name of a file that
    cannot be removed is appended to `unremoved`.
    """

    def __cinit__(self, int folder_fd, bytes name not None, bytes header not None,
                  list unremoved=None):
        # Set first, because __dealloc__ runs even if this method raises.
        self.fd = -1
        self.folder_fd = folder_fd
        plain_name(name)
        if len(name) >= NAME_ROOM:
            raise ValueError("name too long")
        memcpy(self.path, <const char *> name, len(name) + 1)
        self.unremoved = unremoved
        self.long_header = header
        self.header_at = <char *> header
        self.header_size = len(header)

    def __dealloc__(self):
        self.remove()

    cdef int rename(self, bytes prefix, uint64_t number) except -1:
        """Remove the file unless it was placed, and begin another. The caller sets its header."""
        cdef char digits[20]
        cdef int count = 0
        cdef size_t size = len(prefix)
        cdef char *p = self.path
        self.remove()
        self.failure = 0
        self.unsynced = False
        self.slowest_ns = 0
        self.long_header = None
        self.header_at = self.header
        self.header_size = 0
        if size + sizeof(digits) + 6 > NAME_ROOM:
            raise ValueError("name too long")
        # printf is not used: it takes half as long as the rest of this method.
        while number or count == 0:
            digits[count] = c'0' + number % 10
            number //= 10
            count += 1
        memcpy(p, <const char *> prefix, size)
        p += size
        while count:
            count -= 1
            p[0] = digits[count]
            p += 1
        memcpy(p, <const char *> b".part", 6)
        return 0

    cdef void remove(self) noexcept nogil:
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1
        if self.created:
            self.created = False
            if unlinkat(self.folder_fd, self.path, 0) < 0 and errno != ENOENT:
                with gil:
                    if self.unremoved is not None:
                        self.unremoved.append(<bytes> <char *> self.path)

    cdef int append(self, Gather gather) noexcept nogil:
        """Write all bytes of `gather`, which is not cleared. Return 0 or an errno."""
        cdef iovec pieces[MAX_PIECES + 1]
        cdef int count = 0, number
        if self.failure:
            return self.failure
        if not self.created:
            self.fd = openat(
                self.folder_fd, self.path,
                O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, <int> 0o644)
            if self.fd < 0:
                number = errno
                # Only after ENOENT may the caller try again, once it has made the folder again.
                if number != ENOENT:
                    self.failure = number
                return number
            self.created = True
            pieces[0].iov_base = self.header_at
            pieces[0].iov_len = self.header_size
            count = 1
        elif gather.count == 0:
            return 0
        memcpy(&pieces[count], gather.pieces, gather.count * sizeof(iovec))
        self.failure = self.write_pieces(pieces, count + gather.count)
        return self.failure

    cdef int write_pieces(self, iovec *pieces, int count) noexcept nogil:
        """Write all bytes of `pieces`, which are modified. Return 0 or an errno."""
        cdef Py_ssize_t n
        while count:
            if pieces[0].iov_len == 0:
                pieces += 1
                count -= 1
                continue
            n = writev(self.fd, pieces, count)
            if n < 0:
                if errno == EINTR:
                    continue
                return errno
            if n == 0:
                return EIO
            while count and <size_t> n >= pieces[0].iov_len:
                n -= pieces[0].iov_len
                pieces += 1
                count -= 1
            if count:
                pieces[0].iov_base = <uint8_t *> pieces[0].iov_base + n
                pieces[0].iov_len -= n
        return 0

    cdef int complete(self, bint sync) noexcept nogil:
        """Close the file, to which all bytes must be written. Return 0 or an errno."""
        cdef int number = 0
        if self.fd < 0:
            return self.failure
        if sync and fsync(self.fd) < 0:
            number = errno
        # A network file system may report a failed write only here.
        if close(self.fd) < 0 and number == 0 and errno != EINTR:
            number = errno
        self.fd = -1
        self.failure = number
        return number

    cdef int rename_into(self, int root_fd, const char *folder, const char *final_name,
                         FolderSync sync) noexcept nogil:
        cdef int number = 0
        cdef int64_t failures = 0
        cdef int folder_fd = open_folder(root_fd, folder, sync is not None)
        if folder_fd < 0:
            return NO_FOLDER if folder_fd == -ENOENT else -folder_fd
        if sync is not None:
            failures = sync.enter(folder_fd)
        if renameat(self.folder_fd, self.path, folder_fd, final_name) < 0:
            number = errno
            if sync is not None:
                sync.leave(failures)
        else:
            self.created = False
            self.failure = EBADF
            if sync is not None:
                number = sync.sync(folder_fd, failures)
                if number:
                    self.failure = number
                    self.unsynced = True
        close(folder_fd)
        return number

    cdef int store(self, Gather gather, int root_fd, const char *folder, const char *final_name,
                   FolderSync sync) noexcept nogil:
        """Append `gather` and give the file its final name. Return 0, NO_FOLDER or an errno.

        `gather` is not cleared.
        """
        cdef int64_t began = now_ns()
        cdef int number = self.append(gather)
        if number == 0:
            number = self.complete(sync is not None)
        if number == 0:
            number = self.rename_into(root_fd, folder, final_name, sync)
        self.took_since(began)
        return number

    cdef void took_since(self, int64_t began) noexcept nogil:
        cdef int64_t took = now_ns() - began
        if took > self.slowest_ns:
            self.slowest_ns = took

    def write(self, Gather gather not None):
        """Append the bytes of `gather`, and clear it.

        Raises OSError. After FileNotFoundError (the folder of temporary files was removed) the call
        may be repeated with the same gather. After any other failure the file is never placed.
        """
        cdef int number
        cdef int64_t began
        with nogil:
            began = now_ns()
            number = self.append(gather)
            self.took_since(began)
        if number:
            raise os_error(number)
        gather.clear()

    def place(self, Gather gather not None, int root_fd, bytes folder not None,
              bytes file_name not None, FolderSync sync=None):
        """Append `gather`, then move the file into `folder` below `root_fd` under its final name.

        Replaces a file of that name. With `sync`, which is shared by the threads that place files
        into this folder, file and folder are on the device when this returns. Returns False if the
        folder is missing; the caller may make it and call again. Raises OSError, with ELOOP or
        ENOTDIR if the path has a symbolic link. Then there is no new file under the final name,
        unless `unsynced` is True.
        """
        cdef const char *folder_path = c_string(folder)
        cdef const char *final_name = plain_name(file_name)
        cdef int number
        with nogil:
            number = self.store(gather, root_fd, folder_path, final_name, sync)
        # These bytes must not be appended again when the caller repeats the call.
        if self.created or number == 0:
            gather.clear()
        if number == NO_FOLDER:
            return False
        if number:
            raise os_error(number)
        return True

    def discard(self):
        """Remove the file unless it was placed. Never raises."""
        with nogil:
            self.remove()
            if self.failure == 0:
                self.failure = EBADF
