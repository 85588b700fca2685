"""The share of a loop iteration that floods get, counted in frames: no clock."""

import asyncio
from contextlib import ExitStack

import pytest

from tests.daemon import Boot, eventually
from typelets_ws.websocket.inbound import FIRST_FRAMES, Inbound
from typelets_ws.websocket.read_queue import TURNS

from .clients import PONG, Target, masked

FLOODS = 30
SHARE = 64


async def test_many_floods_together_get_a_bounded_share_of_an_iteration(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled = [0]
    read, loop = Inbound._read, asyncio.get_running_loop()

    def counted(inbound: Inbound, *args: object) -> None:
        handled[-1] += 1
        read(inbound, *args)  # type: ignore[arg-type]

    def iteration() -> None:
        handled.append(0)
        if not over.is_set():
            loop.call_soon(iteration)

    monkeypatch.setattr(Inbound, "_read", counted)
    async with boot(limits={"iteration_frames": SHARE}) as house:
        with ExitStack() as opened:
            target = Target(house.daemon.port, [])
            opened.callback(target.drop)
            socks = [await asyncio.to_thread(target.websocket) for _ in range(FLOODS)]
            for sock in socks:
                sock.setblocking(False)
                sock.send(masked(PONG) * 20_000)
            over = asyncio.Event()
            loop.call_soon(iteration)
            await eventually(
                lambda: (
                    house.figure("closes_total", code="4429", reason="flood") == FLOODS
                )
            )
            over.set()
    assert max(handled) <= SHARE * (1 + TURNS) + FIRST_FRAMES * FLOODS
    assert sum(handled) <= FLOODS * 1_000, "nothing is parsed after the verdict"


async def test_a_message_behind_floods_has_its_turn(boot: Boot) -> None:
    async with boot() as house, house.device("alice") as device:
        with ExitStack() as opened:
            target = Target(house.daemon.port, [])
            opened.callback(target.drop)
            socks = [await asyncio.to_thread(target.websocket) for _ in range(FLOODS)]
            for sock in socks:
                sock.setblocking(False)
                sock.send(masked(PONG) * 20_000)
            for _ in range(2 * FIRST_FRAMES):
                await device.send({"type": "ping"})
            pongs = [await device.receive() for _ in range(2 * FIRST_FRAMES)]
            assert {pong["type"] for pong in pongs} == {"pong"}
