"""Numbers and UIDs of the DICOM standard that more than one layer needs."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class PduType(IntEnum):
    """The type of a PDU, its first byte (PS3.8 9.3.1)."""

    A_ASSOCIATE_RQ = 0x01
    A_ASSOCIATE_AC = 0x02
    A_ASSOCIATE_RJ = 0x03
    P_DATA_TF = 0x04
    A_RELEASE_RQ = 0x05
    A_RELEASE_RP = 0x06
    A_ABORT = 0x07


class AbortReason(IntEnum):
    """The reason in an A-ABORT of source 2, the service provider (PS3.8 table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PDU_PARAMETER = 4
    UNEXPECTED_PDU_PARAMETER = 5
    INVALID_PDU_PARAMETER_VALUE = 6


class ContextResult(IntEnum):
    """The result of a presentation context negotiation (PS3.8 table 9-18)."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


class CommandField(IntEnum):
    """The Command Field of a command set (PS3.7 table E.1-1)."""

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    C_FIND_RQ = 0x0020
    C_FIND_RSP = 0x8020
    C_ECHO_RQ = 0x0030
    C_ECHO_RSP = 0x8030
    C_CANCEL_RQ = 0x0FFF


class DimseStatus(IntEnum):
    """The statuses of our responses (PS3.7 annex C, PS3.4 B.2.3)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    UNRECOGNIZED_OPERATION = 0x0211
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_DOES_NOT_MATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


class Encoding(IntEnum):
    """How a transfer syntax encodes data elements (PS3.5 annex A).

    The compiled walker can read the first three.
    """

    IMPLICIT_LE = 0
    EXPLICIT_LE = 1
    EXPLICIT_BE = 2
    DEFLATED = 3
    """Explicit VR Little Endian in a raw deflate stream (PS3.5 A.5)."""


APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
VERIFICATION: Final = "1.2.840.10008.1.1"
STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
EXPLICIT_VR_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"

IMPLEMENTATION_CLASS_UID: Final = "2.25.117331928044563620163047551370904427358"
"""UID of this implementation (PS3.7 D.3.3.2), sent in negotiation and written to file headers.
Change it when negotiation or the format of the written files changes."""

IMPLEMENTATION_VERSION_NAME: Final = "OXIDICOM_PY_1"
"""Implementation Version Name: at most 16 characters (PS3.7 D.3.3.2.3)."""

MAX_ASSOCIATE_RQ_LENGTH: Final = 256 * 1024
"""Greatest accepted length of an A-ASSOCIATE-RQ in bytes, without its 6-byte header (decision 14).
128 contexts with tens of transfer syntaxes each need less than 200 KiB."""

MAX_COMMAND_LENGTH: Final = 256 * 1024
"""Greatest accepted length of a command set in bytes (decision 14)."""
