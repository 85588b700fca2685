"""Hostile clients: bytes, junk, floods, and more devices than a user may have.

They come from an address of their own, and must cost other clients nothing.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from websockets.asyncio.client import ClientConnection, connect
from websockets.protocol import State

from tests.chaos.devices import LOST
from tests.chaos.world import DEVICES, World
from tests.tokens import mint

__all__ = ["hostile"]

HOSTILE = "127.0.0.2"


def _connected(port: int) -> connect:
    return connect(f"ws://127.0.0.1:{port}/", max_queue=None, local_addr=(HOSTILE, 0))


async def hostile(world: World, rng: random.Random) -> None:
    """Misbehave in a random way, again and again, until cancelled."""
    while True:
        port = rng.choice(world.daemons).port
        try:
            async with asyncio.timeout(5):
                if rng.randrange(6) == 0:
                    await _many(world, port)
                else:
                    await rng.choice(ATTACKS)(port, rng)
        except LOST:
            await asyncio.sleep(0.05)
        await asyncio.sleep(rng.uniform(0.0, 0.2))


@asynccontextmanager
async def _socket(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, local_addr=(HOSTILE, 0)
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _bytes(port: int, rng: random.Random) -> None:
    async with _socket(port) as (reader, writer):
        writer.write(rng.randbytes(rng.randrange(1, 5_000)))
        await writer.drain()
        await reader.read(1_000)


async def _half_a_handshake(port: int, rng: random.Random) -> None:
    async with _socket(port) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nUpgr")
        await asyncio.sleep(rng.uniform(0.0, 1.0))


async def _junk_messages(port: int, rng: random.Random) -> None:
    async with _connected(port) as socket:
        for _ in range(rng.randrange(1, 200)):
            await socket.send(rng.choice(JUNK))


async def _flood(port: int, rng: random.Random) -> None:
    token = mint(f"user_h{rng.randrange(3)}")
    async with _connected(port) as socket:
        await socket.send(json.dumps({"type": "auth", "token": token}))
        for _ in range(rng.randrange(100, 1_000)):
            await socket.send('{"type":"ping"}')
        socket.transport.abort()


async def _too_large(port: int, rng: random.Random) -> None:
    async with _connected(port) as socket:
        await socket.send("x" * rng.randrange(60_000, 200_000))
        await socket.recv()


async def _many(world: World, port: int) -> None:
    """More devices of one user than a user may have, all at one daemon."""
    token = mint("user_h9", expires_in=600)
    sockets, admitted = list[ClientConnection](), list[ClientConnection]()
    try:
        for _ in range(25):
            socket = await _connected(port)
            sockets.append(socket)
            await socket.send(json.dumps({"type": "auth", "token": token}))
        for socket in sockets:
            answers = [json.loads(await socket.recv()) for _ in range(2)]
            if answers[1]["type"] == "auth_success":
                admitted.append(socket)
        open_ones = [one for one in admitted if one.state is State.OPEN]
        # A reload raises the limit by up to two.
        if len(open_ones) > DEVICES + 2:
            world.violated(f"{len(open_ones)} devices of one user at one daemon")
    finally:
        for socket in sockets:
            socket.transport.abort()


JUNK: list[str | bytes] = [
    "", "{", "[]", "null", '{"type":"auth"}', '{"type":"auth","token":"x.y.z"}',
    '{"type":"note_update","noteId":"x"}', '{"type":1}', "\ud7ff", '{"a":' * 500,
    '{"payload":{},"signature":"x","timestamp":1,"nonce":"n"}', b"\0\1\2",
]  # fmt: skip
ATTACKS = [_bytes, _half_a_handshake, _junk_messages, _flood, _too_large]
