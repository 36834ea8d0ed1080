"""The settings: each field with its variable, form, default and meaning, declared once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Final, Literal, get_type_hints

import msgspec

from oxidicom.settings import value_formats as k
from oxidicom.settings.addresses import PacsAddress
from oxidicom.settings.variable import Older, Variable

_IN_FILES_ROOT: Final = Path()


_BY_FSYNC: Final = 0
_SYNCING_THREADS: Final = 16
"""They wait for the device, which serves syncs that come together as one (docs/tuning.md)."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Durations are seconds, sizes bytes, paths absolute."""

    files_root: Annotated[
        Path,
        Variable(
            "OXIDICOM_FILES_ROOT",
            k.FOLDER,
            "CUBE's storage: instances go below `SERVICES/PACS` in it.",
            older=(Older("CHRIS_FILES_ROOT"),),
        ),
    ]
    state_dir: Annotated[
        Path,
        Variable(
            "OXIDICOM_STATE_DIR",
            k.STATE_FOLDER,
            "Journal, outbox and quarantine. Must outlive the container.",
            default="folder `.oxidicom` in the files root",
        ),
    ] = _IN_FILES_ROOT
    broker: Annotated[
        str | None,
        Variable(
            "OXIDICOM_CELERY_BROKER",
            k.BROKER,
            "Where series are registered. Without it registrations wait in the outbox on disk.",
            same=("OXIDICOM_AMQP_ADDRESS",),
        ),
    ] = None
    broker_ca: Annotated[
        Path | None,
        Variable(
            "OXIDICOM_BROKER_CA",
            k.FILE,
            "Authorities to trust for TLS to the broker, CUBE and NATS, not the system's.",
        ),
    ] = None
    queue_name: Annotated[
        str, Variable("OXIDICOM_QUEUE_NAME", k.QUEUE, "Celery queue that CUBE's worker consumes.")
    ] = "main2"
    cube_url: Annotated[
        str | None,
        Variable(
            "CHRIS_URL",
            k.CUBE_URL,
            "Register over HTTP with the CUBE there, instead of through a broker.",
        ),
    ] = None
    cube_username: Annotated[
        str | None, Variable("CHRIS_USERNAME", k.USERNAME, "CUBE's user, for `CHRIS_URL`.")
    ] = None
    cube_password: Annotated[
        str | None, Variable("CHRIS_PASSWORD", k.PASSWORD, "That user's password.")
    ] = None
    http_register: Annotated[
        Literal["instance", "series"],
        Variable(
            "OXIDICOM_HTTP_REGISTER",
            k.HTTP_REGISTER,
            "Register every instance at `pacsfiles/`, as the first generation did, or every "
            "complete series at `pacs/series/` (CUBE since 2024).",
        ),
    ] = "instance"
    http_attempts: Annotated[
        int,
        Variable(
            "CHRIS_HTTP_RETRIES",
            k.ATTEMPTS,
            "Attempts in a row before a registration waits for a better time.",
        ),
    ] = 3
    pushers: Annotated[
        int,
        Variable("CHRIS_PUSHER_THREADS", k.THREADS, "Registrations over HTTP at once."),
    ] = 4
    pacs_addresses: Annotated[
        tuple[PacsAddress, ...],
        Variable(
            "OXIDICOM_PACS_ADDRESS",
            k.PACS_ADDRESSES,
            "Where to ask how many instances a series has (C-FIND), by calling AE title.",
            older=(Older("CHRIS_PACS_ADDRESS"),),
        ),
    ] = ()
    nats_address: Annotated[
        str | None,
        Variable(
            "OXIDICOM_NATS_ADDRESS",
            k.NATS,
            "Where progress is told (LONK). Without it none is.",
        ),
    ] = None
    root_subject: Annotated[
        str,
        Variable(
            "OXIDICOM_ROOT_SUBJECT",
            k.SUBJECT,
            "First part of every NATS subject; CUBE knows `oxidicom` only.",
        ),
    ] = "oxidicom"
    progress_interval: Annotated[
        float,
        Variable(
            "OXIDICOM_PROGRESS_INTERVAL",
            k.DURATION,
            "Least time between two counts of one series; `0s` tells every one.",
        ),
    ] = 0.5
    dev_sleep: Annotated[
        float,
        Variable(
            "OXIDICOM_DEV_SLEEP",
            k.DURATION,
            "Pause after each progress message, to watch a user interface by.",
        ),
    ] = 0.0
    scp_aet: Annotated[
        str,
        Variable("OXIDICOM_SCP_AET", k.AE_TITLE, "Our AE title.", older=(Older("CHRIS_SCP_AET"),)),
    ] = "ChRIS"
    scp_strict: Annotated[
        bool,
        Variable(
            "OXIDICOM_SCP_STRICT",
            k.BOOL,
            "Abort an association whose PDUs are longer than agreed.",
            older=(Older("CHRIS_SCP_STRICT"),),
        ),
    ] = False
    scp_promiscuous: Annotated[
        bool,
        Variable(
            "OXIDICOM_SCP_PROMISCUOUS", k.BOOL, "Accept unknown SOP classes and transfer syntaxes."
        ),
    ] = False
    scp_uncompressed_only: Annotated[
        bool,
        Variable(
            "OXIDICOM_SCP_UNCOMPRESSED_ONLY",
            k.BOOL,
            "Accept Implicit and Explicit VR Little Endian only.",
            older=(Older("CHRIS_SCP_UNCOMPRESSED_ONLY"),),
        ),
    ] = False
    scp_max_pdu_length: Annotated[
        int,
        Variable(
            "OXIDICOM_SCP_MAX_PDU_LENGTH",
            k.PDU_SIZE,
            "Greatest P-DATA-TF PDU that we ask for; 0 is unlimited.",
            older=(Older("CHRIS_SCP_MAX_PDU_LENGTH"),),
        ),
    ] = 131072
    scp_check_called_aet: Annotated[
        bool,
        Variable(
            "OXIDICOM_SCP_CHECK_CALLED_AET", k.BOOL, "Reject who does not call us by our AE title."
        ),
    ] = False
    scp_allowed_calling_aets: Annotated[
        tuple[str, ...],
        Variable(
            "OXIDICOM_SCP_ALLOWED_CALLING_AETS", k.AE_TITLES, "AE titles that may send; if set."
        ),
    ] = ()
    allowed_networks: Annotated[
        tuple[IPv4Network | IPv6Network, ...],
        Variable("OXIDICOM_ALLOWED_NETWORKS", k.NETWORKS, "Networks that may send; if set."),
    ] = ()
    listener_host: Annotated[
        str, Variable("OXIDICOM_LISTENER_HOST", k.HOST, "Address to listen on; `::` for IPv6 too.")
    ] = "0.0.0.0"
    listener_port: Annotated[
        int | None,
        Variable(
            "OXIDICOM_LISTENER_PORT",
            k.PORT,
            "Port to listen on; 0 is any free one.",
            older=(Older("PORT"),),
        ),
    ] = 11111
    tls_port: Annotated[
        int | None,
        Variable("OXIDICOM_TLS_PORT", k.TLS_PORT, "Port for DICOM over TLS 1.2 or 1.3."),
    ] = None
    tls_cert: Annotated[
        Path | None,
        Variable(
            "OXIDICOM_TLS_CERT",
            k.CERTIFICATE,
            "Our certificate, then those of its authorities. Read again when it changes.",
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        Variable("OXIDICOM_TLS_KEY", k.KEY, "The certificate's key, without a password."),
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        Variable(
            "OXIDICOM_TLS_CLIENT_CA",
            k.CLIENT_CA,
            "Authorities that sign peers' certificates; with it, who shows none is refused.",
        ),
    ] = None
    admin_port: Annotated[
        int | None,
        Variable(
            "OXIDICOM_ADMIN_PORT",
            k.ADMIN_PORT,
            "Port for health, metrics and status over HTTP; 0 is any free one.",
        ),
    ] = None
    admin_host: Annotated[
        str,
        Variable(
            "OXIDICOM_ADMIN_HOST",
            k.HOST,
            "Address of that port. Whoever reaches it may read all that it tells.",
        ),
    ] = "127.0.0.1"
    max_associations: Annotated[
        int,
        Variable(
            "OXIDICOM_LISTENER_THREADS",
            k.COUNT,
            "Greatest number of associations at once.",
            older=(Older("CHRIS_LISTENER_THREADS"),),
        ),
    ] = 512
    max_associations_per_peer: Annotated[
        int,
        Variable(
            "OXIDICOM_MAX_ASSOCIATIONS_PER_PEER",
            k.COUNT_OR_ZERO,
            "The same from one address; 0 is no limit of its own. Behind a proxy all peers are one "
            "address.",
        ),
    ] = 0
    workers: Annotated[
        int,
        Variable(
            "OXIDICOM_WORKERS",
            k.WORKERS,
            "Number of receiving processes; with more than one, another one beside them notifies.",
        ),
    ] = 1
    artim_timeout: Annotated[
        float,
        Variable(
            "OXIDICOM_ARTIM_TIMEOUT", k.TIME_LIMIT, "A connection must associate within this time."
        ),
    ] = 30.0
    idle_timeout: Annotated[
        float,
        Variable(
            "OXIDICOM_IDLE_TIMEOUT",
            k.TIME_LIMIT,
            "An association silent for this long between two messages is aborted.",
        ),
    ] = 300.0
    series_settle: Annotated[
        float,
        Variable(
            "OXIDICOM_SERIES_SETTLE",
            k.DURATION,
            "A series is complete when nothing of it has come for this long.",
        ),
    ] = 1.0
    recovery_settle: Annotated[
        float,
        Variable(
            "OXIDICOM_RECOVERY_SETTLE",
            k.DURATION,
            "The same for series found open after a crash.",
        ),
    ] = 30.0
    drain_timeout: Annotated[
        float,
        Variable(
            "OXIDICOM_DRAIN_TIMEOUT",
            k.DURATION,
            "After SIGTERM, how long associations that are sending may go on.",
        ),
    ] = 30.0
    fsync: Annotated[
        bool,
        Variable(
            "OXIDICOM_FSYNC",
            k.BOOL,
            "Answer only when the instance is on the medium, safe from a power cut.",
        ),
    ] = False
    min_free_space: Annotated[
        int,
        Variable(
            "OXIDICOM_MIN_FREE_SPACE",
            k.SIZE,
            "Refuse instances while less is free in the files root; 0 is off.",
        ),
    ] = 0
    quarantine: Annotated[
        bool,
        Variable("OXIDICOM_QUARANTINE", k.BOOL, "Keep refused instances in the state folder."),
    ] = False
    write_mode: Annotated[
        Literal["auto", "inline", "threads"],
        Variable(
            "OXIDICOM_WRITE_MODE",
            k.WRITE_MODE,
            "Write on the loop's own thread, on writer threads, or as the storage's speed bids.",
        ),
    ] = "auto"
    writer_threads: Annotated[
        int,
        Variable(
            "OXIDICOM_WRITER_THREADS",
            k.THREADS,
            "Number of writer threads.",
            older=(Older("TOKIO_WORKER_THREADS"),),
            default="number of CPUs, at least 2; at least 16 with `OXIDICOM_FSYNC`",
        ),
    ] = _BY_FSYNC
    buffer_memory: Annotated[
        int,
        Variable(
            "OXIDICOM_BUFFER_MEMORY",
            k.BUFFER_SIZE,
            "Memory for data received but not yet written; beyond it we stop reading.",
        ),
    ] = 64 << 20
    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"],
        Variable(
            "OXIDICOM_LOG_LEVEL",
            k.LOG_LEVEL,
            "Least severity that is logged.",
            older=(Older("RUST_LOG", k.RUST_LOG), Older("CHRIS_VERBOSE", k.VERBOSE)),
        ),
    ] = "info"
    log_format: Annotated[
        Literal["console", "json"],
        Variable("OXIDICOM_LOG_FORMAT", k.LOG_FORMAT, "For people or for machines."),
    ] = "console"
    log_phi: Annotated[
        bool,
        Variable(
            "OXIDICOM_LOG_PHI",
            k.BOOL,
            "Let patient data into logs and traces; for debugging only.",
        ),
    ] = False
    otel_enabled: Annotated[
        bool,
        Variable(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            k.ENDPOINT,
            "Where traces and metrics go; without it, or with `OTEL_SDK_DISABLED=true`, nowhere."
            " OpenTelemetry's other `OTEL_*` variables count as well.",
            older=(
                Older("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
                Older("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
            ),
        ),
    ] = False
    otlp_protocol: Annotated[
        Literal["grpc", "http/protobuf"],
        Variable("OTEL_EXPORTER_OTLP_PROTOCOL", k.OTLP_PROTOCOL, "How they travel there."),
    ] = "grpc"

    def __post_init__(self) -> None:
        if self.state_dir is _IN_FILES_ROOT:
            msgspec.structs.force_setattr(self, "state_dir", self.files_root / ".oxidicom")
        if self.writer_threads == _BY_FSYNC:
            least = _SYNCING_THREADS if self.fsync else 2
            threads = max(least, os.cpu_count() or 1)
            msgspec.structs.force_setattr(self, "writer_threads", threads)


@cache
def variables() -> Mapping[str, Variable]:
    """By field, in order of declaration."""
    hints = get_type_hints(Settings, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}
