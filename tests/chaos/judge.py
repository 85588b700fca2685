"""The verdict at a rest and at the end: what must hold while no fault acts.

Each device equals Postgres within `BOUND_S` after the pause that it announced. Each
confirmed update was committed, and no edit of the client module is lost. No daemon
logged an error of its own, and none holds more than its devices need. At the end a
user has as many devices as the limit allows, and a revoked session has none, over all
daemons.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

import redis.asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.chaos.devices import OldClient
from tests.chaos.module import ModuleClient
from tests.chaos.resources import Resources
from tests.chaos.rows import folders_of, notes_of
from tests.chaos.world import BOUND_S, DEVICES, World
from tests.daemon import eventually
from tests.redis import TIMEOUTS
from tests.tokens import mint

__all__ = ["check_history", "check_limits", "converge", "rest"]

LATE_S = 6.0
"""Print the rows that still differ after a few audits."""


async def rest(
    world: World, devices: Sequence[OldClient], start: Resources
) -> dict[str, float]:
    """Check all that holds without faults and publishers; returns as `converge`."""
    await asyncio.to_thread(world.redis.restore)
    equal_s = await converge(world, devices)
    await check_history(world, devices)
    await start.check(len(devices))
    for daemon in world.daemons:
        for complaint in await asyncio.to_thread(daemon.complaints):
            world.violated(complaint)
    return equal_s


async def converge(world: World, devices: Sequence[OldClient]) -> dict[str, float]:
    """Wait until each device equals Postgres; returns after how many seconds each
    kind of device did for good.
    """
    began, shown = time.monotonic(), False
    equal_s = dict[str, float]()
    while True:
        found = await asyncio.to_thread(_differences, world, devices)
        waited = time.monotonic() - began
        unequal = {one.kind for one in found}
        equal_s = {
            one.kind: equal_s.get(one.kind, waited)
            for one in devices
            if one.kind not in unequal
        }
        if not found:
            return equal_s
        texts = [text for one in found.values() for text in one]
        if waited > LATE_S and not shown:
            shown = True
            print(f"after {waited:.0f} s:", *texts[:40], sep="\n  ", flush=True)
        if any(waited > BOUND_S + _pause_s(one, began) for one in found):
            world.violated(f"{len(texts)} differences after {waited:.0f} s")
            for text in texts[:40]:
                world.violated(text)
            return equal_s
        await asyncio.sleep(0.2)


def _pause_s(device: OldClient, began: float) -> float:
    """How long after `began` the device does not yet try to connect."""
    return min(max(device.due - began, 0.0), device.pause_s)


def _differences(
    world: World, devices: Sequence[OldClient]
) -> dict[OldClient, list[str]]:
    """The devices that differ from Postgres or are not connected, and how."""
    with world.connect() as link:
        rows = {
            user: (notes_of(link, user), folders_of(link, user))
            for user in {one.user for one in devices}
        }
    found = dict[OldClient, list[str]]()
    for one in devices:
        texts = [] if one.connected else [f"{one.user} is not connected"]
        for text in one.differences(*rows[one.user]):
            texts += [text, *one.explain(text)]
        if texts:
            found[one] = texts
    return found


async def check_history(world: World, devices: Sequence[OldClient]) -> None:
    """Confirmed edits were committed; typed ones are in Postgres or were reported.

    What was checked is forgotten. A reply may be on its way still, so the latest
    commits are kept.
    """
    committed = {
        (str(row["note_id"]), row["title"])
        for row in world.database.execute("SELECT note_id, title FROM history")
    }
    for device in devices:
        for note, title in device.acknowledged:
            # A reply shows the newest row, which may be another writer's insert.
            if (note, title) not in committed and str(id(device)) in title:
                world.violated(f"confirmed and not committed: {note} {title}")
        device.acknowledged.clear()
        if isinstance(device, ModuleClient):
            for lost in await device.lost_edits(committed):
                world.violated(lost)
            device.edits.clear()
    world.database.execute(
        "DELETE FROM history WHERE at < clock_timestamp() - interval '1 minute'"
    )


async def check_limits(world: World) -> None:
    """Devices beyond the limit and revoked sessions are refused on every daemon."""
    # Without Redis a device gets in by the limits of its process.
    daemons = world.daemons
    await eventually(lambda: all(one.counts_devices() for one in daemons), BOUND_S)
    ports = [daemon.port for daemon in daemons]
    token = mint("user_limit", sid="sess_limit", expires_in=600)
    async with AsyncExitStack() as stack:
        admitted = []
        for number in range(2 * DEVICES):
            socket = await _signed_in(ports[number % len(ports)], token)
            if socket is not None:
                admitted.append(await stack.enter_async_context(socket))
        # A reload may have raised the limit of a daemon by one or two.
        if not DEVICES <= len(admitted) <= DEVICES + 2:
            world.violated(f"{len(admitted)} devices of one user were admitted")
        event = {"event": "session_revoked", "sessionId": "sess_limit"}
        server = next(iter(world.redis.masters()))
        async with redis.asyncio.Redis(port=server.port, **TIMEOUTS) as link:
            await link.publish("typelets:user:user_limit", json.dumps(event))
        await asyncio.gather(*(_closed(socket) for socket in admitted))
        for port in ports:
            socket = await _signed_in(port, token)
            if socket is not None:
                world.violated("a revoked session was admitted")
                await socket.close()


async def _signed_in(port: int, token: str) -> ClientConnection | None:
    """A connection that authenticated, or None when the daemon refused it."""
    socket = await connect(f"ws://127.0.0.1:{port}/", ping_interval=None)
    await socket.send(json.dumps({"type": "auth", "token": token}))
    answers = [json.loads(await socket.recv()) for _ in range(2)]
    if answers[1]["type"] == "auth_success":
        return socket
    await socket.close()
    return None


async def _closed(socket: ClientConnection) -> None:
    async with asyncio.timeout(BOUND_S):
        try:
            while True:
                await socket.recv()
        except ConnectionClosed:
            return
