"""Declares every setting once: its variable, the format of its value, its default and meaning."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Final, Literal, get_type_hints

import msgspec

from oxidicom.settings import value_formats as formats
from oxidicom.settings.delivery import IN_FILES_ROOT, DeliverySettings
from oxidicom.settings.variable import OlderName, Variable

_BY_FSYNC: Final = 0
"""Placeholder for the default number of writer threads, which depends on `fsync`."""

_MIN_SYNCING_THREADS: Final = 16
"""Minimum of the default number of writer threads with `fsync`. The storage device combines
concurrent syncs, so that more threads than CPUs are faster (docs/tuning.md)."""


class Settings(DeliverySettings, frozen=True, kw_only=True):
    """All settings. Durations are in seconds and sizes in bytes; paths are absolute."""

    scp_aet: Annotated[
        str,
        Variable(
            "OXIDICOM_SCP_AET",
            formats.AE_TITLE,
            "Our AE title.",
            older=(OlderName("CHRIS_SCP_AET"),),
        ),
    ] = "ChRIS"
    scp_strict: Annotated[
        bool,
        Variable(
            "OXIDICOM_SCP_STRICT",
            formats.BOOL,
            "Abort an association that sends PDUs longer than `OXIDICOM_SCP_MAX_PDU_LENGTH`.",
            older=(OlderName("CHRIS_SCP_STRICT"),),
        ),
    ] = False
    scp_promiscuous: Annotated[
        bool,
        Variable(
            "OXIDICOM_SCP_PROMISCUOUS",
            formats.BOOL,
            "Accept unknown SOP classes and transfer syntaxes.",
        ),
    ] = False
    scp_uncompressed_only: Annotated[
        bool,
        Variable(
            "OXIDICOM_SCP_UNCOMPRESSED_ONLY",
            formats.BOOL,
            "Accept Implicit and Explicit VR Little Endian only.",
            older=(OlderName("CHRIS_SCP_UNCOMPRESSED_ONLY"),),
        ),
    ] = False
    scp_max_pdu_length: Annotated[
        int,
        Variable(
            "OXIDICOM_SCP_MAX_PDU_LENGTH",
            formats.PDU_SIZE,
            "Greatest P-DATA-TF PDU that peers may send; 0 is unlimited.",
            older=(OlderName("CHRIS_SCP_MAX_PDU_LENGTH"),),
        ),
    ] = 131072
    scp_check_called_aet: Annotated[
        bool,
        Variable(
            "OXIDICOM_SCP_CHECK_CALLED_AET",
            formats.BOOL,
            "Reject associations whose called AE title is not ours.",
        ),
    ] = False
    scp_allowed_calling_aets: Annotated[
        tuple[str, ...],
        Variable(
            "OXIDICOM_SCP_ALLOWED_CALLING_AETS",
            formats.AE_TITLES,
            "Calling AE titles that may send. Without it all may.",
        ),
    ] = ()
    allowed_networks: Annotated[
        tuple[IPv4Network | IPv6Network, ...],
        Variable(
            "OXIDICOM_ALLOWED_NETWORKS",
            formats.NETWORKS,
            "Networks that may send. Without it all may.",
        ),
    ] = ()
    listener_host: Annotated[
        str,
        Variable(
            "OXIDICOM_LISTENER_HOST",
            formats.HOST,
            "Address to listen on; `::` listens on IPv6 too.",
        ),
    ] = "0.0.0.0"
    listener_port: Annotated[
        int | None,
        Variable(
            "OXIDICOM_LISTENER_PORT",
            formats.PORT,
            "Port to listen on; 0 takes any free one.",
            older=(OlderName("PORT"),),
        ),
    ] = 11111
    tls_port: Annotated[
        int | None,
        Variable("OXIDICOM_TLS_PORT", formats.TLS_PORT, "Port for DICOM over TLS 1.2 or 1.3."),
    ] = None
    tls_cert: Annotated[
        Path | None,
        Variable(
            "OXIDICOM_TLS_CERT",
            formats.CERTIFICATE,
            "Our certificate, then those of its authorities. Read again when the file changes.",
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        Variable(
            "OXIDICOM_TLS_KEY", formats.KEY, "Private key of the certificate, without a password."
        ),
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        Variable(
            "OXIDICOM_TLS_CLIENT_CA",
            formats.CLIENT_CA,
            "Authorities that sign peers' certificates. With it, a peer without one is refused.",
        ),
    ] = None
    admin_port: Annotated[
        int | None,
        Variable(
            "OXIDICOM_ADMIN_PORT",
            formats.ADMIN_PORT,
            "Port of the admin endpoint (health, metrics, status) over HTTP; 0 takes any free one.",
        ),
    ] = None
    admin_host: Annotated[
        str,
        Variable(
            "OXIDICOM_ADMIN_HOST",
            formats.HOST,
            "Address of the admin endpoint. It has no login: all that can connect can read it.",
        ),
    ] = "127.0.0.1"
    max_associations: Annotated[
        int,
        Variable(
            "OXIDICOM_LISTENER_THREADS",
            formats.COUNT,
            "Greatest number of associations at once.",
            older=(OlderName("CHRIS_LISTENER_THREADS"),),
        ),
    ] = 512
    max_associations_per_peer: Annotated[
        int,
        Variable(
            "OXIDICOM_MAX_ASSOCIATIONS_PER_PEER",
            formats.COUNT_OR_ZERO,
            "The same for one address; 0 is no limit. Behind a proxy all peers have one address.",
        ),
    ] = 0
    workers: Annotated[
        int,
        Variable(
            "OXIDICOM_WORKERS",
            formats.WORKERS,
            "Number of worker processes. With more than one there is a control process, too.",
        ),
    ] = 1
    artim_timeout: Annotated[
        float,
        Variable(
            "OXIDICOM_ARTIM_TIMEOUT",
            formats.TIME_LIMIT,
            "A connection must associate within this time.",
        ),
    ] = 30.0
    idle_timeout: Annotated[
        float,
        Variable(
            "OXIDICOM_IDLE_TIMEOUT",
            formats.TIME_LIMIT,
            "An association without data between two messages for this long is aborted.",
        ),
    ] = 300.0
    series_settle: Annotated[
        float,
        Variable(
            "OXIDICOM_SERIES_SETTLE",
            formats.DURATION,
            "A series is complete this long after its last association has ended.",
        ),
    ] = 1.0
    incomplete_settle: Annotated[
        float,
        Variable(
            "OXIDICOM_INCOMPLETE_SETTLE",
            formats.DURATION,
            "A series that is known to be incomplete is registered this long after its last"
            " change, unless the rest comes.",
            older=(OlderName("OXIDICOM_RECOVERY_SETTLE"),),
        ),
    ] = 60.0
    drain_timeout: Annotated[
        float,
        Variable(
            "OXIDICOM_DRAIN_TIMEOUT",
            formats.DURATION,
            "After SIGTERM, the time that associations which are sending have to end.",
        ),
    ] = 30.0
    fsync: Annotated[
        bool,
        Variable(
            "OXIDICOM_FSYNC",
            formats.BOOL,
            "Answer only when the instance is on the storage device, safe from a power cut.",
        ),
    ] = False
    min_free_space: Annotated[
        int,
        Variable(
            "OXIDICOM_MIN_FREE_SPACE",
            formats.SIZE,
            "Refuse instances while less space is free in the files root; 0 is off.",
        ),
    ] = 0
    quarantine: Annotated[
        bool,
        Variable(
            "OXIDICOM_QUARANTINE", formats.BOOL, "Keep refused instances in the state folder."
        ),
    ] = False
    write_mode: Annotated[
        Literal["auto", "inline", "threads"],
        Variable(
            "OXIDICOM_WRITE_MODE",
            formats.WRITE_MODE,
            "Run storage calls inline on the loop, on writer threads, or by the storage's speed.",
        ),
    ] = "auto"
    writer_threads: Annotated[
        int,
        Variable(
            "OXIDICOM_WRITER_THREADS",
            formats.THREADS,
            "Number of writer threads.",
            older=(OlderName("TOKIO_WORKER_THREADS"),),
            default="number of CPUs, at least 2; at least 16 with `OXIDICOM_FSYNC`",
        ),
    ] = _BY_FSYNC
    buffer_memory: Annotated[
        int,
        Variable(
            "OXIDICOM_BUFFER_MEMORY",
            formats.BUFFER_SIZE,
            "Memory for data received and not yet written. When it is full, reading pauses.",
        ),
    ] = 64 << 20
    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"],
        Variable(
            "OXIDICOM_LOG_LEVEL",
            formats.LOG_LEVEL,
            "Lowest severity that is logged.",
            older=(
                OlderName("RUST_LOG", formats.RUST_LOG),
                OlderName("CHRIS_VERBOSE", formats.VERBOSE),
            ),
        ),
    ] = "info"
    log_format: Annotated[
        Literal["console", "json"],
        Variable(
            "OXIDICOM_LOG_FORMAT",
            formats.LOG_FORMAT,
            "Format of log lines, for people or for machines.",
        ),
    ] = "console"
    log_phi: Annotated[
        bool,
        Variable(
            "OXIDICOM_LOG_PHI",
            formats.BOOL,
            "Allow patient data in logs and traces, for debugging only.",
        ),
    ] = False
    otel_enabled: Annotated[
        bool,
        Variable(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            formats.ENDPOINT,
            "Collector that traces and metrics are sent to. Without it, or with"
            " `OTEL_SDK_DISABLED=true`, none are. OpenTelemetry's other `OTEL_*` variables apply"
            " as well.",
            older=(
                OlderName("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
                OlderName("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
            ),
        ),
    ] = False
    otlp_protocol: Annotated[
        Literal["grpc", "http/protobuf"],
        Variable(
            "OTEL_EXPORTER_OTLP_PROTOCOL", formats.OTLP_PROTOCOL, "Protocol to send them with."
        ),
    ] = "grpc"

    def __post_init__(self) -> None:
        if self.state_dir is IN_FILES_ROOT:
            msgspec.structs.force_setattr(self, "state_dir", self.files_root / ".oxidicom")
        if self.writer_threads == _BY_FSYNC:
            least = _MIN_SYNCING_THREADS if self.fsync else 2
            threads = max(least, os.cpu_count() or 1)
            msgspec.structs.force_setattr(self, "writer_threads", threads)


@cache
def variables() -> Mapping[str, Variable]:
    """Return the variable of each setting by the name of its field, in order of declaration."""
    hints = get_type_hints(Settings, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}
