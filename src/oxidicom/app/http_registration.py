"""Wires registration over HTTP. Imported only if `CHRIS_URL` is set."""

from __future__ import annotations

from collections.abc import Callable

from oxidicom.errors import InternalError
from oxidicom.notify.cube_eager import EagerRegistrar
from oxidicom.notify.cube_http import CubeClient
from oxidicom.notify.cube_instances import InstanceRegistrar
from oxidicom.notify.cube_publishers import InstancePublisher, SeriesPublisher
from oxidicom.notify.cube_registered_files import RegisteredFiles
from oxidicom.notify.publisher import Publisher
from oxidicom.observers import Observer, TraceContext
from oxidicom.ports import SeriesKey
from oxidicom.settings import Settings
from oxidicom.store.series_files import LocalSeriesFiles


def publish_over_http(
    settings: Settings,
    root_fd: int,
    observer: Observer,
    trace: TraceContext,
    expected: Callable[[SeriesKey], int | None],
) -> tuple[Publisher, EagerRegistrar | None]:
    """Return the publisher and, if instances are registered one by one, the eager registrar.

    The eager registrar is None if whole series are registered. Call this on the loop that uses
    them. `root_fd` is a file descriptor of the files root. `expected` returns how many instances of
    an open series the PACS holds, or None if that is unknown. Raises InternalError if CHRIS_URL is
    not set.
    """
    if settings.cube_url is None or settings.cube_username is None:
        raise InternalError("registration over HTTP needs the URL of CUBE and a username")
    client = CubeClient(
        settings.cube_url,
        settings.cube_username,
        settings.cube_password or "",
        attempts=settings.http_attempts,
        max_concurrent=settings.pushers,
        ca=settings.broker_ca,
    )
    if settings.http_register == "series":
        return SeriesPublisher(client), None
    registrar = InstanceRegistrar(
        client,
        LocalSeriesFiles(root_fd, sync=settings.fsync),
        RegisteredFiles(),
        observer,
        trace,
        show_files=settings.log_phi,
    )
    eager = EagerRegistrar(registrar, expected, max_concurrent=settings.pushers)
    publisher = InstancePublisher(registrar, max_concurrent=settings.pushers, on_begin=eager.drop)
    return publisher, eager
