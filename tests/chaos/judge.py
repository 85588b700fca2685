"""The verdict on a run: what must hold once the faults are over.

Each device equals Postgres within `BOUND_S` and its own pause. Each confirmed update
was committed, and no edit of the client module is lost. A user has as many devices as
the limit allows, and a revoked session has none, over all daemons. Then, without
devices: subscriptions, leases, connections, tasks, descriptors and memory are back
where they were.
"""

import asyncio
import json
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import redis.asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.chaos.devices import OldClient
from tests.chaos.module import ModuleClient
from tests.chaos.rows import folders_of, notes_of
from tests.chaos.topology import ask_all
from tests.chaos.world import DEVICES, World
from tests.daemon import eventually
from tests.tokens import mint

__all__ = ["BOUND_S", "Rest", "check_history", "check_limits", "converge"]

BOUND_S = 30.0
"""From the last fault to all devices equal: a few audits of two seconds."""

LATE_S = 6.0
"""Print the rows that still differ after a few audits."""

FILES = 16
"""Descriptors that a daemon may keep: links that a pool opened under load."""

TASKS = 8
"""Tasks that a daemon may keep: workers of a pool, links to other servers."""

STARTING_TASKS = 10
"""A daemon with no more tasks still starts; it counts them every two seconds."""

MEMORY_MB = 80
"""Memory that a daemon may keep after floods: the allocator gives it back late."""


async def converge(world: World, devices: Sequence[OldClient]) -> float:
    """Wait until each device equals Postgres; returns the seconds it took."""
    began, shown = time.monotonic(), False
    while True:
        found = await asyncio.to_thread(_differences, world, devices)
        waited = time.monotonic() - began
        if not found:
            return waited
        texts = [text for one in found.values() for text in one]
        if waited > LATE_S and not shown:
            shown = True
            print(f"after {waited:.0f} s:", *texts[:40], sep="\n  ", flush=True)
        if any(waited > BOUND_S + one.pause_s for one in found):
            world.violated(f"{len(texts)} differences after {waited:.0f} s")
            for text in texts[:40]:
                world.violated(text)
            return waited
        await asyncio.sleep(0.2)


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


def check_history(world: World, devices: Sequence[OldClient]) -> None:
    """Confirmed edits were committed; typed ones are in Postgres or were reported."""
    committed = {
        (str(row["note_id"]), row["title"])
        for row in world.database.execute("SELECT note_id, title FROM history")
    }
    for device in devices:
        for note, title in device.acknowledged:
            # A reply shows the newest row, which may be another writer's insert.
            if (note, title) not in committed and str(id(device)) in title:
                world.violated(f"confirmed and not committed: {note} {title}")
        if isinstance(device, ModuleClient):
            for lost in device.lost_edits(committed):
                world.violated(lost)


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
        async with redis.asyncio.Redis(port=server.port) as link:
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


class Rest:
    """Resources of a daemon at rest, compared with its start."""

    @classmethod
    async def measured(cls, world: World) -> "Rest":
        """The resources now, with all daemons up."""
        daemons = world.daemons
        await eventually(
            lambda: all(one.figure("tasks") > STARTING_TASKS for one in daemons)
        )
        return cls(world)

    def __init__(self, world: World) -> None:
        self._world = world
        pids = [daemon.process.pid for daemon in world.daemons]
        self._files = [_descriptors(pid) for pid in pids]
        self._memory = [_memory_mb(pid) for pid in pids]
        self._tasks = [daemon.figure("tasks") for daemon in world.daemons]

    async def check(self) -> None:
        """Nothing is left behind once all devices are gone."""
        end = time.monotonic() + BOUND_S
        while True:
            found = await asyncio.to_thread(self._left)
            if not found or time.monotonic() > end:
                break
            await asyncio.sleep(0.2)
        for text in found:
            self._world.violated(text)

    def _left(self) -> list[str]:
        world = self._world
        found = []
        if channels := ask_all(world.redis, "PUBSUB", "CHANNELS", "*user:*"):
            found.append(f"subscribed to {channels}")
        found += [f"a slot is held: {slot}" for slot in _slots(world)]
        for number, daemon in enumerate(world.daemons):
            if connections := daemon.figure("connections"):
                found.append(f"daemon {number} has {connections:.0f} connections")
            files = _descriptors(daemon.process.pid)
            if files > self._files[number] + FILES:
                found.append(f"daemon {number} has {files} descriptors")
            tasks = daemon.figure("tasks")
            if tasks > self._tasks[number] + TASKS:
                found.append(f"daemon {number} has {tasks:.0f} tasks")
            memory = _memory_mb(daemon.process.pid)
            if memory > self._memory[number] + MEMORY_MB:
                found.append(f"daemon {number} holds {memory:.0f} MB")
        return found


def _slots(world: World) -> list[str]:
    """The slots of processes that live; those of others count for nothing."""
    members = [
        f"{key} {member}"
        for server in world.redis.masters()
        for key in server.command("KEYS", "*:devices:*")
        for member in server.command("SMEMBERS", key)
    ]
    leases = {key[-16:] for key in ask_all(world.redis, "KEYS", "*:era:*")}
    return [text for text in members if text.split(" ")[1][:16] in leases]


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")
