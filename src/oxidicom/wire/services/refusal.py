"""Answers requests without a service: status 0211H, unrecognized operation (PS3.7 C.5.23)."""

from __future__ import annotations

from typing import Final

from oxidicom.wire.dimse import Command, encode_unsupported_response
from oxidicom.wire.services.service import Service


def _respond(command: Command, data_set: bytes) -> bytes:
    return encode_unsupported_response(command)


SERVICE: Final = Service(_respond)
