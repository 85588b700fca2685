"""A client gets the same bytes, written to the descriptor or through the transport."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from typelets_ws.config.model import Config, Limits
from typelets_ws.websocket.flush_queue import FlushQueue
from typelets_ws.websocket.writer import Writer

PARTS = [b"a" * 10, b"b" * 70_000, b"", b"c" * 500_000, b"d", b"e" * 3_000]


class Recorder:
    """The connection of a writer."""

    open = True

    def __init__(self) -> None:
        self.blocked = 0

    def write_blocked(self) -> None:
        self.blocked += 1

    def evict(self, reason: str) -> None:
        raise AssertionError(reason)


async def received(*, direct: bool, cork: bool) -> tuple[bytes, int, bool]:
    """Write all parts to a client that reads only afterwards."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    for sock in (here, there):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=here)
    connection = Recorder()
    state = SimpleNamespace(
        flush_queue=FlushQueue(loop.call_soon),
        config=Config(limits=Limits(unsent_bytes=2_000_000)),
        sent_bytes=0,
        direct_writes=direct,
    )
    writer = Writer(cast(Any, connection), transport, cast(Any, state))
    found = b""
    try:
        writer.corked = cork
        for number, part in enumerate(PARTS):
            (writer.queue if number % 2 else writer.send)(part)
        writer.corked = False
        writer.flush()
        assert state.sent_bytes == len(b"".join(PARTS))
        waited = writer.backlog > 0
        while len(found) < len(b"".join(PARTS)):
            found += await loop.sock_recv(there, 65_536)
        await asyncio.sleep(0)
        assert writer.bytes_written() >= 0
        assert writer.unsent == 0
    finally:
        transport.abort()
        there.close()
    return found, connection.blocked, waited


@pytest.mark.usefixtures("loop_factory")
@pytest.mark.parametrize("cork", [False, True])
async def test_the_same_bytes_in_the_same_order(cork: bool) -> None:
    fast, fast_blocked, fast_waited = await received(direct=True, cork=cork)
    plain, plain_blocked, plain_waited = await received(direct=False, cork=cork)
    assert fast == plain == b"".join(PARTS)
    assert fast_waited
    assert plain_waited
    assert bool(fast_blocked) == bool(plain_blocked)
