"""TLS to Redis: always verified (decision 2)."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from oxidicom.notify import redis
from tests.conftest import StartRedis
from tests.support.authority import Authority, found_authority
from tests.support.brokers import RedisServer
from tests.support.ports import free_port
from tests.support.redis_lists import LINE_ERRORS, counts, lists, publisher
from tests.support.registrations import registration

TASK_ID = "3b241101-e2bb-4255-8caf-4136c566a962"


@pytest.fixture
def queue() -> str:
    return f"main2-{uuid.uuid4()}"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return found_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return found_authority(tmp_path_factory.mktemp("authority"))


def with_tls(private_redis: StartRedis, authority: Authority) -> tuple[RedisServer, int]:
    """Return a server, not started, and the port on which it will speak TLS."""
    port = free_port()
    server = private_redis(
        *("--tls-port", str(port), "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(authority.certificate), "--tls-key-file", str(authority.key)),
    )
    return server, port


class TestTls:
    @pytest.fixture
    def secure(self, private_redis: StartRedis, authority: Authority) -> tuple[RedisServer, int]:
        return with_tls(private_redis, authority)

    @pytest.mark.both_loops
    async def test_a_private_authority_is_trusted(
        self, secure: tuple[RedisServer, int], authority: Authority, queue: str
    ) -> None:
        server, port = secure
        with server:
            async with publisher(f"rediss://localhost:{port}", queue, authority.ca) as ours:
                assert await ours.start()
                await ours.publish(registration(1), TASK_ID)
            assert counts(server, queue) == [1]

    async def test_a_private_authority_without_key_usage_is_trusted(
        self, private_redis: StartRedis, tmp_path: Path, queue: str
    ) -> None:
        """Python 3.13 would refuse it, were it not named by the operator."""
        authority = found_authority(tmp_path / "authority", key_usage=False)
        server, port = with_tls(private_redis, authority)
        with server:
            async with publisher(f"rediss://localhost:{port}", queue, authority.ca) as ours:
                await ours.publish(registration(1), TASK_ID)
            assert counts(server, queue) == [1]

    async def test_the_trust_store_of_the_system_is_used(
        self,
        secure: tuple[RedisServer, int],
        authority: Authority,
        queue: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        server, port = secure
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        with server:
            async with publisher(f"rediss://localhost:{port}", queue) as ours:
                await ours.publish(registration(1), TASK_ID)
            assert counts(server, queue) == [1]

    @pytest.mark.parametrize(
        "careless",
        [
            "",
            "?ssl_cert_reqs=none",
            "?ssl_check_hostname=false&ssl_cert_reqs=CERT_NONE",
            "?ssl_ca_certs=/dev/null",
        ],
    )
    async def test_the_url_cannot_turn_verification_off(
        self, secure: tuple[RedisServer, int], queue: str, careless: str
    ) -> None:
        server, port = secure
        with server:
            async with publisher(f"rediss://localhost:{port}/0{careless}", queue) as ours:
                with pytest.raises(LINE_ERRORS, match="CERTIFICATE_VERIFY_FAILED"):
                    await ours.publish(registration(1), TASK_ID)
            assert lists(server) == {}

    async def test_a_private_authority_replaces_the_trust_store(
        self,
        secure: tuple[RedisServer, int],
        authority: Authority,
        other_authority: Authority,
        queue: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        server, port = secure
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        with server:
            async with publisher(f"rediss://localhost:{port}", queue, other_authority.ca) as ours:
                with pytest.raises(LINE_ERRORS, match="CERTIFICATE_VERIFY_FAILED"):
                    await ours.publish(registration(1), TASK_ID)

    async def test_a_certificate_of_another_name_is_an_error(
        self, secure: tuple[RedisServer, int], authority: Authority, queue: str
    ) -> None:
        server, port = secure
        with server:  # it is localhost's
            async with publisher(f"rediss://127.0.0.1:{port}", queue, authority.ca) as ours:
                with pytest.raises(LINE_ERRORS, match="CERTIFICATE_VERIFY_FAILED"):
                    await ours.publish(registration(1), TASK_ID)

    async def test_a_server_without_tls_gets_nothing_in_plain_text(
        self, private_redis: StartRedis, queue: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis, "REDIS_CONNECT_TIMEOUT_S", 0.5)
        with private_redis() as server:
            async with publisher(f"rediss://{server.address}", queue) as ours:
                with pytest.raises((*LINE_ERRORS, TimeoutError)):
                    await ours.publish(registration(1), TASK_ID)
            assert lists(server) == {}
