"""A WebSocket client made of bytes, for what a well-behaved client never sends."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from tests.daemon import RunningDaemon
from tests.within import PATIENCE_S

HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(opcode: int, data: bytes, *, fin: bool = True, masked: bool = True) -> bytes:
    """One client frame (RFC 6455 section 5.2)."""
    head = bytes([(0x80 if fin else 0) | opcode])
    bit = 0x80 if masked else 0
    if len(data) < 126:
        head += bytes([bit | len(data)])
    elif len(data) < 65_536:
        head += bytes([bit | 126]) + len(data).to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + len(data).to_bytes(8, "big")
    if not masked:
        return head + data
    mask = os.urandom(4)
    key = (mask * (len(data) // 4 + 1))[: len(data)]
    mixed = int.from_bytes(data, "big") ^ int.from_bytes(key, "big")
    return head + mask + mixed.to_bytes(len(data), "big")


class Raw:
    """A connection after the handshake."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def send(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.write(frame(TEXT, data))

    def stop_reading(self) -> None:
        self._socket.pause_reading()

    def read_on(self) -> None:
        self._socket.resume_reading()

    @property
    def _socket(self) -> asyncio.Transport:
        return cast("asyncio.Transport", self.writer.transport)

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: opcode and data. Raises `IncompleteReadError` at the end."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readexactly(2)
            length = head[1] & 0x7F
            if length >= 126:
                size = 2 if length == 126 else 8
                length = int.from_bytes(await self.reader.readexactly(size), "big")
            return head[0] & 0x0F, await self.reader.readexactly(length)

    async def text(self) -> bytes:
        """The next text message; pings and pongs are passed over."""
        while True:
            opcode, data = await self.frame()
            if opcode == TEXT:
                return data
            assert opcode in {PING, PONG}, (opcode, data)

    async def close_code(self) -> int | None:
        """Read to the close frame or to the end; messages before it are dropped."""
        try:
            while True:
                opcode, data = await self.frame()
                if opcode == CLOSE:
                    return int.from_bytes(data[:2], "big")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def ended(self) -> None:
        """Read to the end of the connection."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await self.reader.read(65_536):
                    pass
        except ConnectionError:
            pass


async def handshake(
    server: RunningDaemon, headers: str = "", *, receive_buffer: int = 0
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """Ask for an upgrade; returns the head of the answer, too."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(
        sock, ("127.0.0.1", server.daemon.port)
    )
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    writer.write(f"{HANDSHAKE}{headers}\r\n".encode())
    try:
        async with asyncio.timeout(PATIENCE_S):
            return reader, writer, await reader.readuntil(b"\r\n\r\n")
    except BaseException:
        writer.transport.abort()
        raise


@asynccontextmanager
async def raw(
    server: RunningDaemon, headers: str = "", *, receive_buffer: int = 0
) -> AsyncIterator[Raw]:
    """A raw connection that has been greeted."""
    reader, writer, answer = await handshake(
        server, headers, receive_buffer=receive_buffer
    )
    try:
        assert answer.startswith(b"HTTP/1.1 101")
        client = Raw(reader, writer)
        if "deflate" not in headers:
            assert b"connection_established" in await client.text()
        yield client
    finally:
        writer.transport.abort()
