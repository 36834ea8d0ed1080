"""The kinds of message brokers that CUBE's Celery may use, by the scheme of their URLs.

To add one, write a publisher in `oxidicom.notify`, its probe for `oxidicom check` in
`oxidicom.cli.probes`, and one line in BROKERS. The line gives both as "module:name", because
settings must not import them, and only a process that uses a broker should load its client library
(5 MB, 50 ms).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlsplit

from oxidicom.settings.addresses import split_url
from oxidicom.settings.parsing import InvalidValueError


class Broker(NamedTuple):
    """The properties of the brokers whose URLs have one scheme."""

    protocol: str
    """Name of the protocol, for error texts."""
    default_port: int
    """Port of a URL without one."""
    tls: bool
    """Whether connections use TLS."""
    check_url: Callable[[SplitResult], None]
    """Function that raises InvalidValueError for a URL that this protocol does not allow."""
    publisher: str
    """The class that implements `oxidicom.notify.publisher.BrokerPublisher`, as "module:name". Its
    arguments are the URL, the queue name and the file of authorities."""
    probe: str
    """Where this protocol's instance of `oxidicom.cli.probes.QueueProbe` is, as "module:name"."""

    def load_publisher(self) -> Any:
        """Import the publisher's class and return it."""
        return _load(self.publisher)

    def load_probe(self) -> Any:
        """Import the probe and return it."""
        return _load(self.probe)


def _load(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def _check_amqp_url(url: SplitResult) -> None:
    """Accept any URL: its path is the name of a virtual host."""


def _check_redis_url(url: SplitResult) -> None:
    if not re.fullmatch(r"/?[0-9]{0,5}", url.path):
        raise InvalidValueError("only the number of a database may follow its host")


_AMQP = ("oxidicom.notify.amqp:AmqpPublisher", "oxidicom.cli.probes.amqp:PROBE")
_REDIS = ("oxidicom.notify.redis:RedisPublisher", "oxidicom.cli.probes.redis:PROBE")

BROKERS: Final = {
    "amqp": Broker("AMQP 0-9-1", 5672, False, _check_amqp_url, *_AMQP),
    "amqps": Broker("AMQP 0-9-1", 5671, True, _check_amqp_url, *_AMQP),
    "redis": Broker("Redis", 6379, False, _check_redis_url, *_REDIS),
    "rediss": Broker("Redis", 6379, True, _check_redis_url, *_REDIS),
}


def broker_of(url: str) -> Broker:
    """Return the Broker for a URL that `parse_broker` has accepted."""
    return BROKERS[urlsplit(url).scheme]


def parse_broker(text: str) -> str:
    """Return the URL of a broker as written.

    Raises InvalidValueError for an unknown scheme, a malformed URL, and options that turn off the
    verification of TLS certificates.
    """
    broker = BROKERS.get(text.partition(":")[0].lower())
    if broker is None or "://" not in text:
        raise InvalidValueError
    parts = split_url(text)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    required = options.pop("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if "no_verify_ssl" in options or required != "required":
        raise InvalidValueError(
            "verification of TLS cannot be turned off: set OXIDICOM_BROKER_CA to the authority's"
            " certificates instead"
        )
    broker.check_url(parts)
    return text
