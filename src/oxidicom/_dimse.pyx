# cython: language_level=3
"""C-STORE-RQ, C-STORE-RSP, the file name and the file header of an instance, compiled.

Each reader accepts the form that nearly every sender uses, and returns False or None for any other
value. `wire.dimse` and `store.identity` try these functions first and read other values themselves.
A property test checks that both agree.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy

cdef enum:
    # PS3.7 table E.1-1; group 0000
    GROUP_LENGTH = 0x0000
    AFFECTED_SOP_CLASS_UID = 0x0002
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
    PRIORITY = 0x0700
    COMMAND_DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    AFFECTED_SOP_INSTANCE_UID = 0x1000
    MOVE_ORIGINATOR_AE_TITLE = 0x1030
    MOVE_ORIGINATOR_MESSAGE_ID = 0x1031

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    NO_DATA_SET = 0x0101
    P_DATA_TF = 0x04
    LAST_FRAGMENT_OF_COMMAND = 3
    HEADERS = 12            # bytes of the headers of a PDU and its PDV

    MAX_NUMBER_DIGITS = 9   # each number of 9 digits fits into 32 bits


cdef inline int little_endian_16(const uint8_t *p) noexcept nogil:
    return p[0] | p[1] << 8


cdef inline uint32_t little_endian_32(const uint8_t *p) noexcept nogil:
    return <uint32_t> little_endian_16(p) | <uint32_t> little_endian_16(p + 2) << 16


cdef bint read_uid(const uint8_t *value, uint32_t size, Uid *uid) noexcept nogil:
    """Copy a value without its trailing NULs and spaces (decision 9) to `uid`, and return True.

    Return False, and leave `uid` unchanged, unless 1 to 64 digits and dots remain (PS3.5 9.1).
    """
    cdef uint32_t i
    while size and (value[size - 1] == 0 or value[size - 1] == c' '):
        size -= 1
    if not 0 < size <= UID_ROOM:
        return False
    for i in range(size):
        if value[i] != c'.' and not c'0' <= value[i] <= c'9':
            return False
    memcpy(uid.text, value, size)
    uid.size = <int> size
    return True


cdef bint read_store_command(const uint8_t *p, Py_ssize_t size, StoreCommand *out) noexcept nogil:
    """Read a C-STORE-RQ into `out`; its elements may be in any order (PS3.7 table 9.3-1).

    Return True on success, and False for any other command or if an element is not in that table
    or has another form. The command may still be valid then.
    """
    cdef const uint8_t *end = p + size
    cdef uint32_t length
    cdef int element
    cdef bint is_store = False, has_data_set = False
    out.message_id = -1
    out.sop_class.size = out.sop_instance.size = 0
    while p < end:
        if end - p < 8 or little_endian_16(p) != 0:
            return False
        element = little_endian_16(p + 2)
        length = little_endian_32(p + 4)
        p += 8
        if <Py_ssize_t> length > end - p:
            return False
        if element == AFFECTED_SOP_CLASS_UID:
            if not read_uid(p, length, &out.sop_class):
                return False
        elif element == AFFECTED_SOP_INSTANCE_UID:
            if not read_uid(p, length, &out.sop_instance):
                return False
        elif element == COMMAND_FIELD or element == COMMAND_DATA_SET_TYPE or element == MESSAGE_ID:
            if length != 2:
                return False
            if element == MESSAGE_ID:
                out.message_id = little_endian_16(p)
            elif element == COMMAND_FIELD:
                is_store = little_endian_16(p) == C_STORE_RQ
            else:
                has_data_set = little_endian_16(p) != NO_DATA_SET
        elif (element != GROUP_LENGTH and element != PRIORITY
              and element != MOVE_ORIGINATOR_AE_TITLE and element != MOVE_ORIGINATOR_MESSAGE_ID):
            return False
        p += length
    return (is_store and has_data_set and out.message_id >= 0
            and out.sop_class.size > 0 and out.sop_instance.size > 0)


cdef bint is_uid(const uint8_t *value, int size, Uid *uid) noexcept nogil:
    """Return whether `value` equals `uid`. Trailing NULs of `value` are ignored."""
    while size > uid.size and value[size - 1] == 0:
        size -= 1
    return size == uid.size and memcmp(value, uid.text, size) == 0


cdef bint read_number(const uint8_t *value, int size, uint32_t *number) noexcept nogil:
    """Read a decimal number from text and return True.

    Return False unless the text has 1 to 9 digits; spaces before and after them are ignored.
    """
    cdef int i
    while size > 0 and value[size - 1] == c' ':
        size -= 1
    while size > 0 and value[0] == c' ':
        value += 1
        size -= 1
    if not 0 < size <= MAX_NUMBER_DIGITS:
        return False
    number[0] = 0
    for i in range(size):
        if not c'0' <= value[i] <= c'9':
            return False
        number[0] = number[0] * 10 + (value[i] - c'0')
    return True


cdef int write_name(char *name, uint32_t instance_number, Uid *uid) noexcept nogil:
    """Write the file name of an instance (store.paths) and a NUL to `name`, of NAME_ROOM bytes.

    Return the length of the name in bytes, without the NUL.
    """
    cdef char digits[MAX_NUMBER_DIGITS]
    cdef int count = 0
    cdef char *p = name
    while instance_number or count < 4:
        digits[count] = c'0' + instance_number % 10
        instance_number //= 10
        count += 1
    while count:
        count -= 1
        p[0] = digits[count]
        p += 1
    p[0] = c'-'
    memcpy(p + 1, uid.text, uid.size)
    p += 1 + uid.size
    memcpy(p, <const char *> b".dcm", 5)
    return <int> (p + 4 - name)


cdef inline void put_big_endian(uint8_t *p, uint32_t number) noexcept nogil:
    p[0] = p[1] = 0
    p[2] = number >> 8
    p[3] = number & 0xFF


cdef inline uint8_t *put_header(uint8_t *p, int element, uint32_t length) noexcept nogil:
    p[0] = p[1] = p[6] = p[7] = 0
    p[2] = element & 0xFF
    p[3] = element >> 8
    p[4] = length & 0xFF
    p[5] = length >> 8
    return p + 8


cdef inline uint8_t *put_number(uint8_t *p, int element, int number) noexcept nogil:
    p = put_header(p, element, 2)
    p[0] = number & 0xFF
    p[1] = number >> 8
    return p + 2


cdef inline uint8_t *put_uid(uint8_t *p, int element, Uid *uid) noexcept nogil:
    cdef int padded = uid.size + (uid.size & 1)
    p = put_header(p, element, padded)
    p[padded - 1] = 0
    memcpy(p, uid.text, uid.size)
    return p + padded


cdef str text_of(Uid *uid):
    return uid.text[:uid.size].decode("ascii")


cdef int write_store_response(uint8_t *out, int context_id, StoreCommand *command) noexcept nogil:
    """Write a C-STORE-RSP with status Success to `out`, which must have RESPONSE_ROOM bytes.

    It is one P-DATA-TF PDU of one PDV (PS3.7 9.3.1.2, PS3.8 9.3.5). Return its size in bytes.
    """
    cdef uint8_t *group = out + HEADERS
    cdef uint8_t *p = put_header(group, GROUP_LENGTH, 4) + 4
    cdef uint8_t *first = p
    cdef uint32_t size
    p = put_uid(p, AFFECTED_SOP_CLASS_UID, &command.sop_class)
    p = put_number(p, COMMAND_FIELD, C_STORE_RSP)
    p = put_number(p, MESSAGE_ID_BEING_RESPONDED_TO, command.message_id)
    p = put_number(p, COMMAND_DATA_SET_TYPE, NO_DATA_SET)
    p = put_number(p, STATUS, 0)
    p = put_uid(p, AFFECTED_SOP_INSTANCE_UID, &command.sop_instance)
    size = <uint32_t> (p - first)
    group[8] = size & 0xFF
    group[9] = size >> 8
    group[10] = group[11] = 0
    size = <uint32_t> (p - out)
    out[0] = P_DATA_TF
    out[1] = 0
    put_big_endian(out + 2, size - 6)
    put_big_endian(out + 6, size - 10)
    out[10] = context_id
    out[11] = LAST_FRAGMENT_OF_COMMAND
    return <int> size


# ---- for Python ---------------------------------------------------------------------------------


def read_store_request(bytes command not None):
    """Return message id, SOP class UID and SOP instance UID of a C-STORE-RQ, or None."""
    cdef StoreCommand read
    if not read_store_command(command, len(command), &read):
        return None
    return read.message_id, text_of(&read.sop_class), text_of(&read.sop_instance)


def success_response(int message_id, str sop_class not None, str sop_instance not None):
    """Return the command set of a C-STORE-RSP with status Success, or None for an invalid UID."""
    cdef StoreCommand command
    cdef uint8_t response[RESPONSE_ROOM]
    cdef int size
    if (not set_uid(&command.sop_class, sop_class)
            or not set_uid(&command.sop_instance, sop_instance)):
        return None
    command.message_id = message_id
    size = write_store_response(response, 0, &command)
    return response[HEADERS:size]


def file_name(bytes number, bytes uid):
    """Return the SOP instance UID and the file name, or None.

    It is None if a raw value is None or not in the form that the readers above accept.
    """
    cdef char name[NAME_ROOM]
    cdef uint32_t instance_number
    cdef Uid instance
    cdef int size
    if number is None or uid is None or not read_uid(uid, len(uid), &instance):
        return None
    if not is_uid(uid, len(uid), &instance):
        # The general path keeps a space that precedes a NUL as part of the name.
        return None
    if not read_number(number, len(number), &instance_number):
        return None
    size = write_name(name, instance_number, &instance)
    return text_of(&instance), name[:size].decode("ascii")


@cython.final
cdef class HeaderTemplate:
    """The file header of instances that differ in their SOP Instance UIDs only (PS3.10 7.1).

    `before` and `after` are the bytes before and after the UID, and `room` is the length of the UID
    in bytes, padding included.
    """

    def __cinit__(self, bytes before not None, Py_ssize_t room, bytes after not None):
        # In __cinit__, because `write` relies on all four fields.
        self.before = before
        self.after = after
        self.room = room
        self.size = len(before) + room + len(after)

    cdef void write(self, char *out, const char *uid, Py_ssize_t size) noexcept:
        """Write the header, `self.size` bytes, to `out`. `uid` must have `room` bytes or 1 less."""
        cdef Py_ssize_t before = PyBytes_GET_SIZE(self.before)
        memcpy(out, PyBytes_AS_STRING(self.before), before)
        out += before
        if size < self.room:
            out[size] = 0
        memcpy(out, uid, size)
        memcpy(out + self.room, PyBytes_AS_STRING(self.after), PyBytes_GET_SIZE(self.after))

    def header(self, bytes uid not None):
        """Return the whole header. Raises ValueError unless the padded UID has `room` bytes."""
        cdef bytes whole
        if len(uid) + (len(uid) & 1) != self.room:
            raise ValueError(f"a UID of {len(uid)} bytes in a header for {self.room}")
        whole = PyBytes_FromStringAndSize(NULL, self.size)
        self.write(PyBytes_AS_STRING(whole), uid, len(uid))
        return whole


cdef bint set_uid(Uid *uid, str text) except -1:
    """Copy `text` to `uid` and return True, or False unless it has 1 to 64 digits and dots."""
    cdef bytes value = text.encode("latin-1", "replace")
    return read_uid(value, len(value), uid) and uid.size == len(value)
