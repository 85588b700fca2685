"""Two thousand devices in one process: a lean client that comes back as clients do.

Only as much WebSocket as the daemon speaks to it: small text frames, pings, closes.
"""

import asyncio
import base64
import os
import random
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

from tests.within import PATIENCE_S
from typelets_ws.protocol.errors import CloseCode

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
)
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A


def masked(opcode: int, payload: bytes) -> bytes:
    """A client's frame; a mask of zeros is a mask."""
    size = len(payload)
    head = bytes([opcode, 0x80 | size]) if size < 126 else b""
    head = head or bytes([opcode, 0x80 | 126]) + struct.pack("!H", size)
    return head + b"\0\0\0\0" + payload


class Crowd:
    """Devices and what became of them; times in seconds of the loop."""

    def __init__(
        self,
        port: int,
        tokens: Sequence[str],
        backoff: float,
        member: "Callable[[Crowd, str], Member] | None" = None,
    ) -> None:
        self._member = member or Member
        self.port = port
        self.tokens = tokens
        self.backoff = backoff
        self.rng = random.Random(7)
        self.open = 0
        self.empty = asyncio.Event()
        self.authenticated = 0
        self.closes: Counter[int | None] = Counter()
        self.closed_at: list[float] = []
        self.away: list[float] = []
        """How long each was away that came back."""
        self.trouble: Counter[str] = Counter()
        self.messages: Counter[bytes] = Counter()
        self.ended = False
        self.members: list[Member] = []

    async def enter(self, count: int) -> None:
        for index in range(count):
            member = self._member(self, self.tokens[index % len(self.tokens)])
            self.members.append(member)
            await member.connect()

    def leave(self) -> None:
        self.ended = True
        for member in self.members:
            member.leave()


class Member(asyncio.Protocol):
    """One device."""

    def __init__(self, crowd: Crowd, token: str) -> None:
        self._crowd = crowd
        self._auth = masked(TEXT, b'{"type":"auth","token":"%s"}' % token.encode())
        self._loop = asyncio.get_running_loop()
        self._gone_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        self._buffer = b""
        self._upgraded = self._in = False
        self._code: int | None = None
        try:
            await self._loop.create_connection(
                lambda: self, "127.0.0.1", self._crowd.port
            )
        except OSError as exc:
            self._crowd.trouble[type(exc).__name__] += 1
            self._come_back()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not registered as asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._crowd.open += 1
        self._crowd.empty.clear()
        key = base64.b64encode(os.urandom(16))
        self._transport.write(HANDSHAKE + key + b"\r\n\r\n")
        if self._crowd.ended:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._crowd.trouble[head.split(b"\r\n")[0].decode()] += 1
                self._write_close()
                return
            self._upgraded = True
            self._buffer = rest
            self._write(self._auth)
        while self._frame():
            pass

    def _frame(self) -> bool:
        data = self._buffer
        if len(data) < 2:
            return False
        size, start = data[1], {126: 4, 127: 10}.get(data[1], 2)
        if len(data) < start:
            return False
        if start > 2:
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            return False
        payload, self._buffer = data[start : start + size], data[start + size :]
        if data[0] == PING:
            self._write(masked(PONG, payload))
        elif data[0] == CLOSE:
            self._code = int.from_bytes(payload[:2], "big")
            self._write(masked(CLOSE, payload[:2]))
            self._write_close()
        elif data[0] == TEXT:
            self._message(payload)
        return True

    def _message(self, payload: bytes) -> None:
        crowd = self._crowd
        if payload.startswith(b'{"type":"auth_success"'):
            self._in = True
            crowd.authenticated += 1
            if self._gone_at is not None:
                crowd.away.append(self._loop.time() - self._gone_at)
        else:
            crowd.messages[payload[:40]] += 1

    def connection_lost(self, exc: Exception | None) -> None:
        crowd = self._crowd
        if self._in:
            self._gone_at = self._loop.time()
            crowd.authenticated -= 1
        crowd.open -= 1
        if not crowd.open:
            crowd.empty.set()
        crowd.closes[self._code] += 1
        if self._code == CloseCode.RESTARTING:
            crowd.closed_at.append(self._loop.time())
        self._come_back()

    def _come_back(self) -> None:
        if not self._crowd.ended:
            pause = self._crowd.backoff * self._crowd.rng.uniform(0.5, 1)
            self._timer = self._loop.call_later(pause, self._again)

    def _again(self) -> None:
        task = self._loop.create_task(self.connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _write_close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@asynccontextmanager
async def crowd(
    port: int,
    tokens: Sequence[str],
    count: int,
    backoff: float = 1.0,
    member: "Callable[[Crowd, str], Member] | None" = None,
) -> AsyncIterator[Crowd]:
    """`count` devices, over these tokens in turn, that have begun to authenticate.

    `backoff`: the longest pause before a lost device comes back; half of it the
    shortest.
    """
    made = Crowd(port, tokens, backoff, member)
    try:
        await made.enter(count)
        yield made
    finally:
        made.leave()
        async with asyncio.timeout(PATIENCE_S):
            await made.empty.wait()
