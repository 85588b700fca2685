"""The share of a loop iteration that floods get, counted in frames: no clock."""

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from tests.daemon import Boot, eventually
from tests.tokens import mint
from typelets_ws.session.dispatcher import Dispatcher
from typelets_ws.websocket.inbound import FIRST_FRAMES, LARGE_BYTES, Inbound
from typelets_ws.websocket.read_queue import TURNS

from .clients import PONG, TEXT, Target, masked

FLOODS = 30
SHARE = 64


class Iterations:
    """Counts per loop iteration; starts with `begin`, ends with `over`."""

    def __init__(self) -> None:
        self.counts = [0]
        self.over = False

    def begin(self) -> None:
        self.counts.append(0)
        if not self.over:
            asyncio.get_running_loop().call_soon(self.begin)


async def test_many_floods_together_get_a_bounded_share_of_an_iteration(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterations, read = Iterations(), Inbound._read

    def counted(inbound: Inbound, *args: object) -> None:
        iterations.counts[-1] += 1
        read(inbound, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Inbound, "_read", counted)
    async with boot(limits={"iteration_frames": SHARE}) as server:
        with ExitStack() as opened:
            target = Target(server.daemon.port, [])
            opened.callback(target.drop)
            socks = [await asyncio.to_thread(target.websocket) for _ in range(FLOODS)]
            for sock in socks:
                sock.setblocking(False)
                sock.send(masked(PONG) * 20_000)
            iterations.begin()
            await eventually(
                lambda: (
                    server.figure("closes_total", code="4429", reason="flood") == FLOODS
                )
            )
            iterations.over = True
    handled = iterations.counts
    assert max(handled) <= SHARE * (1 + TURNS) + FIRST_FRAMES * FLOODS
    assert sum(handled) <= FLOODS * 1_000, "nothing is parsed after the verdict"


async def test_a_message_behind_floods_has_its_turn(boot: Boot) -> None:
    async with boot() as server, server.device("alice") as device:
        with ExitStack() as opened:
            target = Target(server.daemon.port, [])
            opened.callback(target.drop)
            socks = [await asyncio.to_thread(target.websocket) for _ in range(FLOODS)]
            for sock in socks:
                sock.setblocking(False)
                sock.send(masked(PONG) * 20_000)
            for _ in range(2 * FIRST_FRAMES):
                await device.send({"type": "ping"})
            pongs = [await device.receive() for _ in range(2 * FIRST_FRAMES)]
            assert {pong["type"] for pong in pongs} == {"pong"}


async def test_one_large_message_is_handled_in_an_iteration(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterations, receive = Iterations(), Dispatcher.receive

    def counted(dispatcher: Dispatcher, data: bytes, **kind: Any) -> None:
        iterations.counts[-1] += len(data) > LARGE_BYTES
        receive(dispatcher, data, **kind)

    monkeypatch.setattr(Dispatcher, "receive", counted)
    message = masked(TEXT, b'{"type":"ping","x":"' + b"y" * 100_000 + b'"}')
    tokens = [mint("alice", expires_in=3600)]
    async with boot() as server:
        with ExitStack() as opened:
            target = Target(server.daemon.port, tokens)
            opened.callback(target.drop)
            socks = [await asyncio.to_thread(target.device) for _ in range(10)]
            for sock in socks:
                sock.sendall(message[:-1])
            await server.daemon.store.ping()
            for sock in socks:
                sock.sendall(message[-1:])
            iterations.begin()
            pongs = {"type": "ping", "result": "ok"}
            await eventually(lambda: server.figure("messages_total", **pongs) == 10)
            iterations.over = True
    assert (max(iterations.counts), sum(iterations.counts)) == (1, 10)
