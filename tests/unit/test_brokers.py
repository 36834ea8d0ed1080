"""The table of brokers: each line names a URL check, a publisher and a probe that exist."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from oxidicom.cli.probes import QueueProbe
from oxidicom.notify.publisher import BrokerPublisher
from oxidicom.settings.brokers import BROKERS, broker_of, parse_broker
from oxidicom.settings.parsing import InvalidValueError

schemes = pytest.mark.parametrize("scheme", BROKERS)


def methods(protocol: type[Any]) -> set[str]:
    members = inspect.getmembers(protocol, inspect.isfunction)
    return {name for name, _ in members if not name.startswith("_")}


@schemes
def test_the_publisher_of_each_scheme_has_the_methods_of_a_broker_publisher(scheme: str) -> None:
    publisher = BROKERS[scheme].load_publisher()(f"{scheme}://broker", "main2", None)
    for name in methods(BrokerPublisher):
        expected = inspect.signature(getattr(BrokerPublisher, name)).parameters
        own = inspect.signature(getattr(type(publisher), name)).parameters
        assert list(own) == list(expected)


@schemes
def test_the_probe_of_each_scheme_is_a_queue_probe(scheme: str) -> None:
    assert isinstance(BROKERS[scheme].load_probe(), QueueProbe)


@schemes
def test_a_url_of_each_scheme_is_accepted_and_finds_its_line(scheme: str) -> None:
    for url in (f"{scheme}://broker", f"{scheme.upper()}://user:secret@broker:1/"):
        assert parse_broker(url) == url
        assert broker_of(url) is BROKERS[scheme]


def test_a_scheme_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(InvalidValueError):
        parse_broker("kafka://broker")


def test_the_settings_load_no_publisher_and_no_client_library() -> None:
    program = (
        "import sys, oxidicom.settings.brokers;"
        "print([name for name in sys.modules if name.startswith(('oxidicom.notify', 'oxidicom.cli',"
        " 'aio_pika', 'redis', 'nats', 'httpx'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
