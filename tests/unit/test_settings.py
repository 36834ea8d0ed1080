"""Every setting under every name, with valid and invalid values (decisions 1 to 7)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oxidicom.errors import OperatorError
from oxidicom.settings import Settings, effective, load, markdown_table
from oxidicom.settings.addresses import PacsAddress
from oxidicom.settings.model import variables

ROOT = {"OXIDICOM_FILES_ROOT": "/data"}
BROKER = {"OXIDICOM_CELERY_BROKER": "amqp://guest:guest@rabbitmq:5672"}
LOGIN = {"CHRIS_USERNAME": "chris", "CHRIS_PASSWORD": "sesame"}
TLS = {
    "OXIDICOM_TLS_PORT": "2762",
    "OXIDICOM_TLS_CERT": "/tls.crt",
    "OXIDICOM_TLS_KEY": "/tls.key",
}
CUBE = {"CHRIS_URL": "https://cube/api/v1/", **LOGIN}

DEFAULTS: dict[str, Any] = {
    "state_dir": Path("/data/.oxidicom"),
    "broker": None,
    "broker_ca": None,
    "queue_name": "main2",
    "register_gap": 1.0,
    "cube_url": None,
    "cube_username": None,
    "cube_password": None,
    "http_register": "instance",
    "http_attempts": 3,
    "pushers": 4,
    "pacs_addresses": (),
    "nats_address": None,
    "root_subject": "oxidicom",
    "progress_interval": 0.5,
    "done_delay": 1.0,
    "dev_sleep": 0.0,
    "scp_aet": "ChRIS",
    "scp_strict": False,
    "scp_promiscuous": False,
    "scp_uncompressed_only": False,
    "scp_max_pdu_length": 131072,
    "scp_check_called_aet": False,
    "scp_allowed_calling_aets": (),
    "allowed_networks": (),
    "listener_host": "0.0.0.0",
    "listener_port": 11111,
    "tls_port": None,
    "tls_cert": None,
    "tls_key": None,
    "tls_client_ca": None,
    "admin_port": None,
    "admin_host": "127.0.0.1",
    "max_associations": 512,
    "max_associations_per_peer": 0,
    "workers": 1,
    "artim_timeout": 30.0,
    "idle_timeout": 300.0,
    "series_settle": 1.0,
    "incomplete_settle": 60.0,
    "drain_timeout": 30.0,
    "fsync": False,
    "min_free_space": 0,
    "quarantine": False,
    "write_mode": "auto",
    "writer_threads": max(2, os.cpu_count() or 1),
    "buffer_memory": 64 * 1024 * 1024,
    "log_level": "info",
    "log_format": "console",
    "log_phi": False,
    "otel_enabled": False,
    "otlp_protocol": "grpc",
}

GOOD: list[tuple[str, str, str, Any]] = [
    ("OXIDICOM_STATE_DIR", "/state", "state_dir", Path("/state")),
    ("OXIDICOM_CELERY_BROKER", "amqp://u:p@h/v", "broker", "amqp://u:p@h/v"),
    ("OXIDICOM_CELERY_BROKER", "amqps://h", "broker", "amqps://h"),
    ("OXIDICOM_AMQP_ADDRESS", "amqp://h:5672", "broker", "amqp://h:5672"),
    ("OXIDICOM_AMQP_ADDRESS", "amqp://u:a,b%40@h/", "broker", "amqp://u:a,b%40@h/"),
    ("OXIDICOM_CELERY_BROKER", "redis://:p%40@h:6379/0", "broker", "redis://:p%40@h:6379/0"),
    ("OXIDICOM_CELERY_BROKER", "redis://h", "broker", "redis://h"),
    (
        "OXIDICOM_CELERY_BROKER",
        "rediss://h/1?ssl_cert_reqs=CERT_REQUIRED",
        "broker",
        "rediss://h/1?ssl_cert_reqs=CERT_REQUIRED",
    ),
    ("CHRIS_URL", "http://cube:8000/api/v1/", "cube_url", "http://cube:8000/api/v1/"),
    ("CHRIS_URL", "https://cube/api/v1", "cube_url", "https://cube/api/v1/"),
    ("CHRIS_USERNAME", "chris", "cube_username", "chris"),
    ("CHRIS_PASSWORD", "12345", "cube_password", "12345"),
    ("OXIDICOM_HTTP_REGISTER", "Series", "http_register", "series"),
    ("CHRIS_HTTP_RETRIES", "5", "http_attempts", 5),
    ("CHRIS_PUSHER_THREADS", "16", "pushers", 16),
    (
        "OXIDICOM_PACS_ADDRESS",
        "PACS1=pacs:4242, MY PACS = [::1]:104,,A=1.2.3.4:1,A=5.6.7.8:2",
        "pacs_addresses",
        (
            PacsAddress("PACS1", "pacs", 4242),
            PacsAddress("MY PACS", "::1", 104),
            PacsAddress("A", "5.6.7.8", 2),
        ),
    ),
    ("CHRIS_PACS_ADDRESS", "B=h:104", "pacs_addresses", (PacsAddress("B", "h", 104),)),
    ("OXIDICOM_BROKER_CA", "/ca.pem", "broker_ca", Path("/ca.pem")),
    ("OXIDICOM_REGISTER_GAP", "2s", "register_gap", 2.0),
    ("OXIDICOM_QUEUE_NAME", "main3", "queue_name", "main3"),
    ("OXIDICOM_QUEUE_NAME", "12345", "queue_name", "12345"),
    ("OXIDICOM_QUEUE_NAME", "true", "queue_name", "true"),
    ("OXIDICOM_QUEUE_NAME", '"12345"', "queue_name", "12345"),
    ("OXIDICOM_NATS_ADDRESS", "nats:4222", "nats_address", "nats:4222"),
    ("OXIDICOM_NATS_ADDRESS", "tls://t@nats", "nats_address", "tls://t@nats"),
    ("OXIDICOM_NATS_ADDRESS", "a:1,nats://b", "nats_address", "a:1,nats://b"),
    ("OXIDICOM_ROOT_SUBJECT", "a.b", "root_subject", "a.b"),
    ("OXIDICOM_PROGRESS_INTERVAL", "100ms", "progress_interval", 0.1),
    ("OXIDICOM_DONE_DELAY", "0s", "done_delay", 0.0),
    ("OXIDICOM_DEV_SLEEP", "150ms", "dev_sleep", 0.15),
    ("OXIDICOM_SCP_AET", "12345", "scp_aet", "12345"),
    ("CHRIS_SCP_AET", "OLD", "scp_aet", "OLD"),
    ("OXIDICOM_SCP_STRICT", "TRUE", "scp_strict", True),
    ("CHRIS_SCP_STRICT", "yes", "scp_strict", True),
    ("OXIDICOM_SCP_PROMISCUOUS", "On", "scp_promiscuous", True),
    ("OXIDICOM_SCP_UNCOMPRESSED_ONLY", "1", "scp_uncompressed_only", True),
    ("CHRIS_SCP_UNCOMPRESSED_ONLY", "true", "scp_uncompressed_only", True),
    ("OXIDICOM_SCP_MAX_PDU_LENGTH", "16384", "scp_max_pdu_length", 16384),
    ("OXIDICOM_SCP_MAX_PDU_LENGTH", "0", "scp_max_pdu_length", 0),
    ("OXIDICOM_SCP_MAX_PDU_LENGTH", "1024", "scp_max_pdu_length", 1024),
    ("OXIDICOM_SCP_MAX_PDU_LENGTH", "4294967295", "scp_max_pdu_length", 2**32 - 1),
    ("OXIDICOM_SCP_MAX_PDU_LENGTH", "1MiB", "scp_max_pdu_length", 1 << 20),
    ("CHRIS_SCP_MAX_PDU_LENGTH", "32768", "scp_max_pdu_length", 32768),
    ("OXIDICOM_SCP_CHECK_CALLED_AET", "yes", "scp_check_called_aet", True),
    ("OXIDICOM_SCP_ALLOWED_CALLING_AETS", "A, B C ,A", "scp_allowed_calling_aets", ("A", "B C")),
    (
        "OXIDICOM_ALLOWED_NETWORKS",
        "10.0.0.0/8, fd00::/8,192.0.2.1",
        "allowed_networks",
        (ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("192.0.2.1/32")),
    ),
    ("OXIDICOM_LISTENER_HOST", "::1", "listener_host", "::1"),
    ("OXIDICOM_LISTENER_HOST", "[::]", "listener_host", "::"),
    ("OXIDICOM_LISTENER_PORT", "104", "listener_port", 104),
    ("OXIDICOM_LISTENER_PORT", "0", "listener_port", 0),
    ("PORT", "4242", "listener_port", 4242),
    ("OXIDICOM_TLS_PORT", "Off", "tls_port", None),
    ("OXIDICOM_ADMIN_PORT", "0", "admin_port", 0),
    ("OXIDICOM_ADMIN_PORT", "off", "admin_port", None),
    ("OXIDICOM_ADMIN_HOST", "::", "admin_host", "::"),
    ("OXIDICOM_TLS_CERT", "/tls.crt", "tls_cert", Path("/tls.crt")),
    ("OXIDICOM_TLS_KEY", "/tls.key", "tls_key", Path("/tls.key")),
    ("OXIDICOM_TLS_CLIENT_CA", "/ca.pem", "tls_client_ca", Path("/ca.pem")),
    ("OXIDICOM_LISTENER_THREADS", "32", "max_associations", 32),
    ("CHRIS_LISTENER_THREADS", "8", "max_associations", 8),
    ("OXIDICOM_MAX_ASSOCIATIONS_PER_PEER", "4", "max_associations_per_peer", 4),
    ("OXIDICOM_WORKERS", "64", "workers", 64),
    ("OXIDICOM_ARTIM_TIMEOUT", "10s", "artim_timeout", 10.0),
    ("OXIDICOM_IDLE_TIMEOUT", "1h", "idle_timeout", 3600.0),
    ("OXIDICOM_SERIES_SETTLE", "0s", "series_settle", 0.0),
    ("OXIDICOM_INCOMPLETE_SETTLE", "1m 30s", "incomplete_settle", 90.0),
    ("OXIDICOM_RECOVERY_SETTLE", "2m", "incomplete_settle", 120.0),
    ("OXIDICOM_DRAIN_TIMEOUT", "2min", "drain_timeout", 120.0),
    ("OXIDICOM_FSYNC", "true", "fsync", True),
    ("OXIDICOM_MIN_FREE_SPACE", "10GiB", "min_free_space", 10 << 30),
    ("OXIDICOM_QUARANTINE", "true", "quarantine", True),
    ("OXIDICOM_WRITE_MODE", "Threads", "write_mode", "threads"),
    ("OXIDICOM_WRITER_THREADS", "7", "writer_threads", 7),
    ("TOKIO_WORKER_THREADS", "3", "writer_threads", 3),
    ("OXIDICOM_BUFFER_MEMORY", "256MiB", "buffer_memory", 256 << 20),
    ("OXIDICOM_LOG_LEVEL", "WARN", "log_level", "warning"),
    ("OXIDICOM_LOG_LEVEL", "trace", "log_level", "debug"),
    ("RUST_LOG", "error", "log_level", "error"),
    ("RUST_LOG", "off", "log_level", "critical"),
    ("RUST_LOG", "oxidicom=info", "log_level", "info"),
    ("RUST_LOG", "warn,oxidicom=debug", "log_level", "debug"),
    ("RUST_LOG", "oxidicom=trace,warn", "log_level", "debug"),
    ("RUST_LOG", "warn,hyper=debug,oxidicom::scp=trace", "log_level", "warning"),
    ("RUST_LOG", "hyper=debug", "log_level", "info"),
    ("RUST_LOG", "oxidicom", "log_level", "debug"),
    ("CHRIS_VERBOSE", "yes please", "log_level", "info"),
    ("CHRIS_VERBOSE", "true", "log_level", "info"),
    ("CHRIS_VERBOSE", "no", "log_level", "warning"),
    ("OXIDICOM_LOG_FORMAT", "json", "log_format", "json"),
    ("OXIDICOM_LOG_PHI", "true", "log_phi", True),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317", "otel_enabled", True),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4317", "otel_enabled", True),
    ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c:4317", "otel_enabled", True),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "otlp_protocol", "http/protobuf"),
]

BAD: list[tuple[str, str]] = [
    ("CHRIS_URL", "cube/api/v1/"),
    ("CHRIS_URL", "ftp://cube/"),
    ("CHRIS_URL", "https://chris:sesame@cube/api/v1/"),
    ("CHRIS_URL", "https://cube/api/v1/?a=1"),
    ("CHRIS_USERNAME", "x" * 256),
    ("CHRIS_HTTP_RETRIES", "0"),
    ("CHRIS_PUSHER_THREADS", "0"),
    ("OXIDICOM_HTTP_REGISTER", "study"),
    ("OXIDICOM_PACS_ADDRESS", "pacs:4242"),
    ("OXIDICOM_PACS_ADDRESS", "A=pacs"),
    ("OXIDICOM_PACS_ADDRESS", "A=pacs:x"),
    ("OXIDICOM_PACS_ADDRESS", "A=pacs:104/x"),
    ("OXIDICOM_PACS_ADDRESS", "AN OVERLONG TITLE=pacs:104"),
    ("OXIDICOM_PACS_ADDRESS", "=pacs:104"),
    ("OXIDICOM_PACS_ADDRESS", ","),
    ("OXIDICOM_CELERY_BROKER", "rediss://h?ssl_cert_reqs=none"),
    ("OXIDICOM_CELERY_BROKER", "redis://h/main"),
    ("OXIDICOM_CELERY_BROKER", "http://h"),
    ("OXIDICOM_CELERY_BROKER", "rabbitmq:5672"),
    ("OXIDICOM_WORKERS", "0"),
    ("OXIDICOM_WORKERS", "65"),
    ("OXIDICOM_CELERY_BROKER", "amqp://"),
    ("OXIDICOM_CELERY_BROKER", "amqp:h"),
    ("OXIDICOM_CELERY_BROKER", "amqp://h:port"),
    ("OXIDICOM_CELERY_BROKER", "amqp://h:0"),
    ("OXIDICOM_CELERY_BROKER", "amqp://h:99999"),
    ("OXIDICOM_CELERY_BROKER", "amqps://h?no_verify_ssl=1"),
    ("OXIDICOM_QUEUE_NAME", "q" * 256),
    ("OXIDICOM_QUEUE_NAME", "a\nb"),
    ("OXIDICOM_NATS_ADDRESS", "ws://nats"),
    ("OXIDICOM_NATS_ADDRESS", "nats:port"),
    ("OXIDICOM_NATS_ADDRESS", ","),
    ("OXIDICOM_ROOT_SUBJECT", "a b"),
    ("OXIDICOM_ROOT_SUBJECT", "a.>"),
    ("OXIDICOM_ROOT_SUBJECT", "a..b"),
    ("OXIDICOM_PROGRESS_INTERVAL", "500"),
    ("OXIDICOM_PROGRESS_INTERVAL", "-1s"),
    ("OXIDICOM_DEV_SLEEP", "inf"),
    ("OXIDICOM_DEV_SLEEP", "nan"),
    ("OXIDICOM_SCP_STRICT", "maybe"),
    ("OXIDICOM_SCP_STRICT", "2"),
    ("OXIDICOM_SCP_MAX_PDU_LENGTH", "1023"),
    ("OXIDICOM_SCP_MAX_PDU_LENGTH", "4294967296"),
    ("OXIDICOM_SCP_MAX_PDU_LENGTH", "-1"),
    ("OXIDICOM_SCP_ALLOWED_CALLING_AETS", "SEVENTEENLETTERS_"),
    ("OXIDICOM_SCP_ALLOWED_CALLING_AETS", "back\\slash"),
    ("OXIDICOM_SCP_ALLOWED_CALLING_AETS", " , "),
    ("OXIDICOM_ALLOWED_NETWORKS", "10.0.0.5/8"),
    ("OXIDICOM_ALLOWED_NETWORKS", "everywhere"),
    ("OXIDICOM_LISTENER_HOST", "a host"),
    ("OXIDICOM_LISTENER_HOST", "a..b"),
    ("OXIDICOM_ADMIN_HOST", "a" * 64),
    ("OXIDICOM_LISTENER_PORT", "65536"),
    ("OXIDICOM_LISTENER_PORT", "1e3"),
    ("OXIDICOM_LISTENER_PORT", "no"),
    ("OXIDICOM_TLS_PORT", "tls"),
    ("OXIDICOM_ADMIN_PORT", "admin"),
    ("OXIDICOM_ADMIN_HOST", "a host"),
    ("OXIDICOM_LISTENER_THREADS", "0"),
    ("OXIDICOM_LISTENER_THREADS", "9" * 5000),
    ("OXIDICOM_MAX_ASSOCIATIONS_PER_PEER", "-1"),
    ("OXIDICOM_ARTIM_TIMEOUT", "0s"),
    ("OXIDICOM_IDLE_TIMEOUT", "soon"),
    ("OXIDICOM_MIN_FREE_SPACE", "10GB"),
    ("OXIDICOM_MIN_FREE_SPACE", "0.5"),
    ("OXIDICOM_WRITE_MODE", "fast"),
    ("OXIDICOM_WRITER_THREADS", "0"),
    ("OXIDICOM_BUFFER_MEMORY", "1KiB"),
    ("OXIDICOM_LOG_LEVEL", "loud"),
    ("RUST_LOG", "oxidicom=loud"),
    ("CHRIS_VERBOSE", "perhaps"),
    ("OXIDICOM_LOG_FORMAT", "xml"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
]


def settings_of(environ: Mapping[str, str]) -> Settings:
    return load({**ROOT, **environ})[0]


def beside(name: str) -> dict[str, str]:
    """Return the variables that must be set together with `name`."""
    if name in TLS or name == "OXIDICOM_TLS_CLIENT_CA":
        return {"OXIDICOM_TLS_PORT": "off"}
    return LOGIN if name == "CHRIS_URL" else {}


def faults_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    with pytest.raises(OperatorError) as caught:
        load(environ)
    return tuple(caught.value.faults)


def test_every_setting_has_its_documented_default() -> None:
    settings = settings_of({})
    assert {
        name: getattr(settings, name) for name in Settings.__struct_fields__ if name != "files_root"
    } == DEFAULTS


def test_a_struct_made_by_hand_has_the_same_defaults() -> None:
    assert Settings(files_root=Path("/data")) == settings_of({})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        settings_of({}).fsync = True  # type: ignore[misc]


def test_the_cases_below_cover_every_name_of_every_setting() -> None:
    tried = {name for name, *_ in GOOD} | {"OXIDICOM_FILES_ROOT", "CHRIS_FILES_ROOT"}
    assert tried == {name for variable in variables().values() for name in variable.names}


@pytest.mark.parametrize(("name", "text", "field", "value"), GOOD)
def test_a_valid_value_is_read(name: str, text: str, field: str, value: Any) -> None:
    settings = settings_of({**beside(name), name: f"  {text} "})
    assert getattr(settings, field) == value
    assert type(getattr(settings, field)) is type(value)
    changed = [field, "writer_threads"] if field == "fsync" else [field]
    others = msgspec.structs.replace(settings, **{name: DEFAULTS[name] for name in changed})
    assert others == settings_of(beside(name))


@pytest.mark.parametrize(("name", "text"), BAD)
def test_an_invalid_value_is_a_fault_with_an_example(name: str, text: str) -> None:
    (fault,) = faults_of({**ROOT, **beside(name), name: text})
    assert fault.startswith(f"{name}=")
    assert "expected " in fault
    assert f"for example {name}=" in fault
    assert fault.isprintable()
    assert len(fault) < 500


@pytest.mark.parametrize("field", [each for each in DEFAULTS if each != "otel_enabled"])
def test_the_example_in_a_fault_is_a_good_value(field: str) -> None:
    variable = variables()[field]
    needed = TLS if variable.name in TLS else beside(variable.name)
    settings = settings_of({**needed, variable.name: variable.format.example})
    assert variable.format.show(getattr(settings, field))
    for older in variable.older:
        settings_of({older.name: (older.format or variable.format).example})


@pytest.mark.parametrize("field", Settings.__struct_fields__)
def test_an_empty_value_is_not_set(field: str) -> None:
    variable = variables()[field]
    for empty in ("", "  ", '""'):
        environ = {**ROOT, **dict.fromkeys(variable.names, empty)}
        if field == "files_root":
            assert "OXIDICOM_FILES_ROOT is not set" in faults_of(environ)[0]
        else:
            assert getattr(load(environ)[0], field) == DEFAULTS[field]


class TestPorts:
    def test_a_port_without_tls_and_one_with_tls(self) -> None:
        settings = settings_of({**TLS, "OXIDICOM_TLS_CLIENT_CA": "/ca.pem"})
        assert (settings.listener_port, settings.tls_port) == (11111, 2762)
        assert settings.tls_client_ca == Path("/ca.pem")

    @pytest.mark.parametrize("name", ["OXIDICOM_LISTENER_PORT", "PORT"])
    def test_with_tls_only(self, name: str) -> None:
        assert settings_of({**TLS, name: "OFF"}).listener_port is None

    def test_any_free_port_each(self) -> None:
        settings = settings_of({**TLS, "OXIDICOM_LISTENER_PORT": "0", "OXIDICOM_TLS_PORT": "0"})
        assert (settings.listener_port, settings.tls_port) == (0, 0)

    def test_off_is_shown_as_it_is_written(self) -> None:
        settings = settings_of({**TLS, "OXIDICOM_LISTENER_PORT": "off"})
        shown = {line.name: line for line in effective(settings)}
        assert shown["OXIDICOM_LISTENER_PORT"][1:] == ("off", False)
        assert {line.name: line for line in effective(settings_of({}))}["OXIDICOM_TLS_PORT"][
            1:
        ] == ("off", True)

    @pytest.mark.parametrize("missing", ["OXIDICOM_TLS_CERT", "OXIDICOM_TLS_KEY"])
    def test_a_port_needs_certificate_and_key(self, missing: str) -> None:
        (fault,) = faults_of({**ROOT, **TLS, missing: ""})
        assert fault.startswith(f"{missing} is not set: expected")
        assert f"for example {missing}=/" in fault

    @pytest.mark.parametrize("name", [*list(TLS)[1:], "OXIDICOM_TLS_CLIENT_CA"])
    def test_a_certificate_without_a_tls_port_is_a_fault(self, name: str) -> None:
        (fault,) = faults_of({**ROOT, name: "/file"})
        assert fault.startswith(f"{name} without OXIDICOM_TLS_PORT")
        assert "for example OXIDICOM_TLS_PORT=2762" in fault

    def test_tls_can_be_turned_off_while_its_files_stay_set(self) -> None:
        settings, warnings = load({**ROOT, **BROKER, **TLS, "OXIDICOM_TLS_PORT": "off"})
        assert settings.tls_port is None
        assert warnings == []

    def test_without_any_port_there_is_a_fault(self) -> None:
        (fault,) = faults_of({**ROOT, "OXIDICOM_LISTENER_PORT": "off"})
        assert "no port to listen on" in fault
        assert "for example OXIDICOM_TLS_PORT=2762" in fault

    def test_an_invalid_port_is_reported_once(self) -> None:
        environ = {**ROOT, **TLS, "OXIDICOM_LISTENER_PORT": "off", "OXIDICOM_TLS_PORT": "x"}
        (fault,) = faults_of(environ)
        assert fault.startswith("OXIDICOM_TLS_PORT=x")

    def test_both_ports_must_differ(self) -> None:
        (fault,) = faults_of({**ROOT, **TLS, "OXIDICOM_TLS_PORT": "11111"})
        assert "are both 11111" in fault


class TestNames:
    def test_case_does_not_matter(self) -> None:
        assert load({"oxidicom_files_root": "/d", "Oxidicom_Fsync": "yes"})[0] == Settings(
            files_root=Path("/d"), fsync=True
        )

    @pytest.mark.parametrize("upper_first", [True, False])
    def test_upper_case_wins(self, upper_first: bool) -> None:
        both = [("OXIDICOM_QUEUE_NAME", "upper"), ("oxidicom_queue_name", "lower")]
        environ = dict(both if upper_first else reversed(both))
        assert settings_of(environ).queue_name == "upper"

    def test_an_empty_upper_case_name_does_not_win(self) -> None:
        environ = {"OXIDICOM_QUEUE_NAME": "", "oxidicom_queue_name": "lower"}
        assert settings_of(environ).queue_name == "lower"

    def test_names_without_our_prefixes_are_case_sensitive(self) -> None:
        assert settings_of({"port": "1"}).listener_port == 11111

    def test_the_newer_name_wins_and_the_older_is_not_even_read(self) -> None:
        assert load({**ROOT, "CHRIS_FILES_ROOT": "/old"})[0].files_root == Path("/data")
        settings = settings_of({"OXIDICOM_LISTENER_PORT": "1", "PORT": "nonsense"})
        assert settings.listener_port == 1

    def test_precedence_of_log_levels(self) -> None:
        older = {"RUST_LOG": "error", "CHRIS_VERBOSE": "no"}
        assert settings_of(older).log_level == "error"
        assert settings_of({**older, "OXIDICOM_LOG_LEVEL": "debug"}).log_level == "debug"

    def test_the_first_generation_s_environment(self) -> None:
        settings, _ = load({"CHRIS_FILES_ROOT": "/files", "PORT": "104", "CHRIS_SCP_STRICT": "No"})
        assert (settings.files_root, settings.listener_port) == (Path("/files"), 104)

    def test_cube_s_own_compose_file_but_for_its_broker(self) -> None:
        settings, warnings = load(
            {
                "OXIDICOM_FILES_ROOT": "/data",
                "OXIDICOM_CELERY_BROKER": "amqp://queue:5672",
                "OXIDICOM_NATS_ADDRESS": "nats:4222",
                "OXIDICOM_SCP_AET": "ChRIS",
                "OXIDICOM_SCP_PROMISCUOUS": "true",
                "OXIDICOM_LISTENER_THREADS": "32",
                "OXIDICOM_LISTENER_PORT": "11111",
                "OXIDICOM_PROGRESS_INTERVAL": "100ms",
                "OXIDICOM_DEV_SLEEP": "150ms",
                "RUST_LOG": "oxidicom=info",
            }
        )
        assert warnings == []
        assert settings.scp_promiscuous


class TestBroker:
    def test_two_names_of_one_setting(self) -> None:
        url = "amqp://u:p@h"
        both = {"OXIDICOM_AMQP_ADDRESS": url, "OXIDICOM_CELERY_BROKER": url}
        assert settings_of(both).broker == url

    def test_two_names_with_different_values_are_a_fault(self) -> None:
        (fault,) = faults_of(
            {
                **ROOT,
                "OXIDICOM_AMQP_ADDRESS": "amqp://u:sesame@one",
                "OXIDICOM_CELERY_BROKER": "amqp://u:sesame@two",
            }
        )
        assert "OXIDICOM_AMQP_ADDRESS=amqp://u:***@one" in fault
        assert "OXIDICOM_CELERY_BROKER=amqp://u:***@two" in fault

    def test_no_broker_is_a_warning_that_says_what_to_set(self) -> None:
        (warning,) = load(ROOT)[1]
        assert "outbox" in warning
        assert "/data/.oxidicom" in warning
        assert "OXIDICOM_CELERY_BROKER" in warning

    def test_a_broker_gives_no_warning(self) -> None:
        assert load({**ROOT, **BROKER})[1] == []

    def test_cubes_url_beside_it_means_that_cube_is_asked(self) -> None:
        settings, warnings = load({**ROOT, **BROKER, **CUBE})
        assert (settings.asks_cube, settings.registers_over_http) == (True, False)
        assert warnings == []

    def test_cubes_url_alone_means_registration_over_http(self) -> None:
        settings = settings_of(CUBE)
        assert (settings.asks_cube, settings.registers_over_http) == (False, True)

    def test_a_broker_alone_means_that_cube_is_not_asked(self) -> None:
        settings = settings_of(BROKER)
        assert (settings.asks_cube, settings.registers_over_http) == (False, False)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("CHRIS_HTTP_RETRIES", "5"),
            ("CHRIS_PUSHER_THREADS", "5"),
            ("OXIDICOM_HTTP_REGISTER", "series"),
        ],
    )
    def test_settings_of_http_registration_beside_a_broker_are_a_warning(
        self, name: str, value: str
    ) -> None:
        (warning,) = load({**ROOT, **BROKER, **CUBE, name: value})[1]
        assert warning.startswith(f"{name} has no effect: series are registered through ")

    @pytest.mark.parametrize("broker", [{}, BROKER])
    @pytest.mark.parametrize("name", ["CHRIS_USERNAME", "CHRIS_PASSWORD"])
    def test_cubes_url_needs_a_login(self, name: str, broker: dict[str, str]) -> None:
        (fault,) = faults_of({**ROOT, **broker, **CUBE, name: ""})
        assert fault.startswith(f"{name} is not set: expected ")
        assert f"for example {name}=" in fault
        assert "sesame" not in fault

    def test_cubes_url_gives_no_warning(self) -> None:
        assert load({**ROOT, **CUBE})[1] == []

    def test_http_settings_without_cubes_url_are_a_warning(self) -> None:
        _, warnings = load({**ROOT, **BROKER, "CHRIS_PASSWORD": "sesame"})
        assert warnings == ["CHRIS_PASSWORD has no effect: CHRIS_URL is not set"]

    def test_an_authority_without_tls_is_a_warning(self) -> None:
        _, warnings = load({**ROOT, **BROKER, "OXIDICOM_BROKER_CA": "/ca.pem"})
        assert len(warnings) == 1
        assert "OXIDICOM_BROKER_CA has no effect" in warnings[0]


SECRETS = [
    ("OXIDICOM_CELERY_BROKER", "amqp://user:{}@h:badport"),
    ("OXIDICOM_CELERY_BROKER", "amqp://user:1/{}@h"),
    ("OXIDICOM_CELERY_BROKER", "amqp://user:1?{}@h"),
    ("OXIDICOM_CELERY_BROKER", "amqp://user:1#{}@h"),
    ("OXIDICOM_CELERY_BROKER", "amqp//user:{}@h"),
    ("OXIDICOM_CELERY_BROKER", "http://user:{}@h"),
    ("OXIDICOM_CELERY_BROKER", "redis://:{}@h"),
    ("OXIDICOM_CELERY_BROKER", "http://h?password={}"),
    ("OXIDICOM_CELERY_BROKER", "user:{}@h"),
    ("OXIDICOM_NATS_ADDRESS", "ws://{}@nats"),
    ("OXIDICOM_NATS_ADDRESS", "ws://user:{}@nats"),
    ("OXIDICOM_NATS_ADDRESS", "ws://user:1,{}@nats"),
    ("OXIDICOM_NATS_ADDRESS", "ws://a,user:{}@b,c"),
    ("OXIDICOM_LISTENER_PORT", "tcp://user:{}@h"),
]


@pytest.mark.parametrize(("name", "template"), SECRETS)
@pytest.mark.parametrize("secret", ["s3same", "p@ss", "a:b", "%40%2F", "8888"])
def test_no_fault_shows_a_secret(name: str, template: str, secret: str) -> None:
    environ = {**ROOT, name: template.format(secret)}
    try:
        settings, warnings = load(environ)
    except OperatorError as error:
        said = str(error)
    else:
        said = "\n".join([*warnings, *(line.value for line in effective(settings))])
    assert secret not in said


def test_no_fault_shows_a_password_without_a_host() -> None:
    (fault,) = faults_of({**ROOT, "OXIDICOM_CELERY_BROKER": "amqp://user:s3same"})
    assert "s3same" not in fault


def test_no_output_shows_a_secret() -> None:
    settings = settings_of(
        {
            "OXIDICOM_CELERY_BROKER": "amqps://user:12,34@h/vhost?key=sesame",
            "OXIDICOM_NATS_ADDRESS": "user:sesame@a:1,nats://token@b:2",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:sesame@c",
        }
    )
    values = {line.name: line.value for line in effective(settings)}
    assert values["OXIDICOM_CELERY_BROKER"] == "amqps://user:***@h/vhost?***"
    assert values["OXIDICOM_NATS_ADDRESS"] == "user:***@a:1,nats://***@b:2"
    assert values["OTEL_EXPORTER_OTLP_ENDPOINT"] == "on"


class TestFaults:
    def test_all_in_one_error_one_line_each(self) -> None:
        first_of: dict[str, str] = {}
        for name, text in BAD:
            first_of.setdefault(name, text)
        # Only one of several names of one setting is ever read.
        for older in ("RUST_LOG", "CHRIS_VERBOSE"):
            del first_of[older]
        faults = faults_of(first_of)
        named = [re.split("=| is not set| and ", fault)[0] for fault in faults]
        wanting = ["CHRIS_PASSWORD", "OXIDICOM_FILES_ROOT"]
        assert sorted(named) == sorted([*first_of, *wanting])
        assert all(fault.isprintable() for fault in faults)

    def test_the_files_root_is_required(self) -> None:
        assert faults_of({}) == (
            "OXIDICOM_FILES_ROOT is not set: expected the path of a folder, for example /data",
        )

    def test_unknown_names_are_notes_on_the_error(self) -> None:
        with pytest.raises(OperatorError) as caught:
            load({"OXIDICOM_FILE_ROOT": "/data"})
        assert caught.value.__notes__ == [
            "OXIDICOM_FILE_ROOT is unknown and has no effect; did you mean OXIDICOM_FILES_ROOT?"
        ]

    def test_a_fault_is_one_printable_line_whatever_the_value(self) -> None:
        (fault,) = faults_of({**ROOT, "OXIDICOM_FSYNC": "a\nb\udcff\x1b[31m" + "x" * 10_000})
        assert fault.isprintable()
        assert len(fault) < 300

    def test_a_missing_unit_is_named(self) -> None:
        (fault,) = faults_of({**ROOT, "OXIDICOM_PROGRESS_INTERVAL": "500"})
        assert "a unit is missing" in fault

    def test_the_network_of_a_host_address_is_suggested(self) -> None:
        (fault,) = faults_of({**ROOT, "OXIDICOM_ALLOWED_NETWORKS": "10.0.0.5/8"})
        assert "did you mean 10.0.0.0/8?" in fault


class TestWarnings:
    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            ("OXIDICOM_LISTNER_PORT", "OXIDICOM_LISTENER_PORT"),
            ("OXIDICOM_SCP_AETITLE", "OXIDICOM_SCP_AET"),
            ("oxidicom_celery_brokr", "OXIDICOM_CELERY_BROKER"),
            ("OXIDICOM_AMQP_ADRESS", "OXIDICOM_AMQP_ADDRESS"),
        ],
    )
    def test_an_unknown_name(self, name: str, nearest: str) -> None:
        _, warnings = load({**ROOT, **BROKER, name: "sesame"})
        assert warnings == [f"{name.upper()} is unknown and has no effect; did you mean {nearest}?"]

    def test_service_variables_of_kubernetes_are_ignored(self) -> None:
        links = {
            "OXIDICOM_SERVICE_HOST": "10.0.0.1",
            "OXIDICOM_SERVICE_PORT": "11111",
            "OXIDICOM_SERVICE_PORT_DICOM": "11111",
            "OXIDICOM_PORT": "tcp://10.0.0.1:11111",
            "OXIDICOM_PORT_11111_TCP": "tcp://10.0.0.1:11111",
            "OXIDICOM_PORT_11111_TCP_PROTO": "tcp",
            "OXIDICOM_PORT_11111_TCP_PORT": "11111",
            "OXIDICOM_PORT_11111_TCP_ADDR": "10.0.0.1",
        }
        assert load({**ROOT, **BROKER, **links})[1] == []
        assert len(load({**ROOT, **BROKER, "OXIDICOM_PORT": "11111"})[1]) == 1

    def test_an_illegal_title_of_ours_matters_only_where_it_is_compared(self) -> None:
        environ = {**ROOT, **BROKER, "OXIDICOM_SCP_AET": "a title of more than 16"}
        settings, (warning,) = load(environ)
        assert settings.scp_aet == "a title of more than 16"
        assert "no peer can call us by this" in warning
        (fault,) = faults_of({**environ, "OXIDICOM_SCP_CHECK_CALLED_AET": "true"})
        assert fault == warning


@pytest.mark.parametrize("disabled", ["true", "TRUE", " True "])
def test_open_telemetry_s_own_switch(disabled: str) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}
    assert settings_of({**endpoint, "OTEL_SDK_DISABLED": "false"}).otel_enabled
    assert not settings_of({**endpoint, "OTEL_SDK_DISABLED": disabled}).otel_enabled


def test_relative_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings, _ = load({"OXIDICOM_FILES_ROOT": "files", "OXIDICOM_STATE_DIR": "."})
    assert settings.files_root == tmp_path / "files"
    assert settings.state_dir == tmp_path


def test_effective_settings_say_which_are_defaults() -> None:
    lines = effective(settings_of({"OXIDICOM_FSYNC": "1", "OXIDICOM_IDLE_TIMEOUT": "90s"}))
    assert [line.name for line in lines] == [each.name for each in variables().values()]
    assert {line.name: line.value for line in lines if not line.is_default} == {
        "OXIDICOM_FILES_ROOT": "/data",
        "OXIDICOM_FSYNC": "true",
        "OXIDICOM_IDLE_TIMEOUT": "1m 30s",
    }


def test_shown_values_can_be_read_again() -> None:
    settings = settings_of({**BROKER, "OXIDICOM_ALLOWED_NETWORKS": "10.0.0.0/8,fd00::/8"})
    shown = {
        name: value
        for name, value, _ in effective(settings)
        if value != "not set" and "***" not in value and not name.startswith("OTEL_")
    }
    assert load({**shown, **BROKER})[0] == settings


class TestMarkdownTable:
    def test_one_row_for_every_setting_with_all_its_names(self) -> None:
        head, rule, *rows = markdown_table().splitlines()
        assert head == "| Variable | Value | Default | Meaning |"
        assert rule == "|---|---|---|---|"
        assert len(rows) == len(variables())
        for row, variable in zip(rows, variables().values(), strict=True):
            assert row.startswith(f"| `{variable.name}` | ")
            assert row.count("|") == 5
            for name in variable.names:
                assert f"`{name}`" in row

    def test_defaults_and_examples(self) -> None:
        rows = markdown_table().splitlines()
        assert (
            "| `OXIDICOM_PROGRESS_INTERVAL` | a duration, with its unit | `500ms` | Least time"
            " between two progress messages of one series; `0s` sends every count. |"
        ) in rows
        beginning = "| `OXIDICOM_FILES_ROOT` | the path of a folder, like `/data` | required | "
        assert rows[2].startswith(beginning)

    def test_it_is_the_same_on_every_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        here = markdown_table()
        monkeypatch.setattr(os, "cpu_count", lambda: 97)
        monkeypatch.setenv("OXIDICOM_FSYNC", "true")
        assert markdown_table() == here


def test_syncing_takes_more_threads_than_cores() -> None:
    """Syncing threads wait for the device. A number that the operator sets is kept."""
    synced = settings_of({**ROOT, "OXIDICOM_FSYNC": "true"})
    assert synced.writer_threads == max(16, os.cpu_count() or 1)
    assert {each.name for each in effective(synced) if not each.is_default} == {
        "OXIDICOM_FILES_ROOT",
        "OXIDICOM_FSYNC",
    }
    chosen = settings_of({**ROOT, "OXIDICOM_FSYNC": "true", "OXIDICOM_WRITER_THREADS": "2"})
    assert chosen.writer_threads == 2
    assert "OXIDICOM_WRITER_THREADS" in {e.name for e in effective(chosen) if not e.is_default}
