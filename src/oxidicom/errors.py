"""The errors of the package, by cause: the peer, the operator or oxidicom itself.

An error of the peer has the code of the standard for the response, an error of the operator states
what to change. No text contains a value of a data set.
"""

from __future__ import annotations


class OxidicomError(Exception):
    """Base class of every error that this package raises on purpose."""


class PeerError(OxidicomError):
    """The peer violated the upper layer protocol. The answer is an A-ABORT (PS3.8 9.3.8).

    `source` and `reason` are those of PS3.8 table 9-26; `source` is 2 (service provider) for every
    violation that oxidicom detects.
    """

    def __init__(self, reason: int, text: str, source: int = 2) -> None:
        super().__init__(text)
        self.source = source
        self.reason = reason


class AssociationRejectedError(OxidicomError):
    """An association request is not accepted. The answer is an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

    def __init__(self, result: int, source: int, reason: int, text: str) -> None:
        super().__init__(text)
        self.result = result
        self.source = source
        self.reason = reason


class InstanceError(OxidicomError):
    """One instance is not stored. The answer is a C-STORE-RSP with this status (PS3.4 B.2.3).

    `comment` is sent as Error Comment (0000,0902): at most 64 characters of the default repertoire,
    without patient data. `offending` is a tag as 32 bits, gggg << 16 | eeee, for Offending Element
    (0000,0901). `notice` is the LONK error text; None if it is the comment.
    """

    def __init__(
        self, status: int, comment: str, offending: int | None = None, notice: str | None = None
    ) -> None:
        super().__init__(comment)
        self.status = status
        self.comment = comment
        self.offending = offending
        self.notice = notice if notice is not None else comment


class OperatorError(OxidicomError):
    """The settings or the machine do not allow oxidicom to run. Each fault is one line of text."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class InternalError(OxidicomError):
    """An error of oxidicom itself, caused neither by the peer nor by the operator."""
