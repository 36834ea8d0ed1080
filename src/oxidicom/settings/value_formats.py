"""The formats in which the values of settings are written in the environment."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from oxidicom.settings import addresses, parsing
from oxidicom.settings.brokers import parse_broker
from oxidicom.settings.variable import ValueFormat

BOOL: Final = ValueFormat(parsing.parse_bool, "true or false", "true", parsing.show_bool)
DURATION: Final = ValueFormat(
    parsing.parse_duration, "a duration, with its unit", "1m 30s", parsing.show_duration
)
TIME_LIMIT: Final = ValueFormat(
    parsing.parse_time_limit, "a duration above 0s, with its unit", "30s", parsing.show_duration
)
SIZE: Final = ValueFormat(
    parsing.parse_size, "a size in bytes, or with KiB, MiB, GiB or TiB", "10GiB", parsing.show_size
)
BUFFER_SIZE: Final = ValueFormat(
    parsing.size_parser(1 << 20),
    "a size of at least 1MiB (bytes, or with KiB, MiB, GiB)",
    "64MiB",
    parsing.show_size,
)
PDU_SIZE: Final = ValueFormat(
    parsing.size_parser(1024, 2**32 - 1, or_zero=True),
    "0 (unlimited) or 1024 to 4294967295 bytes",
    "131072",
)
FOLDER: Final = ValueFormat(parsing.parse_path, "the path of a folder", "/data")
STATE_FOLDER: Final = ValueFormat(parsing.parse_path, "the path of a folder", "/var/lib/oxidicom")
FILE: Final = ValueFormat(parsing.parse_path, "the path of a PEM file", "/etc/ssl/broker-ca.pem")
CERTIFICATE: Final = replace(FILE, example="/etc/oxidicom/tls.crt")
KEY: Final = replace(FILE, example="/etc/oxidicom/tls.key")
CLIENT_CA: Final = replace(FILE, example="/etc/oxidicom/client-ca.pem")
PORT: Final = ValueFormat(
    parsing.parse_port, "a port from 0 (any free one) to 65535, or off", "11111", none="off"
)
TLS_PORT: Final = replace(PORT, example="2762")
ADMIN_PORT: Final = replace(PORT, example="8080")
COUNT: Final = ValueFormat(parsing.integer_parser(1), "a whole number from 1", "512")
COUNT_OR_ZERO: Final = ValueFormat(
    parsing.integer_parser(0, 2**32 - 1), "a whole number from 0 (no limit)", "16"
)
THREADS: Final = ValueFormat(parsing.integer_parser(1, 1024), "a whole number from 1 to 1024", "4")
WORKERS: Final = ValueFormat(parsing.integer_parser(1, 64), "a whole number from 1 to 64", "2")
HOST: Final = ValueFormat(parsing.parse_host, "a host's name or address", "0.0.0.0")
AE_TITLE: Final = ValueFormat(
    parsing.text_parser(255), "an AE title of 1 to 16 characters", "ChRIS"
)
AE_TITLES: Final = ValueFormat(
    parsing.parse_ae_titles,
    "AE titles of 1 to 16 characters each, separated by commas",
    "CT1,MR2",
    parsing.show_items,
)
NETWORKS: Final = ValueFormat(
    parsing.parse_networks,
    "networks in CIDR notation, separated by commas",
    "10.1.0.0/16,fd00::/8",
    parsing.show_items,
)
QUEUE: Final = ValueFormat(
    parsing.text_parser(255), "the name of a queue, of at most 255 bytes", "main2"
)
SUBJECT: Final = ValueFormat(
    parsing.parse_subject, "a NATS subject, of at most 255 bytes", "oxidicom"
)
BROKER: Final = ValueFormat(
    parse_broker,
    "the amqp://, amqps://, redis:// or rediss:// URL of the broker that CUBE's Celery uses",
    "amqp://user:password@rabbitmq:5672",
    addresses.mask_url,
    addresses.mask_url,
)
NATS: Final = ValueFormat(
    addresses.parse_nats,
    "host:port, or a nats:// or tls:// URL, or several with commas",
    "nats://nats:4222",
    addresses.mask_urls,
    addresses.mask_urls,
)
ENDPOINT: Final = ValueFormat(
    addresses.parse_endpoint,
    "the URL of an OpenTelemetry collector",
    "http://collector:4317",
    lambda enabled: "on" if enabled else "off",
    addresses.mask_url,
)
OTLP_PROTOCOL: Final = ValueFormat(
    parsing.word_parser({each: each for each in ("grpc", "http/protobuf")}),
    "grpc or http/protobuf",
    "grpc",
)
WRITE_MODE: Final = ValueFormat(
    parsing.word_parser({each: each for each in ("auto", "inline", "threads")}),
    "auto, inline or threads",
    "auto",
)
LOG_LEVEL: Final = ValueFormat(
    parsing.word_parser(parsing.LOG_LEVELS), "debug, info, warning, error or critical", "info"
)
RUST_LOG: Final = ValueFormat(
    parsing.parse_rust_log, "a level, or directives for oxidicom", "oxidicom=info"
)
VERBOSE: Final = ValueFormat(parsing.parse_verbose, "yes or no", "yes")
LOG_FORMAT: Final = ValueFormat(
    parsing.word_parser({each: each for each in ("console", "json")}), "console or json", "json"
)
CUBE_URL: Final = ValueFormat(
    addresses.parse_cube_url,
    "the http:// or https:// URL of CUBE's API",
    "https://cube.example.org/api/v1/",
    addresses.mask_url,
    addresses.mask_url,
)
USERNAME: Final = ValueFormat(parsing.text_parser(255), "the name of a CUBE user", "chris")
PASSWORD: Final = ValueFormat(
    parsing.parse_password, "a password", "chris1234", parsing.hide, parsing.hide
)
ATTEMPTS: Final = ValueFormat(parsing.integer_parser(1, 100), "a whole number from 1 to 100", "3")
HTTP_REGISTER: Final = ValueFormat(
    parsing.word_parser({each: each for each in ("instance", "series")}),
    "instance or series",
    "series",
)
PACS_ADDRESSES: Final = ValueFormat(
    addresses.parse_pacs_addresses,
    "AE titles and addresses, TITLE=host:port each, separated by commas",
    "PACS1=pacs.example.org:4242,PACS2=10.0.0.7:104",
    parsing.show_items,
)
