"""Counts of stored and refused instances of one association, for log, spans and status board."""

from __future__ import annotations

from collections import Counter

from oxidicom.ports import AssociationBegan, InstanceRefused, InstanceStored


class AssociationTally:
    """Counts of one open association, updated by the control plane only.

    The control plane counts a report before it passes the report to observers.
    """

    __slots__ = ("began", "bytes_stored", "refused", "stored")

    def __init__(self, began: AssociationBegan) -> None:
        self.began = began
        self.stored = 0
        """Instances stored."""
        self.bytes_stored = 0
        """Bytes of the data sets of stored instances."""
        self.refused: Counter[int] = Counter()
        """Instances refused, by the DIMSE status of the response."""

    def count_stored(self, report: InstanceStored) -> None:
        self.stored += 1
        self.bytes_stored += report.size

    def count_refused(self, report: InstanceRefused) -> None:
        self.refused[report.status] += 1
