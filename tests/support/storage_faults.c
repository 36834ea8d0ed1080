/* Storage that fails, hangs or writes short on demand. Preloaded, it intercepts calls of the C
   library, those of Python and of compiled code alike.

   It is controlled through shared memory: STORAGE_FAULTS names a file that the test and every process
   that it starts map. storage_faults.py has the same layout. Calls outside of `root` are never
   disturbed. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum call { ANY, OPEN, WRITE, FSYNC, CLOSE, RENAME, MKDIR, UNLINK, STAT, STATVFS, LIST, DUP, READ };

struct control {
    char root[512];      /* real path of the files root; empty: no faults */
    char below[512];     /* only paths, relative to the root, that begin with this */
    int32_t call;        /* only this one, or ANY */
    int32_t error;       /* errno to fail with; 0: none */
    int32_t max_bytes;   /* bytes that a write takes at most; 0: all */
    int32_t hold;        /* disturbed calls wait until this is 0 */
    int64_t first;       /* number, from 1, of the first matching call that is disturbed */
    int64_t times;       /* number of disturbed calls; negative: all that follow */
    int64_t delay_ns;    /* each disturbed call takes so much longer */
    int64_t seen;        /* matching calls */
    int64_t hits;
    int64_t held;        /* calls that wait now */
    int32_t hit_call;    /* the first disturbed call and its path */
    char hit_path[512];
};

static struct control *control;

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__)) dlsym(RTLD_NEXT, name)

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("STORAGE_FAULTS");
    if (!path) return;
    int fd = (int) syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        void *memory = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory != MAP_FAILED) control = memory;
        syscall(SYS_close, fd);
    }
    if (!control) abort();
}

static void sleep_ns(int64_t ns) {
    struct timespec time = {ns / 1000000000, ns % 1000000000};
    while (nanosleep(&time, &time) < 0 && errno == EINTR) { }
}

/* The path of `fd`, followed by `/name` if given; 0 if it does not match. */
static int locate(char *full, int fd, const char *name) {
    char link[64];
    ssize_t length = 0;
    if (name && name[0] == '/') {
        length = snprintf(full, PATH_MAX, "%s", name);
        return length < PATH_MAX;
    }
    if (fd == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, full, PATH_MAX - 1);
    if (length < 0) return 0;
    full[length] = 0;
    if (name) {
        int more = snprintf(full + length, PATH_MAX - length, "/%s", name);
        return more < PATH_MAX - length;
    }
    return 1;
}

static void hang(void) {
    __atomic_add_fetch(&control->held, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&control->hold, __ATOMIC_SEQ_CST)) sleep_ns(1000000);
    __atomic_sub_fetch(&control->held, 1, __ATOMIC_SEQ_CST);
}

/* Whether this call is disturbed; then it has waited already. */
static int hit(int call, int fd, const char *name) {
    char full[PATH_MAX];
    size_t root;
    int saved = errno, fits;
    if (!control || !__atomic_load_n(&control->first, __ATOMIC_SEQ_CST)) return 0;
    root = strlen(control->root);
    fits = root && locate(full, fd, name) && strncmp(full, control->root, root) == 0
        && (full[root] == '/' || full[root] == 0);
    errno = saved;
    if (!fits || (control->call != ANY && control->call != call)) return 0;
    const char *below = full[root] ? full + root + 1 : full + root;
    if (strncmp(below, control->below, strlen(control->below)) != 0) return 0;
    int64_t number = __atomic_add_fetch(&control->seen, 1, __ATOMIC_SEQ_CST);
    if (number < control->first) return 0;
    if (control->times >= 0 && number >= control->first + control->times) return 0;
    if (__atomic_add_fetch(&control->hits, 1, __ATOMIC_SEQ_CST) == 1) {
        control->hit_call = call;
        snprintf(control->hit_path, sizeof control->hit_path, "%s", below);
    }
    if (control->delay_ns) sleep_ns(control->delay_ns);
    if (control->hold) hang();
    errno = saved;
    return 1;
}

static int failed(int call, int fd, const char *name) {
    if (!hit(call, fd, name) || !control->error) return 0;
    errno = control->error;
    return 1;
}

/* ---- opening and closing ------------------------------------------------------------------- */

#define MODE(flags, mode) \
    int mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list more; va_start(more, flags); mode = va_arg(more, int); va_end(more); \
    }

