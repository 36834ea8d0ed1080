"""Verification service (PS3.4 annex A): each C-ECHO-RQ is answered with Success (decision 18)."""

from __future__ import annotations

from typing import Final

from oxidicom.wire.dimse import Command, encode_echo_response
from oxidicom.wire.services.service import Service


def _respond(command: Command, data_set: bytes) -> bytes:
    return encode_echo_response(command.message_id)


SERVICE: Final = Service(_respond)
