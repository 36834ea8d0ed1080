"""Logins to Redis, and registrations that it refuses."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from tests.conftest import StartRedis
from tests.support.brokers import Gate, RedisServer
from tests.support.ports import free_port
from tests.support.redis_lists import LINE_ERRORS, admin, counts, lists, publisher
from tests.support.registrations import registration

TASK_ID = "3b241101-e2bb-4255-8caf-4136c566a962"


@pytest.fixture
def queue() -> str:
    return f"main2-{uuid.uuid4()}"


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def scripted(serve: Serve) -> AsyncIterator[int]:
    """Yield a port where each connection is handled by `behave` and then closed."""
    calls = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(asyncio.current_task())
        with suppress(OSError):
            await serve(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*filter(None, calls))


class TestLogin:
    async def test_a_password_in_the_url_is_used(
        self, private_redis: StartRedis, queue: str
    ) -> None:
        with private_redis("--requirepass", "p@ss/wörd:%") as server:
            url = f"redis://:p%40ss%2Fw%C3%B6rd%3A%25@{server.address}"
            async with publisher(url, queue) as ours:
                assert await ours.start()
                await ours.publish(registration(), TASK_ID)
            with admin(server, password="p@ss/wörd:%") as client:
                assert client.llen(queue) == 1

    @pytest.mark.parametrize("login", ["", ":hunter2@", "nobody:hunter2@", "hunter2@"])
    async def test_a_refused_login_is_an_error_without_the_password(
        self, private_redis: StartRedis, queue: str, login: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with private_redis("--requirepass", "sesame") as server:
            async with publisher(f"redis://{login}{server.address}", queue) as ours:
                assert not await ours.start()
                with pytest.raises(AuthenticationError) as raised:
                    await ours.publish(registration(), TASK_ID)
        assert "hunter2" not in caplog.text + str(raised.value)

    async def test_a_user_needs_no_permission_but_lpush(
        self, private_redis: StartRedis, queue: str
    ) -> None:
        with private_redis() as server, admin(server) as client:
            client.execute_command("ACL SETUSER", "ox", "on", ">sesame", f"~{queue}", "+lpush")
            async with publisher(f"redis://ox:sesame@{server.address}", queue) as ours:
                assert await ours.start()
                await ours.publish(registration(), TASK_ID)
            async with publisher(f"redis://ox:sesame@{server.address}", "other") as ours:
                with pytest.raises(ResponseError, match="permission"):
                    await ours.publish(registration(), TASK_ID)
            assert lists(server) == {queue: 1}

    async def test_a_changed_password_is_an_error_at_the_next_connection(
        self, private_redis: StartRedis, queue: str
    ) -> None:
        with private_redis() as server, admin(server) as client:
            client.execute_command("ACL SETUSER", "ox", "on", ">old", "allkeys", "+@all")
            async with publisher(f"redis://ox:old@{server.address}", queue) as ours:
                await ours.publish(registration(1), str(uuid.uuid4()))
                # Removing the user ends its connections.
                client.execute_command("ACL DELUSER", "ox")
                for _ in range(2):
                    with pytest.raises(LINE_ERRORS):
                        await ours.publish(registration(2), str(uuid.uuid4()))
                client.execute_command("ACL SETUSER", "ox", "on", ">old", "allkeys", "+@all")
                await ours.publish(registration(3), str(uuid.uuid4()))
            assert counts(server, queue) == [1, 3]


class TestRefusals:
    """A refusal is an error, and the next call connects again."""

    async def test_a_replica_refuses(self, private_redis: StartRedis, queue: str) -> None:
        with private_redis() as server, admin(server) as client:
            async with (
                Gate(server.port) as gate,
                publisher(f"redis://127.0.0.1:{gate.port}", queue) as ours,
            ):
                await ours.start()
                client.replicaof("127.0.0.1", free_port())
                with pytest.raises(ReadOnlyError):
                    await ours.publish(registration(1), TASK_ID)
                client.replicaof("NO", "ONE")
                await ours.publish(registration(2), TASK_ID)
                assert gate.accepted == 2, "the name may lead to another server now"
            assert counts(server, queue) == [2]

    async def test_a_server_without_memory_refuses(
        self, private_redis: StartRedis, queue: str
    ) -> None:
        with private_redis() as server, admin(server) as client:
            async with publisher(server.url, queue) as ours:
                client.config_set("maxmemory", "1")
                with pytest.raises(OutOfMemoryError):
                    await ours.publish(registration(1), TASK_ID)
                client.config_set("maxmemory", "0")
                await ours.publish(registration(2), TASK_ID)
            assert counts(server, queue) == [2]

    async def test_a_key_that_is_not_a_list_is_an_error(
        self, redis_server: RedisServer, queue: str
    ) -> None:
        with admin(redis_server) as client:
            client.set(queue, "something")
            async with publisher(redis_server.url, queue) as ours:
                with pytest.raises(ResponseError, match="WRONGTYPE"):
                    await ours.publish(registration(1), TASK_ID)
                client.delete(queue)
                await ours.publish(registration(2), TASK_ID)
        assert counts(redis_server, queue) == [2]

    async def test_a_server_that_is_loading_refuses(self, queue: str) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(65536):
                writer.write(b"-LOADING Redis is loading the dataset in memory\r\n")

        async with (
            scripted(serve) as port,
            publisher(f"redis://127.0.0.1:{port}", queue) as ours,
        ):
            assert not await ours.start()
            with pytest.raises(BusyLoadingError):
                await ours.publish(registration(1), TASK_ID)

    @pytest.mark.parametrize("command", ["LPUSH", "AUTH", "PING"])
    async def test_an_unknown_command_is_an_error_without_our_arguments(
        self, private_redis: StartRedis, queue: str, command: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with private_redis("--rename-command", command, "") as server:
            async with publisher(f"redis://default:hunter2@{server.address}", queue) as ours:
                await ours.start()
                with pytest.raises(ResponseError) as raised:
                    await ours.publish(registration(1), TASK_ID)
        assert "unknown command" in str(raised.value)
        reported = caplog.text + str(raised.value)
        assert "hunter2" not in reported
        assert "body" not in reported

    @pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n", b"\0" * 9])
    async def test_another_kind_of_server_is_an_error(
        self, queue: str, answer: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.append(await reader.read(65536))
            writer.write(answer)
            writer.write_eof()
            heard.append(await reader.read())

        heard: list[bytes] = []
        async with (
            scripted(serve) as port,
            publisher(f"redis://127.0.0.1:{port}", queue) as ours,
        ):
            assert not await ours.start()
            with pytest.raises(LINE_ERRORS):
                await ours.publish(registration(1), TASK_ID)
        assert heard
        assert b"LPUSH" not in b"".join(heard), "it is not Redis, so it gets no message"
