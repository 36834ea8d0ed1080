"""Sends LONK messages for the control plane's events."""

from __future__ import annotations

from oxidicom.notify.lonk_publisher import LonkPublisher
from oxidicom.observers import (
    Observer,
    RegistrationOutcome,
    SeriesCounted,
    SeriesRegistered,
)
from oxidicom.ports import SeriesFailed, SeriesProgress


class LonkObserver(Observer):
    """Publishes progress, errors and done.

    A series that has no instance gets neither a final count nor a done.
    """

    def __init__(self, publisher: LonkPublisher) -> None:
        self._publisher = publisher

    def series_progressed(self, progress: SeriesProgress) -> None:
        self._publisher.progress(progress.series, progress.received, progress.first)

    def series_failed(self, failed: SeriesFailed) -> None:
        self._publisher.failed(failed.calling_ae_title, failed.series_instance_uid, failed.error)

    def series_counted(self, counted: SeriesCounted) -> None:
        if count := counted.received or counted.ndicom:
            self._publisher.final(counted.series, count)

    def series_registered(self, registered: SeriesRegistered) -> None:
        count = registered.received or registered.ndicom
        # A failed registration is repeated at the next start; done follows then.
        if count and registered.outcome is not RegistrationOutcome.FAILED:
            self._publisher.done(registered.series, count)
