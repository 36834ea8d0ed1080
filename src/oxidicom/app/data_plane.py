"""The receiving half of a receiver: storage and listener, on the caller's loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Final, NamedTuple

from oxidicom.app.control_plane import FLUSH
from oxidicom.buffers import BufferPool
from oxidicom.certificates import Certificates, tls_files
from oxidicom.logevents import event
from oxidicom.net.listener import REQUEST_MEMORY, Listener
from oxidicom.net.shared_port import Seats, SharedPort
from oxidicom.net.timeouts import TimeLimits
from oxidicom.ports import Reports, SeriesJournal
from oxidicom.settings import Settings
from oxidicom.store.executors import make_executors
from oxidicom.store.folders import SeriesFolders
from oxidicom.store.quarantine import Quarantine
from oxidicom.store.storage import Storage
from oxidicom.wire.negotiation import Policy

logger = logging.getLogger("oxidicom")

DRAIN_EXTRA: Final = FLUSH / 2
"""Seconds beyond the drain time-out for instances in flight."""
WRITERS_STOP: Final = FLUSH / 5
"""Seconds for writer threads to end."""
LOOK: Final = 2.0
"""Seconds from one look at the certificate's files to the next."""


def policy_of(settings: Settings) -> Policy:
    return Policy(
        ae_title=settings.scp_aet,
        check_called=settings.scp_check_called_aet,
        allowed_calling=frozenset(settings.scp_allowed_calling_aets),
        promiscuous=settings.scp_promiscuous,
        uncompressed_only=settings.scp_uncompressed_only,
        strict=settings.scp_strict,
        max_pdu_length=settings.scp_max_pdu_length,
    )


class Ports(NamedTuple):
    """Those that are bound."""

    plain: int | None
    tls: int | None
    admin: int | None = None


class DataPlane:
    """One receiving process; where there are several, each has its share of memory and threads,
    and `seats` and `folders` that know of the others.

    Raises OSError where files root or state folder cannot be used, OperatorError where the
    certificate cannot.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        journal: SeriesJournal,
        reports: Reports,
        folders: SeriesFolders | None = None,
        seats: Seats | None = None,
    ) -> None:
        self._settings = settings
        processes = settings.workers
        files = tls_files(settings)
        self._certificates = Certificates(files) if files is not None else None
        self._watcher: asyncio.Task[None] | None = None
        self._reload = asyncio.Event()
        self._executors = make_executors(settings, -(-settings.writer_threads // processes))
        self.storage = Storage(
            settings.files_root,
            executors=self._executors,
            journal=journal,
            reports=reports,
            clock=time.monotonic,
            fsync=settings.fsync,
            min_free_space=settings.min_free_space,
            quarantine=self._quarantine(),
            on_bug=on_bug,
        )
        if folders is not None:
            self.storage.folders = folders
        swept = self.storage.temporary.sweep()
        if swept:
            event(logger, logging.INFO, "incomplete instances removed", instances=swept)
        self.listener = Listener(
            policy=policy_of(settings),
            limits=TimeLimits(settings.artim_timeout, settings.idle_timeout),
            pool=BufferPool(settings.buffer_memory // processes),
            store=self.storage,
            reports=reports,
            max_associations=settings.max_associations,
            max_associations_per_peer=settings.max_associations_per_peer,
            seats=seats,
            request_memory=REQUEST_MEMORY // processes,
            allowed_networks=settings.allowed_networks,
            on_bug=on_bug,
            clock=time.monotonic,
        )

    def _quarantine(self) -> Quarantine | None:
        settings = self._settings
        return Quarantine(settings.files_root, settings.state_dir) if settings.quarantine else None

    # ---- ports ---------------------------------------------------------------------------

    async def listen(self) -> Ports:
        """Raises OperatorError."""
        settings = self._settings
        plain = tls = None
        if settings.listener_port is not None:
            plain = await self.listener.start(settings.listener_host, settings.listener_port)
        if settings.tls_port is not None:
            tls = await self.listener.start(
                settings.listener_host, settings.tls_port, self._certificates
            )
            self._watch_certificates()
        return Ports(plain, tls)

    def join(self, plain: SharedPort | None, tls: SharedPort | None) -> None:
        """As `listen`, where other processes listen already."""
        if plain is not None:
            self.listener.join(plain)
        if tls is not None:
            self.listener.join(tls, self._certificates)
            self._watch_certificates()

    def _watch_certificates(self) -> None:
        assert self._certificates is not None
        self._watcher = asyncio.create_task(self._look_again(self._certificates))

    async def _look_again(self, certificates: Certificates) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reload.wait(), LOOK)
            at_once = self._reload.is_set()
            self._reload.clear()
            try:
                await asyncio.to_thread(certificates.look, at_once=at_once)
            except Exception as error:
                on_bug(error)

    def reload(self) -> None:
        """Read the certificate again, whether it looks new or not."""
        self._reload.set()

    # ---- the end -------------------------------------------------------------------------

    async def drain(self) -> None:
        """Let associations end (decision 38); all that they stored is reported then."""
        if self._watcher is not None:
            self._watcher.cancel()
        await self.listener.stop_accepting()
        await self.listener.drain(self._settings.drain_timeout, DRAIN_EXTRA)
        await asyncio.to_thread(self._executors.stop, WRITERS_STOP)
        await asyncio.sleep(0)  # completions that the writers posted last

    def close(self) -> None:
        self.storage.close()


def on_bug(error: BaseException) -> None:
    event(logger, logging.ERROR, "bug in oxidicom, please report it", exc_info=error)
