"""`oxidicom check` against a real Redis: what it is, and in words what it would refuse."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxidicom.cli.probes import Verdict
from oxidicom.cli.probes.broker import probe_broker
from oxidicom.settings import Settings
from tests.conftest import StartRedis
from tests.support.authority import found_authority
from tests.support.brokers import RedisServer
from tests.support.ports import free_port
from tests.support.redis_lists import admin, lists
from tests.support.server_that import server_that

QUEUE = "main2"


@pytest.fixture
def server(private_redis: StartRedis) -> Iterator[RedisServer]:
    with private_redis() as server:
        yield server


def told(url: str, verdict: Verdict = Verdict.FAULT, ca: Path | None = None) -> str:
    settings = Settings(files_root=Path("/data"), broker=url, queue_name=QUEUE, broker_ca=ca)
    (finding,) = probe_broker(settings)
    assert finding.verdict is verdict, finding.text
    assert "sesame" not in finding.text
    return finding.text


def test_well(server: RedisServer) -> None:
    assert (
        told(server.url, Verdict.OK)
        == f"{server.address} accepts our login; queue main2 has 0 messages"
    )
    with admin(server, 3) as client:
        client.lpush(QUEUE, "one", "two")
    assert "queue main2 has 2 messages" in told(f"{server.url}/3", Verdict.OK)
    assert "queue main2 has 0 messages" in told(server.url, Verdict.OK)
    with admin(server, 3) as client:
        assert client.llen(QUEUE) == 2, "looking changes nothing"


def test_a_key_that_is_no_list(server: RedisServer) -> None:
    with admin(server) as client:
        client.hset(QUEUE, "a", "b")
    text = told(server.url)
    assert "not a list" in text
    assert "OXIDICOM_QUEUE_NAME" in text
    assert "OXIDICOM_CELERY_BROKER" in text


def test_logins(private_redis: StartRedis) -> None:
    with private_redis("--requirepass", "open sesame") as server:
        assert "queue main2" in told(f"redis://:open%20sesame@{server.address}", Verdict.OK)
        text = told(server.url)
        assert "wants a password" in text
        assert "OXIDICOM_CELERY_BROKER" in text
        for login in (":sesame", "default:sesame", "nobody:open%20sesame", "sesame"):
            assert "refuses this user or password" in told(f"redis://{login}@{server.address}")


def test_a_password_where_none_is(server: RedisServer) -> None:
    assert "has no password" in told(f"redis://:sesame@{server.address}")


def test_permissions(server: RedisServer) -> None:
    with admin(server) as client:
        for user, rules in (
            ("pusher", (f"~{QUEUE}", "+lpush")),
            ("other", ("~other", "+@all")),
            ("reader", ("allkeys", "+@read", "+multi", "+discard")),
        ):
            client.execute_command("ACL SETUSER", user, "on", ">sesame", *rules)
    text = told(f"redis://pusher:sesame@{server.address}", Verdict.OK)
    assert "not looked at" in text
    for user in ("other", "reader"):
        assert "does not let this user use the queue" in told(
            f"redis://{user}:sesame@{server.address}"
        )
    assert lists(server) == {}


def test_a_database_that_is_not_there(server: RedisServer) -> None:
    text = told(f"{server.url}/99")
    assert "no such database" in text
    assert "OXIDICOM_CELERY_BROKER" in text


def test_a_server_that_takes_no_writes(server: RedisServer) -> None:
    with admin(server) as client:
        client.config_set("maxmemory", "1")
        assert "no memory left" in told(server.url)
        client.config_set("maxmemory", "0")
        client.replicaof("127.0.0.1", free_port())
        assert "name the primary in OXIDICOM_CELERY_BROKER" in told(server.url)
        client.replicaof("NO", "ONE")
        assert "accepts our login" in told(server.url, Verdict.OK)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("-ERR max number of clients reached", "raise its maxclients"),
        ("-LOADING Redis is loading the dataset in memory", "still loading its data"),
        ("-MISCONF Redis is configured to save RDB snapshots, but", "cannot save to its disk"),
        ("-DENIED Redis is running in protected mode because", "set a password there"),
        ("-ERR whatever", "does not speak Redis:"),
        ("+OK", "does not speak Redis:"),
    ],
)
def test_answers(answer: str, words: str) -> None:
    def behave(connection: socket.socket) -> None:
        while heard := connection.recv(65536):
            connection.sendall(f"{answer}\r\n".encode() * heard.count(b"*"))  # one a command

    with server_that(behave) as port:
        text = told(f"redis://127.0.0.1:{port}")
    assert words in text
    assert f"127.0.0.1:{port}" in text


def test_a_cluster(private_redis: StartRedis) -> None:
    cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with private_redis(*cluster) as server:
        assert "Redis Cluster" in told(server.url)


def test_commands_that_are_gone(private_redis: StartRedis) -> None:
    with private_redis("--rename-command", "AUTH", "") as server:
        assert "does not allow the commands" in told(f"redis://:sesame@{server.address}")


def test_tls(private_redis: StartRedis, tmp_path: Path) -> None:
    ours, other = (found_authority(tmp_path / name) for name in ("ours", "other"))
    port = free_port()
    with private_redis(
        *("--tls-port", str(port), "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(ours.certificate), "--tls-key-file", str(ours.key)),
    ):
        assert "accepts our login" in told(f"rediss://localhost:{port}", Verdict.OK, ours.ca)
        for url, ca in (
            (f"rediss://localhost:{port}", None),
            (f"rediss://localhost:{port}", other.ca),
            (f"rediss://localhost:{port}?ssl_cert_reqs=none", None),
            (f"rediss://127.0.0.1:{port}", ours.ca),
        ):
            text = told(url, ca=ca)
            assert "is not trusted" in text
            assert "OXIDICOM_BROKER_CA" in text
        assert "with or without TLS" in told(f"redis://localhost:{port}", ca=ours.ca)
