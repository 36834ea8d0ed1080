"""The data plane of one process: its listener and its storage, on the main loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Final, NamedTuple

from oxidicom.app.deadlines import ShutdownBudget
from oxidicom.buffers import BufferPool
from oxidicom.cancellation import finish_by
from oxidicom.certificates import Certificates, tls_files
from oxidicom.disk_executor import DiskExecutor
from oxidicom.logevents import event
from oxidicom.net.listener import MAX_REQUEST_MEMORY_BYTES, Listener
from oxidicom.net.shared_port import ConnectionCounts, SharedPort
from oxidicom.net.timeouts import TimeLimits
from oxidicom.ports import Reports, SeriesJournal
from oxidicom.settings import Settings
from oxidicom.store.executors import make_executors
from oxidicom.store.folders import SeriesFolders
from oxidicom.store.quarantine import Quarantine
from oxidicom.store.storage import Storage
from oxidicom.wire.negotiation import Policy

logger = logging.getLogger("oxidicom")

CERTIFICATE_POLL_S: Final = 2.0
"""Seconds between checks whether the certificate's files have changed."""


def policy_of(settings: Settings) -> Policy:
    """Return the rules for accepting associations that the settings contain."""
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
    """Numbers of the bound ports; None for each port that is not set."""

    plain: int | None
    tls: int | None
    admin: int | None = None


class DataPlane:
    """The data plane of one process: receives, stores and answers.

    Buffer memory and writer threads are divided by the number of workers. In a worker, `counts` are
    the associations of all workers, and `folders` agrees with the others on the folder of a series;
    both are None in a receiver of one process. The constructor raises OSError if the files root or
    the state folder cannot be used, and OperatorError if the certificate cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        journal: SeriesJournal,
        reports: Reports,
        folders: SeriesFolders | None = None,
        counts: ConnectionCounts | None = None,
    ) -> None:
        self._settings = settings
        self._budget = ShutdownBudget(associations_s=settings.drain_timeout)
        files = tls_files(settings)
        self._certificates = Certificates(files) if files is not None else None
        self._certificate_poll: asyncio.Task[None] | None = None
        self._certificate_disk = DiskExecutor("ox-certs")
        self._reload = asyncio.Event()
        self._executors = make_executors(settings, -(-settings.writer_threads // settings.workers))
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
        removed = self.storage.temporary.sweep()
        if removed:
            event(logger, logging.INFO, "incomplete instances removed", instances=removed)
        self.listener = self._make_listener(reports, counts)

    def _make_listener(self, reports: Reports, counts: ConnectionCounts | None) -> Listener:
        settings = self._settings
        processes = settings.workers
        return Listener(
            policy=policy_of(settings),
            limits=TimeLimits(settings.artim_timeout, settings.idle_timeout),
            pool=BufferPool(settings.buffer_memory // processes),
            store=self.storage,
            reports=reports,
            max_associations=settings.max_associations,
            max_associations_per_peer=settings.max_associations_per_peer,
            counts=counts,
            request_memory=MAX_REQUEST_MEMORY_BYTES // processes,
            allowed_networks=settings.allowed_networks,
            on_bug=on_bug,
            clock=time.monotonic,
        )

    def _quarantine(self) -> Quarantine | None:
        settings = self._settings
        return Quarantine(settings.files_root, settings.state_dir) if settings.quarantine else None

    # ---- ports ---------------------------------------------------------------------------

    async def listen(self) -> Ports:
        """Bind the ports and begin to accept connections. Raises OperatorError if that fails."""
        settings = self._settings
        plain = tls = None
        if settings.listener_port is not None:
            plain = await self.listener.start(settings.listener_host, settings.listener_port)
        if settings.tls_port is not None:
            tls = await self.listener.start(
                settings.listener_host, settings.tls_port, self._certificates
            )
            self._poll_certificates()
        return Ports(plain, tls)

    def join(self, plain: SharedPort | None, tls: SharedPort | None) -> None:
        """Begin to accept connections on ports that the control process has bound.

        None means that a port is not set.
        """
        if plain is not None:
            self.listener.join(plain)
        if tls is not None:
            self.listener.join(tls, self._certificates)
            self._poll_certificates()

    def _poll_certificates(self) -> None:
        assert self._certificates is not None
        self._certificate_poll = asyncio.create_task(self._reload_changed(self._certificates))

    async def _reload_changed(self, certificates: Certificates) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reload.wait(), CERTIFICATE_POLL_S)
            force = self._reload.is_set()
            self._reload.clear()
            try:
                await self._certificate_disk.run(certificates.reload, force=force)
            except Exception as error:
                on_bug(error)

    def reload(self) -> None:
        """Have the certificate read again, even if its files have not changed."""
        self._reload.set()

    # ---- the end -------------------------------------------------------------------------

    async def drain(self) -> None:
        """Stop accepting connections, and let associations and writer threads end (decision 38).

        Associations that do not end in time are aborted. Afterwards every stored instance has been
        reported.
        """
        budget = self._budget
        deadline = time.monotonic() + budget.data_plane_s
        if self._certificate_poll is not None:
            self._certificate_poll.cancel()
        # Does not wait for the thread: the storage of the certificate may hang.
        self._certificate_disk.close()
        await self.listener.stop_accepting()
        with contextlib.suppress(TimeoutError):
            # `drain` ends in time by itself, unless a connection cannot be closed.
            await finish_by(
                deadline - budget.writer_threads_s / 2,
                self.listener.drain(budget.associations_s, budget.last_instances_s),
            )
        writers_s = min(budget.writer_threads_s, deadline - time.monotonic())
        await asyncio.to_thread(self._executors.stop, max(0.0, writers_s))
        await asyncio.sleep(0)  # lets the loop process the last results of the writer threads

    def close(self) -> None:
        """Close the file descriptors of the storage. Call it after `drain`."""
        self.storage.close()


def on_bug(error: BaseException) -> None:
    """Log an exception that only a fault in oxidicom explains."""
    event(logger, logging.ERROR, "bug in oxidicom, please report it", exc_info=error)
