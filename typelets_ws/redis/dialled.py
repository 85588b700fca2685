"""redis-py's connections over a socket that `dial` has connected.

Invariants. The host name, not the address, is what TLS verifies. From the first byte
on, `transport` is the one that ends the connection at once: a handshake of TLS that is
cancelled, and a TLS connection that is closed politely, would leave it open for up to
30 s. `_connect`, `_reader` and `_writer` are private names of redis-py;
tests/integration/redis/test_dial.py fails when they are gone.
"""

import asyncio
import socket
from collections.abc import Mapping
from math import inf
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection

from .dial import dial
from .tls_context import SharedContext

__all__ = ["dialled"]


class _DialledConnection(Connection):
    transport: asyncio.Transport | None = None

    async def _connect(self) -> None:
        limit = self.socket_connect_timeout
        async with asyncio.timeout(limit):
            sock = await dial(self.host, self.port, inf if limit is None else limit)
            self.transport = None
            try:
                self._set_options(sock)
                await self._open(sock)
            except BaseException:
                self._abandon(sock)
                raise

    def _set_options(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.socket_keepalive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            options = cast("Mapping[int, int]", self.socket_keepalive_options)
            for option, value in options.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def _abandon(self, sock: socket.socket) -> None:
        if self.transport is None:
            sock.close()
        self._abort()

    async def disconnect(self, *args: Any, **options: Any) -> None:
        """Close without waiting for the peer: every reply that counts was awaited."""
        self._abort()
        await super().disconnect(*args, **options)

    def _abort(self) -> None:
        transport, self.transport = self.transport, None
        # Once: asyncio of Python 3.11.2 fails for a TLS transport closed meanwhile.
        if transport is not None:
            transport.abort()

    async def _open(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport = await self._wrapped(sock, protocol)
        self._reader = reader
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _wrapped(
        self, sock: socket.socket, protocol: asyncio.Protocol
    ) -> asyncio.Transport:
        """The transport of `protocol`, which is connected."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
        self.transport = transport
        return transport


class _DialledSSLConnection(SSLConnection, _DialledConnection):
    shared_context: SharedContext

    async def _wrapped(
        self, sock: socket.socket, protocol: asyncio.Protocol
    ) -> asyncio.Transport:
        raw = await super()._wrapped(sock, asyncio.Protocol())
        context = self.shared_context.get(self.ssl_context)
        transport = await asyncio.get_running_loop().start_tls(
            raw, protocol, context, server_hostname=self.host
        )
        assert transport is not None
        self.transport = transport
        protocol.connection_made(transport)
        return transport


def dialled(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """The class to use in place of redis-py's own, for the connections of one pool."""
    if kind is SSLConnection:

        class TlsConnection(_DialledSSLConnection):
            shared_context = SharedContext()

        return TlsConnection
    return _DialledConnection if kind is Connection else kind
