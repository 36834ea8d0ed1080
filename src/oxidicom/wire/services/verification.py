"""C-ECHO (PS3.4 annex A): a request is answered by Success (decision 18)."""

from __future__ import annotations

from typing import Final

from oxidicom.wire.dimse import Command, encode_echo_response
from oxidicom.wire.services.service import Service


def _respond(command: Command, data_set: bytes) -> bytes:
    return encode_echo_response(command.message_id)


SERVICE: Final = Service(_respond)
