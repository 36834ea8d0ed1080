"""What every test may use.

Async tests run on asyncio's loop. One marked `@pytest.mark.both_loops` runs on asyncio's and on
uvloop's (pytest-asyncio 1.4 or newer; with an older one on asyncio's only).

Fixtures (of the whole session): `rabbitmq`, `nats_server` and `redis_server` are brokers of our
own on free ports, from tests/support/brokers.py: use `.url`, `.address`, `.port`. They are shared,
so a test takes a queue, key or subject of its own, and one that wants to stop a broker starts its
own: `with NatsServer(tmp_path / "nats") as server:`, or `with private_redis() as server:`. Where a
broker's package is not installed, the test is skipped; with OXIDICOM_TEST_BROKERS=required in the
environment it fails.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.support.brokers import Broker, NatsServer, RabbitMQ, RedisServer, find_program

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

ASYNCIO: Mapping[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
BOTH: Mapping[str, LoopFactory] = {**ASYNCIO, "uvloop": uvloop.new_event_loop}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="the trials of tests/adversity in full (make soak)"
    )


def pytest_configure(config: pytest.Config) -> None:
    # So that brokers are stopped even if the run is ended by `timeout` or a CI runner.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.addinivalue_line("markers", "both_loops: run on asyncio's loop and on uvloop's")
    config.addinivalue_line("markers", "long: deselected without --long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory]:
    return BOTH if item.get_closest_marker("both_loops") else ASYNCIO


def installed(kind: type[Broker]) -> None:
    if find_program(kind.program) is None:
        if os.environ.get("OXIDICOM_TEST_BROKERS") == "required":
            pytest.fail(f"{kind.program} is not installed")
        pytest.skip(f"{kind.program} is not installed")


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    installed(RabbitMQ)
    with RabbitMQ(tmp_path_factory.mktemp("rabbitmq")) as broker:
        yield broker


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    installed(NatsServer)
    with NatsServer(tmp_path_factory.mktemp("nats")) as broker:
        yield broker


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    installed(RedisServer)
    with RedisServer(tmp_path_factory.mktemp("redis")) as broker:
        yield broker


StartRedis = Callable[..., RedisServer]


@pytest.fixture
def private_redis(tmp_path: Path) -> StartRedis:
    """A server of the test's own, not started; arguments are its command line's."""
    installed(RedisServer)
    return lambda *extra: RedisServer(tmp_path / "redis", extra)
