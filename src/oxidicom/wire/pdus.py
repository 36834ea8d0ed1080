"""Encoders of the PDUs that an acceptor sends, except A-ASSOCIATE-AC (PS3.8 9.3.4 to 9.3.8)."""

from __future__ import annotations

from struct import Struct
from typing import Final

from oxidicom.constants import PduType

_short_pdu = Struct(">BxI 4B")
_p_data = Struct(">BxI IBB")

_PDV_HEADER_LENGTH: Final = 6
"""Bytes of PDV length, context id and message control header (PS3.8 9.3.5.1, annex E)."""

_COMMAND: Final = 1
_LAST: Final = 2


def encode_associate_rj(result: int, source: int, reason: int) -> bytes:
    """Encode an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return _short_pdu.pack(PduType.A_ASSOCIATE_RJ, 4, 0, result, source, reason)


def encode_release_rp() -> bytes:
    """Encode an A-RELEASE-RP (PS3.8 9.3.7)."""
    return _short_pdu.pack(PduType.A_RELEASE_RP, 4, 0, 0, 0, 0)


def encode_abort(source: int, reason: int) -> bytes:
    """Encode an A-ABORT (PS3.8 9.3.8)."""
    return _short_pdu.pack(PduType.A_ABORT, 4, 0, 0, source, reason)


def p_data(context_id: int, command: bytes, peer_max_length: int) -> bytes:
    """Return a command set as P-DATA-TF PDUs of one PDV each, joined (PS3.8 9.3.5).

    `peer_max_length` is the peer's Maximum Length in bytes; 0 is unlimited. Each fragment but the
    last has an even length if `peer_max_length` is at least 8, and one byte otherwise. A Maximum
    Length below 7 has no room for a byte, and is exceeded.
    """
    size = len(command)
    room = peer_max_length - _PDV_HEADER_LENGTH
    if not peer_max_length or size <= room:
        return _pdu(context_id, _COMMAND | _LAST, command)
    room = room & ~1 if room > 1 else 1
    last = (size - 1) // room * room
    pdus = [_pdu(context_id, _COMMAND, command[i : i + room]) for i in range(0, last, room)]
    pdus.append(_pdu(context_id, _COMMAND | _LAST, command[last:]))
    return b"".join(pdus)


def _pdu(context_id: int, control: int, fragment: bytes) -> bytes:
    length = len(fragment) + 2
    return _p_data.pack(PduType.P_DATA_TF, length + 4, length, context_id, control) + fragment
