from typing import final

def read_store_request(command: bytes) -> tuple[int, str, str] | None: ...
def success_response(message_id: int, sop_class: str, sop_instance: str) -> bytes | None: ...
def file_name(number: bytes | None, uid: bytes | None) -> tuple[str, str] | None: ...

@final
class HeaderTemplate:
    """The file header of instances that differ in their SOP Instance UIDs only (PS3.10 7.1).

    `before` and `after` are what precedes and follows the UID, `room` its padded length in bytes.
    """

    def __init__(self, before: bytes, room: int, after: bytes) -> None: ...
    def header(self, uid: bytes) -> bytes:
        """Return the whole header; raises ValueError for a UID of another padded length."""
