"""The least that a handshake with authentication takes: what it must wait for.

Sends as many bytes as the daemon, and does for each device what cannot be left out:
the RSA arithmetic, a subscription, a place (both asked of Redis, one after the other,
in the daemon's own commands), and giving the place back. It looks at nothing else: no
header, no claim, no limit, no error; nothing is remembered or counted.
"""

import asyncio
import gc
import itertools
import os
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import RSAAlgorithm

from typelets_ws.protocol import messages
from typelets_ws.redis.acquire import ACQUIRE, ACQUIRE_SHA
from typelets_ws.redis.connection import RedisConnection, pack
from typelets_ws.redis.connector import RedisConnector, close_connection
from typelets_ws.wire.frames import Frame

__all__ = ["gate"]

RS256 = RSAAlgorithm(RSAAlgorithm.SHA256)
TOKEN = b'"token":"'
OPENED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n" % bytes(28)
) + Frame(messages.encode(messages.ConnectionEstablished())).plain
WELCOME = Frame(
    messages.encode(
        messages.AuthSuccess(
            userId="user_1", sessionSecret="0" * 64, connectionId="0" * 16
        )
    )
).plain


class _Replies(RedisConnection[Callable[[], None]]):
    def received(self, reply: Any) -> None:
        """Resume the waiting tasks."""
        self.waiting.popleft()[1]()

    def ask(self, then: Callable[[], None], *args: bytes | str | int) -> None:
        """Send a command; `then` is called after the reply."""
        self.write(pack(*args))
        self.expect(then)


@dataclass
class _Shared:
    key: RSAPublicKey
    prefix: bytes
    events: _Replies
    commands: _Replies
    numbers: Iterator[int]


class _Gate(asyncio.Protocol):
    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._user = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted."""
        self._fd = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        """One whole request, or one whole `auth` under a mask of zeros."""
        if data.startswith(b"GET "):
            os.write(self._fd, OPENED)
            return
        token = data[data.index(TOKEN) + len(TOKEN) : -2]
        signed, _, signature = token.rpartition(b".")
        shared = self._shared
        if RS256.verify(signed, shared.key, urlsafe_b64decode(signature + b"==")):
            self._user = b"%suser:%d" % (shared.prefix, next(shared.numbers))
            shared.events.ask(self._subscribed, b"SUBSCRIBE", self._user)

    def _subscribed(self) -> None:
        keys = (1, self._user + b":devices", self._shared.prefix, b"0" * 33, 100)
        self._shared.commands.ask(
            self._placed, b"EVALSHA", ACQUIRE_SHA, *keys, self._user + b":barred", 3600
        )

    def _placed(self) -> None:
        os.write(self._fd, WELCOME)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if self._user:
            key = self._user + b":devices"
            self._shared.commands.ask(lambda: None, b"SREM", key, b"0" * 33)


async def gate(
    prefix: str, redis_url: str, pem: str, announce: Callable[[int], None]
) -> None:
    """Serve until killed."""
    redis, timeout = RedisConnector(redis_url, 5.0), 5.0
    events, commands = _Replies(timeout), _Replies(timeout)
    key = cast("RSAPublicKey", load_pem_public_key(pem.encode()))
    shared = _Shared(key, prefix.encode(), events, commands, itertools.count())
    async with AsyncExitStack() as stack:
        for link in (events, commands):
            stack.push_async_callback(close_connection, await redis.open(link))
        commands.ask(lambda: None, b"SCRIPT", b"LOAD", ACQUIRE)
        server = await asyncio.get_running_loop().create_server(
            lambda: _Gate(shared), "127.0.0.1", 0, backlog=4096
        )
        gc.freeze()
        gc.disable()
        announce(server.sockets[0].getsockname()[1])
        await server.serve_forever()
