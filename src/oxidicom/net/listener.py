"""The listening sockets and their connections: admission, time limits, draining."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import resource
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from oxidicom.buffers import BufferPool
from oxidicom.errors import AssociationRejectedError, OperatorError
from oxidicom.logevents import event
from oxidicom.net.connection_state import ConnectionState
from oxidicom.net.peers import Peers
from oxidicom.net.protocol import AssociationProtocol
from oxidicom.net.shared_port import ConnectionCounts, SharedPort
from oxidicom.net.timeouts import TimeLimits
from oxidicom.net.tls import HANDSHAKE_BYTES, TlsTransport
from oxidicom.ports import InstanceStore, Reports
from oxidicom.wire.negotiation import Policy

logger = logging.getLogger("oxidicom.net")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LISTEN_BACKLOG: Final = 1024
"""Greatest number of connections to a socket that the kernel queues until we accept them."""

DRAIN_SILENCE_S: Final = 2.0
"""Seconds without a byte after which an association is aborted during the drain (decision 38)."""

MAX_REQUEST_MEMORY_BYTES: Final = 32 * 1024 * 1024
"""Greatest number of bytes of incomplete A-ASSOCIATE-RQs and TLS handshakes of all connections
together. A real request has some 20 KiB at most, but many connections may each send hundreds of KiB
slowly (promise 5)."""


def max_connections() -> int:
    """Return the greatest number of connections: three quarters of the limit of file handles.

    The rest is for files. Without a limit the number is 1048576.
    """
    handles, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, handles // 4 * 3) if handles != resource.RLIM_INFINITY else 1 << 20


def cannot_listen(host: str, port: int, error: OSError, *, tls: bool = False) -> OperatorError:
    variable = "OXIDICOM_TLS_PORT" if tls else "OXIDICOM_LISTENER_PORT"
    return OperatorError(
        f"cannot listen on {host} port {port}: {error.strerror or error}; set "
        f"{variable} to a free port and OXIDICOM_LISTENER_HOST to an address of this machine"
    )


class Secure(Protocol):
    """Provides the TLS context for new connections; it may change between two of them."""

    @property
    def context(self) -> ssl.SSLContext: ...


class Listener:
    """Accepts connections on its ports, each in plain text or with TLS.

    `store`, `reports` and `on_bug` are called on the loop's thread. `clock` returns seconds.
    `max_associations` limits all associations, and `max_associations_per_peer` those of one address
    (0: no limit); with the `counts` of a Scoreboard both limits apply to all processes together.
    `request_memory` None means MAX_REQUEST_MEMORY_BYTES.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        limits: TimeLimits,
        pool: BufferPool,
        store: InstanceStore,
        reports: Reports,
        max_associations: int,
        max_associations_per_peer: int = 0,
        counts: ConnectionCounts | None = None,
        request_memory: int | None = None,
        allowed_networks: Sequence[Network] = (),
        on_bug: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self.limits = limits
        self.pool = pool
        self.store = store
        self.reports = reports
        self.on_bug = on_bug
        self.clock = clock
        self._loop = asyncio.get_running_loop()
        self._waiting_turns: deque[Callable[[], None]] = deque()
        self._max_associations = max_associations
        self._counts = ConnectionCounts() if counts is None else counts
        self._peers = (
            Peers(max_associations_per_peer, self._counts.peer_table)
            if max_associations_per_peer
            else None
        )
        self._request_memory = (
            MAX_REQUEST_MEMORY_BYTES if request_memory is None else request_memory
        )
        self._allowed_networks = tuple(allowed_networks)
        self._max_connections = max_connections()
        # Connections, oldest first.
        self._connections: dict[AssociationProtocol, None] = {}
        self._established: set[AssociationProtocol] = set()
        # Bytes of incomplete requests by connection, oldest first.
        self._requests: dict[AssociationProtocol, int] = {}
        self._request_bytes = 0
        self._all_closed = asyncio.Event()
        self._servers: list[asyncio.Server | SharedPort] = []
        self._ticker: asyncio.Task[None] | None = None
        self._draining = False
        self._closed = False

    # ---- start and stop ------------------------------------------------------------------

    async def start(self, host: str, port: int, secure: Secure | None = None) -> int:
        """Listen, with TLS if `secure` is given, and return the port.

        Call it once for each port. Raises OperatorError if it cannot listen.
        """
        try:
            server = await self._bind(host, port, self._maker(secure))
        except OSError as error:
            raise cannot_listen(host, port, error, tls=secure is not None) from error
        self._begin(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    def join(self, port: SharedPort, secure: Secure | None = None) -> None:
        """Accept connections at a port on which other processes listen too."""
        port.open(self._maker(secure))
        self._begin(port)

    def _begin(self, server: asyncio.Server | SharedPort) -> None:
        self._servers.append(server)
        if self._ticker is None:
            self._ticker = asyncio.create_task(self._tick())

    async def _bind(
        self, host: str, port: int, make: Callable[[], asyncio.BaseProtocol]
    ) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if host == "::" and socket.has_dualstack_ipv6():
            # For this host `create_server` of a loop would make a socket for IPv6 only.
            both = socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
            return await loop.create_server(make, sock=both, backlog=LISTEN_BACKLOG)
        return await loop.create_server(
            make, host, port, backlog=LISTEN_BACKLOG, reuse_address=True
        )

    def _maker(self, secure: Secure | None) -> Callable[[], asyncio.BaseProtocol]:
        if secure is None:
            return lambda: AssociationProtocol(self)
        cipher_buffer = memoryview(bytearray(self.pool.size))
        # Room for the handshakes of as many peers as may associate at once.
        self._request_memory += self._max_associations * HANDSHAKE_BYTES

        def make() -> TlsTransport:
            connection = AssociationProtocol(self)
            return TlsTransport(
                connection,
                lambda: secure.context,
                cipher_buffer,
                lambda: self.receiving_request(connection, HANDSHAKE_BYTES),
            )

        return make

    async def stop_accepting(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def drain(self, timeout: float, extra: float) -> None:
        """Let associations that send continue for `timeout` seconds; return when all are closed.

        An association is aborted when its peer has sent nothing for DRAIN_SILENCE_S and does not
        wait for us. After `timeout` each of the others is aborted as soon as its instance in flight
        is answered, and at the latest `extra` seconds later.
        """
        self._draining = True
        deadline = self.clock() + timeout
        while self._connections:
            now = self.clock()
            if now >= deadline + extra:
                break
            for connection in list(self._connections):
                self._drain_one(connection, now, over=now >= deadline)
            self._all_closed.clear()
            if self._connections:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._all_closed.wait(), 0.1)
        await self.close()

    def _drain_one(self, connection: AssociationProtocol, now: float, *, over: bool) -> None:
        silent = connection.silent_for(now) >= DRAIN_SILENCE_S
        if connection.state is ConnectionState.UNASSOCIATED:
            connection.kill()
        elif connection.state.is_associated:
            if silent and not connection.awaits_us:
                connection.abort("shutting down")
            elif over:
                connection.abort_when_at_rest("shutting down")
        elif silent:
            connection.kill()

    async def close(self) -> None:
        """Abort every connection and return once all are closed."""
        self._closed = True
        await self.stop_accepting()
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker
            self._ticker = None
        for connection in list(self._connections):
            connection.kill()
        while self._connections:
            self._all_closed.clear()
            await self._all_closed.wait()

    async def _tick(self) -> None:
        period = max(0.05, min(1.0, *(limit / 4 for limit in self.limits)))
        while True:
            await asyncio.sleep(period)
            now = self.clock()
            for connection in list(self._connections):
                try:
                    connection.check(now)
                except Exception as error:
                    self.on_bug(error)
                    connection.kill()

    # ---- what connections call -----------------------------------------------------------

    def defer(self, call: Callable[[], None], *, first: bool) -> None:
        """Queue `call`, at the front if `first`; each iteration of the loop makes one queued call.

        More in one iteration would let the long turns of many connections delay all others
        (promise 6).
        """
        if first:
            self._waiting_turns.appendleft(call)
        else:
            self._waiting_turns.append(call)
        if len(self._waiting_turns) == 1:
            self._loop.call_soon(self._give_turn)

    def _give_turn(self) -> None:
        call = self._waiting_turns.popleft()
        if self._waiting_turns:
            self._loop.call_soon(self._give_turn)
        call()

    def opened(self, connection: AssociationProtocol) -> None:
        self._connections[connection] = None
        self._counts.connections = len(self._connections)
        if self._closed:
            # It was accepted before `close`, and the loop reports it only now.
            connection.kill()
        if self._peers is not None and not self._peers.connected(connection.peer[0]):
            # Not logged: a flood of connections must not fill the log.
            connection.kill()
        elif len(self._connections) > self._max_connections:
            self._evict()

    def _evict(self) -> None:
        """Kill the oldest connection that has not associated: idle connections must not use up the
        file handles that instances need (decision 8)."""
        for connection in self._connections:
            if connection.state is ConnectionState.UNASSOCIATED:
                connection.kill()
                return

    def receiving_request(self, connection: AssociationProtocol, nbytes: int) -> None:
        self._requests[connection] = self._requests.get(connection, 0) + nbytes
        self._request_bytes += nbytes
        while self._request_bytes > self._request_memory:
            oldest = next(iter(self._requests))
            self._request_over(oldest)
            oldest.kill()

    def _request_over(self, connection: AssociationProtocol) -> None:
        self._request_bytes -= self._requests.pop(connection, 0)

    def associated(self, connection: AssociationProtocol) -> None:
        self._request_over(connection)
        self._established.add(connection)
        if self._peers is not None:
            self._peers.associated(connection.peer[0])
        self._counts.associations = len(self._established)

    def ended(self, connection: AssociationProtocol) -> None:
        self._request_over(connection)
        if self._peers is not None:
            if connection in self._established:
                self._peers.ended(connection.peer[0])
            else:
                self._peers.not_associated(connection.peer[0])
        self._established.discard(connection)
        self._counts.associations = len(self._established)

    def closed(self, connection: AssociationProtocol) -> None:
        self.ended(connection)
        self._connections.pop(connection, None)
        if self._peers is not None:
            self._peers.disconnected(connection.peer[0])
        self._counts.connections = len(self._connections)
        if not self._connections:
            self._all_closed.set()

    def admit(self, peer_address: str) -> None:
        """Raise AssociationRejectedError (PS3.8 table 9-21) for reasons outside of the request."""
        # Publish first, then compare, so that two processes never both take the last place; if
        # no association follows, `ended` corrects the number.
        self._counts.associations = len(self._established) + 1
        if self._draining or self._counts.all_associations > self._max_associations:
            raise AssociationRejectedError(2, 3, 2, "local limit of associations exceeded")
        if self._peers is not None and not self._peers.may_associate(peer_address):
            raise AssociationRejectedError(2, 3, 2, "peer's limit of associations exceeded")
        if self._allowed_networks and not self._is_allowed(peer_address):
            event(
                logger,
                logging.WARNING,
                "peer network not allowed; association rejected",
                peer=peer_address,
            )
            raise AssociationRejectedError(1, 1, 3, "peer network not allowed")

    def _is_allowed(self, peer_address: str) -> bool:
        try:
            address = ipaddress.ip_address(peer_address.partition("%")[0])
        except ValueError:  # the peer disconnected before its address was read
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._allowed_networks)
