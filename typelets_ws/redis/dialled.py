"""redis-py's connections over a socket that `dial` has connected.

Invariant: the host name, not the address, is what TLS verifies.
`_connect` and `_connection_arguments` are private names of redis-py;
tests/integration/redis/test_dial.py fails when they are gone.
"""

from collections.abc import Mapping
from math import inf
from socket import socket
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection

from .dial import dial

__all__ = ["dialled"]


class _DialledConnection(Connection):
    _socket: socket

    async def _connect(self) -> None:
        self._socket = await _dial(self)
        await super()._connect()  # type: ignore[no-untyped-call]

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {"sock": self._socket}


class _DialledSSLConnection(SSLConnection):
    _socket: socket

    async def _connect(self) -> None:
        self._socket = await _dial(self)
        await super()._connect()  # type: ignore[no-untyped-call]

    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments = super()._connection_arguments()
        tls = arguments["ssl"]
        return {"sock": self._socket, "ssl": tls, "server_hostname": self.host}


async def _dial(connection: Connection) -> socket:
    timeout_s = connection.socket_connect_timeout
    return await dial(
        connection.host, connection.port, inf if timeout_s is None else timeout_s
    )


def dialled(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """The class to use in place of redis-py's own."""
    if kind is SSLConnection:
        return _DialledSSLConnection
    return _DialledConnection if kind is Connection else kind