int openat(int folder, const char *name, int flags, ...) {
    MODE(flags, mode)
    REAL(int, "openat", int, const char *, int, ...);
    return failed(OPEN, folder, name) ? -1 : real(folder, name, flags, mode);
}
int openat64(int folder, const char *name, int flags, ...) {
    MODE(flags, mode)
    REAL(int, "openat64", int, const char *, int, ...);
    return failed(OPEN, folder, name) ? -1 : real(folder, name, flags, mode);
}
int open(const char *name, int flags, ...) {
    MODE(flags, mode)
    REAL(int, "open", const char *, int, ...);
    return failed(OPEN, AT_FDCWD, name) ? -1 : real(name, flags, mode);
}
int open64(const char *name, int flags, ...) {
    MODE(flags, mode)
    REAL(int, "open64", const char *, int, ...);
    return failed(OPEN, AT_FDCWD, name) ? -1 : real(name, flags, mode);
}
long syscall(long number, ...) {
    long values[6];
    va_list more;
    va_start(more, number);
    for (int i = 0; i < 6; i++) values[i] = va_arg(more, long);
    va_end(more);
    REAL(long, "syscall", long, ...);
    if (number == SYS_openat2 && failed(OPEN, (int) values[0], (const char *) values[1])) return -1;
    return real(number, values[0], values[1], values[2], values[3], values[4], values[5]);
}
/* The descriptor is closed even if this fails, as with NFS and a full disk. */
int close(int fd) {
    REAL(int, "close", int);
    int saved = errno;
    int fails = failed(CLOSE, fd, NULL), number = errno;
    errno = saved;
    int result = real(fd);
    if (!fails) return result;
    errno = number;
    return -1;
}
int fcntl64(int fd, int command, ...) {
    va_list more;
    va_start(more, command);
    void *value = va_arg(more, void *);
    va_end(more);
    REAL(int, "fcntl64", int, int, ...);
    if (command == F_DUPFD_CLOEXEC && failed(DUP, fd, NULL)) return -1;
    return real(fd, command, value);
}
int fcntl(int fd, int command, ...) {
    va_list more;
    va_start(more, command);
    void *value = va_arg(more, void *);
    va_end(more);
    REAL(int, "fcntl", int, int, ...);
    if (command == F_DUPFD_CLOEXEC && failed(DUP, fd, NULL)) return -1;
    return real(fd, command, value);
}

/* ---- reading and writing ------------------------------------------------------------------- */

ssize_t read(int fd, void *data, size_t size) {
    REAL(ssize_t, "read", int, void *, size_t);
    return failed(READ, fd, NULL) ? -1 : real(fd, data, size);
}
ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (hit(WRITE, fd, NULL)) {
        if (control->error) { errno = control->error; return -1; }
        if (control->max_bytes && size > (size_t) control->max_bytes) size = control->max_bytes;
    }
    return real(fd, data, size);
}
ssize_t writev(int fd, const struct iovec *pieces, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (hit(WRITE, fd, NULL)) {
        if (control->error) { errno = control->error; return -1; }
        if (control->max_bytes) {
            struct iovec fewer[IOV_MAX];
            size_t left = control->max_bytes;
            int n = 0;
            for (; n < count && left; n++) {
                fewer[n] = pieces[n];
                if (fewer[n].iov_len > left) fewer[n].iov_len = left;
                left -= fewer[n].iov_len;
            }
            return real(fd, fewer, n);
        }
    }
    return real(fd, pieces, count);
}
int fsync(int fd) {
    REAL(int, "fsync", int);
    return failed(FSYNC, fd, NULL) ? -1 : real(fd);
}

/* ---- names --------------------------------------------------------------------------------- */

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return failed(RENAME, AT_FDCWD, to) ? -1 : real(from, to);
}
int renameat(int folder, const char *from, int other, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    return failed(RENAME, other, to) ? -1 : real(folder, from, other, to);
}
int mkdir(const char *name, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    return failed(MKDIR, AT_FDCWD, name) ? -1 : real(name, mode);
}
int mkdirat(int folder, const char *name, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    return failed(MKDIR, folder, name) ? -1 : real(folder, name, mode);
}
int unlink(const char *name) {
    REAL(int, "unlink", const char *);
    return failed(UNLINK, AT_FDCWD, name) ? -1 : real(name);
}
int unlinkat(int folder, const char *name, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    return failed(UNLINK, folder, name) ? -1 : real(folder, name, flags);
}

/* ---- listing ------------------------------------------------------------------------------- */

#define LOOK(name, kind) \
    int name(const char *path, kind *out) { \
        REAL(int, #name, const char *, kind *); \
        return failed(STAT, AT_FDCWD, path) ? -1 : real(path, out); \
    }
LOOK(stat, struct stat)
LOOK(stat64, struct stat64)
LOOK(lstat, struct stat)
LOOK(lstat64, struct stat64)

#define LOOK_AT(name, kind) \
    int name(int folder, const char *path, kind *out, int flags) { \
        REAL(int, #name, int, const char *, kind *, int); \
        return failed(STAT, folder, path) ? -1 : real(folder, path, out, flags); \
    }
LOOK_AT(fstatat, struct stat)
LOOK_AT(fstatat64, struct stat64)

#define SPACE(name, kind) \
    int name(int fd, kind *out) { \
        REAL(int, #name, int, kind *); \
        return failed(STATVFS, fd, NULL) ? -1 : real(fd, out); \
    }
SPACE(fstatvfs, struct statvfs)
SPACE(fstatvfs64, struct statvfs64)

DIR *opendir(const char *name) {
    REAL(DIR *, "opendir", const char *);
    return failed(OPEN, AT_FDCWD, name) ? NULL : real(name);
}
struct dirent64 *readdir64(DIR *folder) {
    REAL(struct dirent64 *, "readdir64", DIR *);
    return failed(LIST, dirfd(folder), NULL) ? NULL : real(folder);
}
