"""Opens connections to Redis: URL, TLS, unix socket, AUTH and SELECT by redis-py.

Invariant: a connection that `open` returns led to a server of the expected kind, and
to a master unless replicas are allowed. redis-py connects; then the transport is handed
to a `RedisConnection`. redis-py's PubSub would reconnect silently and costs 12-16 µs
more per message. Tested by tests/integration/redis/test_errors.py.
"""

import asyncio
from typing import Any

from redis._parsers import _AsyncRESP2Parser
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from ..config.redis_address import Node
from .connection import RedisConnection
from .dialled import dialled
from .role import Mode, NotMasterError, role_error

__all__ = ["RedisConnector", "close_connection", "node_name"]


class RedisConnector:
    """Opens connections with the options of `url`, as redis-py reads it.

    `timeout` limits one attempt, in seconds. Raises ValueError or TypeError.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        mode: Mode = Mode.SERVER,
        *,
        replica_allowed: bool = False,
    ) -> None:
        self._timeout = timeout
        self._mode = mode
        self._replica_allowed = replica_allowed
        # Three defaults of redis-py leave a connection in reference cycles, and the
        # collector of a daemon runs rarely: maintenance notifications (which need
        # RESP3), CLIENT SETINFO (an error before Redis 7.2), the parser over hiredis.
        self._pool = ConnectionPool.from_url(
            url, maint_notifications_config=MaintNotificationsConfig(enabled=False)
        )
        self._pool.connection_class = dialled(self._pool.connection_class)
        self._pool.connection_kwargs.update(
            protocol=2,
            decode_responses=False,
            socket_connect_timeout=timeout,
            # With one, redis-py writes through `asyncio.wait_for`, which loses a
            # cancellation that comes at the wrong moment (Python 3.11).
            socket_timeout=None,
            # `Reconnector` tries again, and reports why the last attempt failed.
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
            parser_class=_AsyncRESP2Parser,
        )
        self._pool.connection_kwargs.setdefault("client_name", "typelets-ws")
        self._make(None)

    async def open(
        self, protocol: RedisConnection[Any], node: Node | None = None
    ) -> AbstractConnection:
        """Connect to `node` (default: the URL's), log in, hand over the transport.

        Returns what must be kept while `protocol` is open and then be given to
        `close_connection`. Raises redis-py's errors, TimeoutError, or `NotMasterError`.
        """
        connection = self._make(node)
        protocol.node = node_name(connection)
        await self._connect(connection)
        try:
            # The one private name of redis-py that is used here: it has no public one.
            writer = connection._writer
            if writer is None or writer.transport.is_closing():
                raise ConnectionError("closed during the handshake")
            protocol.connection_made(writer.transport)
            writer.transport.set_protocol(protocol)
        except BaseException:
            await close_connection(connection)
            raise
        return connection

    async def ask(self, node: Node | None, *commands: str) -> list[Any]:
        """Return the replies to commands on a connection of its own.

        An error reply is a `ResponseError` in the list. Raises as `open` does.
        """
        connection = self._make(node)
        await self._connect(connection)
        try:
            async with asyncio.timeout(self._timeout):
                replies = []
                for command in commands:
                    await connection.send_command(*command.split())
                    replies.append(await _read(connection))
                return replies
        finally:
            await close_connection(connection)

    async def _connect(self, connection: AbstractConnection) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
                await self._check_role(connection)
        except BaseException:
            await close_connection(connection)
            raise

    async def _check_role(self, connection: AbstractConnection) -> None:
        await connection.send_command("HELLO")
        reply = await _read(connection)
        error = role_error(reply, self._mode, replica_allowed=self._replica_allowed)
        if error:
            raise NotMasterError(f"{node_name(connection)}: {error}")

    def _make(self, node: Node | None) -> AbstractConnection:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        if node is not None:
            connection.host, connection.port = node  # type: ignore[attr-defined]
        return connection


async def close_connection(connection: AbstractConnection) -> None:
    """Close without waiting for the peer."""
    await connection.disconnect(nowait=True)


async def _read(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as exc:
        return exc.with_traceback(None)


def node_name(connection: AbstractConnection) -> str:
    """`host:port`, or the path of the socket."""
    path = getattr(connection, "path", None)
    if path is not None:
        return str(path)
    return f"{getattr(connection, 'host', '')}:{getattr(connection, 'port', '')}"
