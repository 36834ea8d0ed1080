"""Fixtures and options that every test may use.

Async tests run on asyncio's loop. One marked `@pytest.mark.both_loops` runs on asyncio's and on
uvloop's (pytest-asyncio 1.4 or newer; with an older one on asyncio's only).

Fixtures (of the whole session): `rabbitmq`, `nats_server` and `redis_server` are brokers of our
own on free ports, from tests/support/brokers.py: use `.url`, `.address`, `.port`. They are shared,
so a test takes a queue, key or subject of its own, and one that wants to stop a broker starts its
own: `with NatsServer(tmp_path / "nats") as server:`, or `with private_redis() as server:`. Where a
broker's package is not installed, the test is skipped; with OXIDICOM_TEST_BROKERS=required in the
environment it fails.

`make test` runs three files of tests at a time (pytest-xdist), each process with brokers of its
own; named files, and `make soak`, run one after the other. A test may thus never hold what there is
only one of: a fixed port, a fixed name in /dev/shm, a file of the checkout.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.support import time_limit
from tests.support.brokers import Broker, NatsServer, RabbitMQ, RedisServer, find_program
from tests.support.signals import give_children_default_signals

SEED = pytest.StashKey[str]()
"""Of the trials' random numbers; all processes of a run have the same."""

FIGURE = "figure of a trial"
"""A test's property, told at the end of the run."""

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

ASYNCIO: Mapping[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
BOTH: Mapping[str, LoopFactory] = {**ASYNCIO, "uvloop": uvloop.new_event_loop}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="the trials of tests/adversity in full (make soak)"
    )


def pytest_configure(config: pytest.Config) -> None:
    give_children_default_signals()
    if not config.pluginmanager.is_registered(time_limit):
        config.pluginmanager.register(time_limit)
    # So that brokers are stopped even if the run is ended by `timeout` or a CI runner.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.stash[SEED] = (
        getattr(config, "workerinput", {}).get("seed")
        or os.environ.get("OXIDICOM_TEST_SEED")
        or str(random.SystemRandom().randrange(10**9))
    )
    config.addinivalue_line("markers", "both_loops: run on asyncio's loop and on uvloop's")
    config.addinivalue_line("markers", "long: deselected without --long")
    config.addinivalue_line("markers", "long_limit(seconds): the time limit with --long")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the options on to each process of pytest-xdist."""
    node.workerinput["seed"] = node.config.stash[SEED]


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Tests print lone surrogates, which pytest-xdist cannot carry."""
    return without_surrogates((yield))


def without_surrogates(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case list():
            return [without_surrogates(each) for each in value]
        case tuple():
            return tuple(without_surrogates(each) for each in value)
        case dict():
            return {key: without_surrogates(each) for key, each in value.items()}
    return value


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    reports = (report for each in terminalreporter.stats.values() for report in each)
    told = [
        value
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == FIGURE
    ]
    if not told:
        return
    terminalreporter.section("trials")
    terminalreporter.line(f"OXIDICOM_TEST_SEED={config.stash[SEED]}")
    if config.getoption("--long"):
        for line in told:
            terminalreporter.line(str(line))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def pytest_collection_finish() -> None:
    """Thousands of tests stay until the end: no collection of garbage need look at them again."""
    gc.collect()
    gc.freeze()


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


# They end without ceremony: nothing is kept, and a run that is interrupted ends soon.


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    installed(RabbitMQ)
    with RabbitMQ(tmp_path_factory.mktemp("rabbitmq")) as broker:
        yield broker
        broker.stop(kill=True)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    installed(NatsServer)
    with NatsServer(tmp_path_factory.mktemp("nats")) as broker:
        yield broker
        broker.stop(kill=True)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    installed(RedisServer)
    with RedisServer(tmp_path_factory.mktemp("redis")) as broker:
        yield broker
        broker.stop(kill=True)


StartRedis = Callable[..., RedisServer]


@pytest.fixture
def private_redis(tmp_path: Path) -> StartRedis:
    """A server of the test's own, not started; arguments are its command line's."""
    installed(RedisServer)
    return lambda *extra: RedisServer(tmp_path / "redis", extra)
