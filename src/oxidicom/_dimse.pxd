# C-STORE-RQ, C-STORE-RSP, file names and file headers in the form of the fast path.
from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    UID_ROOM = 64           # bytes of the longest UID (PS3.5 9.1)
    NAME_ROOM = UID_ROOM + 15   # bytes of a file name: number, "-", UID, ".dcm", NUL
    RESPONSE_ROOM = 320     # bytes; a C-STORE-RSP with two UIDs of 64 bytes has 208


cdef struct Uid:
    char text[UID_ROOM]
    int size


cdef struct StoreCommand:
    # A C-STORE-RQ (PS3.7 9.3.1.1)
    int message_id          # -1 if it is missing
    Uid sop_class
    Uid sop_instance


cdef bint read_uid(const uint8_t *value, uint32_t size, Uid *uid) noexcept nogil
cdef bint read_store_command(const uint8_t *p, Py_ssize_t size, StoreCommand *out) noexcept nogil
cdef int write_store_response(uint8_t *out, int context_id, StoreCommand *command) noexcept nogil
cdef bint is_uid(const uint8_t *value, int size, Uid *uid) noexcept nogil
cdef bint read_number(const uint8_t *value, int size, uint32_t *number) noexcept nogil
cdef int write_name(char *name, uint32_t instance_number, Uid *uid) noexcept nogil
cdef str text_of(Uid *uid)


cdef class HeaderTemplate:
    cdef bytes before, after
    cdef Py_ssize_t room            # bytes of the SOP Instance UID, padding included
    cdef Py_ssize_t size            # bytes of the whole header

    cdef void write(self, char *out, const char *uid, Py_ssize_t size) noexcept
