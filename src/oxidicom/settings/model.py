"""The settings: each field with its variable, form, default and meaning, declared once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Final, Literal, get_type_hints

import msgspec

from oxidicom.settings import parsing as p
from oxidicom.settings.variable import Kind, Older, Variable

_BOOL: Final = Kind(p.parse_bool, "true or false", "true", p.show_bool)
_DURATION: Final = Kind(p.parse_duration, "a duration, with its unit", "1m 30s", p.show_duration)
_TIME_LIMIT: Final = Kind(
    p.parse_time_limit, "a duration above 0s, with its unit", "30s", p.show_duration
)
_SIZE: Final = Kind(
    p.parse_size, "a size in bytes, or with KiB, MiB, GiB or TiB", "10GiB", p.show_size
)
_BUFFER_SIZE: Final = Kind(
    p.size(1 << 20), "a size of at least 1MiB (bytes, or with KiB, MiB, GiB)", "64MiB", p.show_size
)
_PDU_SIZE: Final = Kind(
    p.size(1024, 2**32 - 1, or_zero=True), "0 (unlimited) or 1024 to 4294967295 bytes", "131072"
)
_FOLDER: Final = Kind(p.parse_path, "the path of a folder", "/data")
_STATE_FOLDER: Final = Kind(p.parse_path, "the path of a folder", "/var/lib/oxidicom")
_FILE: Final = Kind(p.parse_path, "the path of a PEM file", "/etc/ssl/broker-ca.pem")
_PORT: Final = Kind(p.integer(0, 65535), "a port from 0 (any free one) to 65535", "11111")
_COUNT: Final = Kind(p.integer(1), "a whole number from 1", "512")
_THREADS: Final = Kind(p.integer(1, 1024), "a whole number from 1 to 1024", "4")
_WORKERS: Final = Kind(p.integer(1, 64), "a whole number from 1 to 64", "2")
_HOST: Final = Kind(p.parse_host, "a host's name or address", "0.0.0.0")
_AE_TITLE: Final = Kind(p.text_of(255), "an AE title of 1 to 16 characters", "ChRIS")
_AE_TITLES: Final = Kind(
    p.parse_ae_titles,
    "AE titles of 1 to 16 characters each, separated by commas",
    "CT1,MR2",
    p.show_items,
)
_NETWORKS: Final = Kind(
    p.parse_networks,
    "networks in CIDR notation, separated by commas",
    "10.1.0.0/16,fd00::/8",
    p.show_items,
)
_QUEUE: Final = Kind(p.text_of(255), "the name of a queue, of at most 255 bytes", "main2")
_SUBJECT: Final = Kind(p.parse_subject, "a NATS subject, of at most 255 bytes", "oxidicom")
_BROKER: Final = Kind(
    p.parse_broker,
    "the amqp:// or amqps:// URL of the RabbitMQ that CUBE's Celery uses",
    "amqp://user:password@rabbitmq:5672",
    p.mask_url,
    p.mask_url,
)
_NATS: Final = Kind(
    p.parse_nats,
    "host:port, or a nats:// or tls:// URL, or several with commas",
    "nats://nats:4222",
    p.mask_urls,
    p.mask_urls,
)
_ENDPOINT: Final = Kind(
    p.parse_endpoint,
    "the URL of an OpenTelemetry collector",
    "http://collector:4317",
    lambda enabled: "on" if enabled else "off",
    p.mask_url,
)
_OTLP_PROTOCOL: Final = Kind(
    p.word_of({each: each for each in ("grpc", "http/protobuf")}), "grpc or http/protobuf", "grpc"
)
_WRITE_MODE: Final = Kind(
    p.word_of({each: each for each in ("auto", "inline", "threads")}),
    "auto, inline or threads",
    "auto",
)
_LOG_LEVEL: Final = Kind(p.word_of(p.LOG_LEVELS), "debug, info, warning, error or critical", "info")
_RUST_LOG: Final = Kind(p.parse_rust_log, "a level, or directives for oxidicom", "oxidicom=info")
_VERBOSE: Final = Kind(p.parse_verbose, "yes or no", "yes")
_LOG_FORMAT: Final = Kind(
    p.word_of({each: each for each in ("console", "json")}), "console or json", "json"
)

_IN_FILES_ROOT: Final = Path()


def _default_writer_threads() -> int:
    return max(2, os.cpu_count() or 1)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Durations are seconds, sizes bytes, paths absolute."""

    files_root: Annotated[
        Path,
        Variable(
            "OXIDICOM_FILES_ROOT",
            _FOLDER,
            "CUBE's storage: instances go below `SERVICES/PACS` in it.",
            older=(Older("CHRIS_FILES_ROOT"),),
        ),
    ]
    state_dir: Annotated[
        Path,
        Variable(
            "OXIDICOM_STATE_DIR",
            _STATE_FOLDER,
            "Journal, outbox and quarantine. Must outlive the container.",
            default="folder `.oxidicom` in the files root",
        ),
    ] = _IN_FILES_ROOT
    broker: Annotated[
        str | None,
        Variable(
            "OXIDICOM_CELERY_BROKER",
            _BROKER,
            "Where series are registered. Without it registrations wait in the outbox on disk.",
            same=("OXIDICOM_AMQP_ADDRESS",),
        ),
    ] = None
    broker_ca: Annotated[
        Path | None,
        Variable(
            "OXIDICOM_BROKER_CA",
            _FILE,
            "Authorities to trust for TLS to the broker and NATS, instead of the system's.",
        ),
    ] = None
    queue_name: Annotated[
        str, Variable("OXIDICOM_QUEUE_NAME", _QUEUE, "Celery queue that CUBE's worker consumes.")
    ] = "main2"
    nats_address: Annotated[
        str | None,
        Variable(
            "OXIDICOM_NATS_ADDRESS",
            _NATS,
            "Where progress is told (LONK). Without it none is.",
        ),
    ] = None
    root_subject: Annotated[
        str,
        Variable(
            "OXIDICOM_ROOT_SUBJECT",
            _SUBJECT,
            "First part of every NATS subject; CUBE knows `oxidicom` only.",
        ),
    ] = "oxidicom"
    progress_interval: Annotated[
        float,
        Variable(
            "OXIDICOM_PROGRESS_INTERVAL",
            _DURATION,
            "Least time between two counts of one series; `0s` tells every one.",
        ),
    ] = 0.5
    dev_sleep: Annotated[
        float,
        Variable(
            "OXIDICOM_DEV_SLEEP",
            _DURATION,
            "Pause after each progress message, to watch a user interface by.",
        ),
    ] = 0.0
    scp_aet: Annotated[
        str,
        Variable("OXIDICOM_SCP_AET", _AE_TITLE, "Our AE title.", older=(Older("CHRIS_SCP_AET"),)),
    ] = "ChRIS"
    scp_strict: Annotated[
        bool,
        Variable(
            "OXIDICOM_SCP_STRICT",
            _BOOL,
            "Abort an association whose PDUs are longer than agreed.",
            older=(Older("CHRIS_SCP_STRICT"),),
        ),
    ] = False
    scp_promiscuous: Annotated[
        bool,
        Variable(
            "OXIDICOM_SCP_PROMISCUOUS", _BOOL, "Accept unknown SOP classes and transfer syntaxes."
        ),
    ] = False
    scp_uncompressed_only: Annotated[
        bool,
        Variable(
            "OXIDICOM_SCP_UNCOMPRESSED_ONLY",
            _BOOL,
            "Accept Implicit and Explicit VR Little Endian only.",
            older=(Older("CHRIS_SCP_UNCOMPRESSED_ONLY"),),
        ),
    ] = False
    scp_max_pdu_length: Annotated[
        int,
        Variable(
            "OXIDICOM_SCP_MAX_PDU_LENGTH",
            _PDU_SIZE,
            "Greatest P-DATA-TF PDU that we ask for; 0 is unlimited.",
            older=(Older("CHRIS_SCP_MAX_PDU_LENGTH"),),
        ),
    ] = 131072
    scp_check_called_aet: Annotated[
        bool,
        Variable(
            "OXIDICOM_SCP_CHECK_CALLED_AET", _BOOL, "Reject who does not call us by our AE title."
        ),
    ] = False
    scp_allowed_calling_aets: Annotated[
        tuple[str, ...],
        Variable(
            "OXIDICOM_SCP_ALLOWED_CALLING_AETS", _AE_TITLES, "AE titles that may send; if set."
        ),
    ] = ()
    allowed_networks: Annotated[
        tuple[IPv4Network | IPv6Network, ...],
        Variable("OXIDICOM_ALLOWED_NETWORKS", _NETWORKS, "Networks that may send; if set."),
    ] = ()
    listener_host: Annotated[
        str, Variable("OXIDICOM_LISTENER_HOST", _HOST, "Address to listen on; `::` for IPv6 too.")
    ] = "0.0.0.0"
    listener_port: Annotated[
        int,
        Variable(
            "OXIDICOM_LISTENER_PORT",
            _PORT,
            "Port to listen on; 0 is any free one.",
            older=(Older("PORT"),),
        ),
    ] = 11111
    max_associations: Annotated[
        int,
        Variable(
            "OXIDICOM_LISTENER_THREADS",
            _COUNT,
            "Greatest number of associations at once.",
            older=(Older("CHRIS_LISTENER_THREADS"),),
        ),
    ] = 512
    workers: Annotated[
        int,
        Variable(
            "OXIDICOM_WORKERS",
            _WORKERS,
            "Number of receiving processes; with more than one, another one beside them notifies.",
        ),
    ] = 1
    artim_timeout: Annotated[
        float,
        Variable(
            "OXIDICOM_ARTIM_TIMEOUT", _TIME_LIMIT, "A connection must associate within this time."
        ),
    ] = 30.0
    idle_timeout: Annotated[
        float,
        Variable(
            "OXIDICOM_IDLE_TIMEOUT",
            _TIME_LIMIT,
            "An association silent for this long between two messages is aborted.",
        ),
    ] = 300.0
    series_settle: Annotated[
        float,
        Variable(
            "OXIDICOM_SERIES_SETTLE",
            _DURATION,
            "A series is complete when nothing of it has come for this long.",
        ),
    ] = 1.0
    recovery_settle: Annotated[
        float,
        Variable(
            "OXIDICOM_RECOVERY_SETTLE",
            _DURATION,
            "The same for series found open after a crash.",
        ),
    ] = 30.0
    drain_timeout: Annotated[
        float,
        Variable(
            "OXIDICOM_DRAIN_TIMEOUT",
            _DURATION,
            "After SIGTERM, how long associations that are sending may go on.",
        ),
    ] = 30.0
    fsync: Annotated[
        bool,
        Variable(
            "OXIDICOM_FSYNC",
            _BOOL,
            "Answer only when the instance is on the medium, safe from a power cut.",
        ),
    ] = False
    min_free_space: Annotated[
        int,
        Variable(
            "OXIDICOM_MIN_FREE_SPACE",
            _SIZE,
            "Refuse instances while less is free in the files root; 0 is off.",
        ),
    ] = 0
    quarantine: Annotated[
        bool,
        Variable("OXIDICOM_QUARANTINE", _BOOL, "Keep refused instances in the state folder."),
    ] = False
    write_mode: Annotated[
        Literal["auto", "inline", "threads"],
        Variable(
            "OXIDICOM_WRITE_MODE",
            _WRITE_MODE,
            "Write on the loop's own thread, on writer threads, or as the storage's speed bids.",
        ),
    ] = "auto"
    writer_threads: Annotated[
        int,
        Variable(
            "OXIDICOM_WRITER_THREADS",
            _THREADS,
            "Number of writer threads.",
            older=(Older("TOKIO_WORKER_THREADS"),),
            default="number of CPUs, at least 2",
        ),
    ] = msgspec.field(default_factory=_default_writer_threads)
    buffer_memory: Annotated[
        int,
        Variable(
            "OXIDICOM_BUFFER_MEMORY",
            _BUFFER_SIZE,
            "Memory for data received but not yet written; beyond it we stop reading.",
        ),
    ] = 64 << 20
    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"],
        Variable(
            "OXIDICOM_LOG_LEVEL",
            _LOG_LEVEL,
            "Least severity that is logged.",
            older=(Older("RUST_LOG", _RUST_LOG), Older("CHRIS_VERBOSE", _VERBOSE)),
        ),
    ] = "info"
    log_format: Annotated[
        Literal["console", "json"],
        Variable("OXIDICOM_LOG_FORMAT", _LOG_FORMAT, "For people or for machines."),
    ] = "console"
    log_phi: Annotated[
        bool,
        Variable(
            "OXIDICOM_LOG_PHI",
            _BOOL,
            "Let patient data into logs and traces; for debugging only.",
        ),
    ] = False
    otel_enabled: Annotated[
        bool,
        Variable(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            _ENDPOINT,
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
        Variable("OTEL_EXPORTER_OTLP_PROTOCOL", _OTLP_PROTOCOL, "How they travel there."),
    ] = "grpc"

    def __post_init__(self) -> None:
        if self.state_dir is _IN_FILES_ROOT:
            msgspec.structs.force_setattr(self, "state_dir", self.files_root / ".oxidicom")


@cache
def variables() -> Mapping[str, Variable]:
    """By field, in order of declaration."""
    hints = get_type_hints(Settings, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}
