"""Opens connections to Redis: URL, TLS, unix socket, AUTH and SELECT by redis-py.

redis-py connects; then the transport is handed to a `RedisConnection`. Its
PubSub would reconnect silently and costs 12-16 µs more per message.
"""

import asyncio
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from .connection import RedisConnection, _check_role
from .connections import dialled

__all__ = ["RedisConnector"]


class RedisConnector:
    """Where Redis is. `url` as redis-py reads it; raises ValueError or TypeError."""

    def __init__(self, url: str, connect_timeout: float) -> None:
        self._timeout = connect_timeout
        self._pool = ConnectionPool.from_url(url)
        self._pool.connection_class = dialled(self._pool.connection_class)
        self._pool.connection_kwargs.update(
            protocol=2,
            decode_responses=False,
            socket_connect_timeout=connect_timeout,
            # With one, redis-py writes through `asyncio.wait_for`, which loses a
            # cancellation that comes at the wrong moment (Python 3.11).
            socket_timeout=None,
            # `Reconnector` tries again, and reports why the last attempt failed.
            retry=Retry(NoBackoff(), 0),
        )
        self._pool.connection_kwargs.setdefault("client_name", "typelets-ws")
        self._make()

    async def open(
        self, connection_protocol: RedisConnection[Any]
    ) -> AbstractConnection:
        """Connect, log in and hand the transport to `link`.

        Returns what must be kept while the link lives and then given to `close`.
        Raises what redis-py raises, TimeoutError, or `NotAMaster`.
        """
        connection = self._make()
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
                await _check_role(connection)
            # The one private name of redis-py that is used: it has no public one.
            writer = connection._writer
            if writer is None or writer.transport.is_closing():
                raise ConnectionError("closed during the handshake")
            connection_protocol.connection_made(writer.transport)
            writer.transport.set_protocol(connection_protocol)
        except BaseException:
            await self.close(connection)
            raise
        return connection

    async def close(self, connection: AbstractConnection) -> None:
        """Let go of a connection; never waits for the peer."""
        await connection.disconnect(nowait=True)

    def _make(self) -> AbstractConnection:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        return connection
