"""Errors by whose fault they are: the peer's, the operator's, ours.

A peer's error carries the standard's code to answer with; an operator's says what to set;
an error of ours carries enough to find it. No text here ever holds a value of a data set.
"""

from __future__ import annotations


class OxidicomError(Exception):
    """Base of everything that this package raises on purpose."""


class PeerError(OxidicomError):
    """The peer broke the upper layer protocol; answered by A-ABORT (PS3.8 9.3.8).

    `source` is 2 (service-provider) for all that we detect, `reason` one of PS3.8 table 9-26.
    """

    def __init__(self, reason: int, text: str, source: int = 2) -> None:
        super().__init__(text)
        self.source = source
        self.reason = reason


class AssociationRejected(OxidicomError):
    """The request is well formed but not accepted; answered by A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

    def __init__(self, result: int, source: int, reason: int, text: str) -> None:
        super().__init__(text)
        self.result = result
        self.source = source
        self.reason = reason


class InstanceError(OxidicomError):
    """One instance is not stored; answered by a C-STORE-RSP of this status (PS3.4 B.2.3).

    `comment` goes into Error Comment (0000,0902), so it has at most 64 characters of the default
    repertoire and no patient data; `offending` is a tag as 32 bits, gggg << 16 | eeee, for
    Offending Element (0000,0901). `notice` is the LONK error text, where it is not the comment.
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
    """The environment or the machine is not as it must be; each fault is one line for a person."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Bug(OxidicomError):
    """Ours. Never the peer's, never the operator's."""
