from typing import final

def read_store_request(command: bytes) -> tuple[int, str, str] | None:
    """Return message id, SOP class UID and SOP instance UID of a C-STORE-RQ.

    Return None for any other command, and for a C-STORE-RQ that only the general path can read.
    """

def success_response(message_id: int, sop_class: str, sop_instance: str) -> bytes | None:
    """Return the command set of a C-STORE-RSP with status Success.

    Return None unless both UIDs consist of 1 to 64 digits and dots.
    """

def file_name(number: bytes | None, uid: bytes | None) -> tuple[str, str] | None:
    """Return the SOP instance UID and the file name of an instance (store.paths).

    `number` and `uid` are the raw values of InstanceNumber and SOPInstanceUID. Return None if one
    of them is None or only the general path can read it.
    """

@final
class HeaderTemplate:
    """The file header of instances that differ in their SOP Instance UIDs only (PS3.10 7.1).

    `before` and `after` are the bytes before and after the UID, and `room` is the length of the UID
    in bytes, padding included.
    """

    def __init__(self, before: bytes, room: int, after: bytes) -> None: ...
    def header(self, uid: bytes) -> bytes:
        """Return the whole header. Raises ValueError unless the padded UID has `room` bytes."""
