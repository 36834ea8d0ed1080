"""Seeds, sizes and figures of the trials."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import FIGURE, SEED, installed
from tests.support.brokers import Broker, RabbitMQ, RedisServer

Scale = Callable[[int, int], int]
Figures = Callable[[str], None]

LONG_TRIAL_LIMIT_S = 1800
"""Seconds that a trial may take with --long, unless its mark `long_limit` names another limit."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the long forms limits of their own: the general one is made for the short forms."""
    if not config.getoption("--long"):
        return
    for item in items:
        if item.path.parent == Path(__file__).parent:
            mark = item.get_closest_marker("long_limit")
            item.add_marker(pytest.mark.timeout(mark.args[0] if mark else LONG_TRIAL_LIMIT_S))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """The same for the same seed, whichever tests run beside."""
    seed = request.config.stash[SEED]
    print(f"OXIDICOM_TEST_SEED={seed}")
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


@pytest.fixture
def scale(long: bool, request: pytest.FixtureRequest) -> Scale:
    """The short form's number, or the long one's, of which OXIDICOM_TEST_SHARE (0 to 1) is run."""
    share = float(os.environ.get("OXIDICOM_TEST_SHARE") or 1)
    return lambda short, full: max(short, int(full * share)) if long else short


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Told at the end of the run."""
    told = request.node.user_properties
    return lambda text: told.append((FIGURE, f"{request.node.name}: {text}"))


def durable(kind: type[Broker], folder: Path) -> Broker:
    """Return a broker that keeps confirmed messages through a kill."""
    installed(kind)
    if kind is RedisServer:
        return RedisServer(folder, ("--appendonly", "yes", "--appendfsync", "always"))
    return kind(folder)


@pytest.fixture(params=[RabbitMQ, RedisServer], ids=["rabbitmq", "redis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """Not started."""
    broker = durable(request.param, tmp_path / "broker")
    yield broker
    broker.stop(kill=True)
