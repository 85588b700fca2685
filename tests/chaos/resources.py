"""What daemons hold at a rest, compared with their start.

Beyond the start a daemon holds what its devices need: a connection and a descriptor
each, a slot of the limit, and a channel for each user.
"""

import asyncio
import os
import time
from pathlib import Path

import redis

from tests.chaos.topology import ask_all
from tests.chaos.world import BOUND_S, World
from tests.daemon import eventually

__all__ = ["Resources"]

HONEST = "user:user_c"
"""In the channels of users whose devices behave."""

FILES = 16
"""Descriptors that a daemon may keep: links that a pool opened under load."""

TASKS = 8
"""Tasks that a daemon may keep: workers of a pool, links to other servers."""

STARTING_TASKS = 10
"""A daemon with no more tasks still starts; it counts them every two seconds."""

MEMORY_MB = 80
"""Memory that a daemon may keep after floods: the allocator gives it back late."""


class Resources:
    """The resources of all daemons at their start."""

    @classmethod
    async def measured(cls, world: World) -> "Resources":
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

    async def check(self, devices: int = 0) -> None:
        """So many devices are connected, and nothing is left of others."""
        end = time.monotonic() + BOUND_S
        while True:
            try:
                found = await asyncio.to_thread(self._unmet, devices)
            except redis.RedisError as exc:  # another master may just take over
                found = [f"Redis: {exc}"]
            if not found or time.monotonic() > end:
                break
            await asyncio.sleep(0.2)
        for text in found:
            self._world.violated(text)

    def _unmet(self, devices: int) -> list[str]:
        world, found = self._world, list[str]()
        channels = ask_all(world.redis, "PUBSUB", "CHANNELS", "*user:*")
        if extra := [one for one in channels if not (devices and HONEST in one)]:
            found.append(f"subscribed to {extra}")
        slots = _slots(world)
        if len(slots) != devices:
            found.append(f"{len(slots)} slots of {devices} devices: {slots}")
        connected = 0
        for number, daemon in enumerate(world.daemons):
            connections = int(daemon.figure("connections"))
            connected += connections
            files = _descriptors(daemon.process.pid)
            if files > self._files[number] + FILES + connections:
                found.append(f"daemon {number} has {files} descriptors")
            tasks = daemon.figure("tasks")
            if tasks > self._tasks[number] + TASKS:
                found.append(f"daemon {number} has {tasks:.0f} tasks")
            memory = _memory_mb(daemon.process.pid)
            if memory > self._memory[number] + MEMORY_MB:
                found.append(f"daemon {number} holds {memory:.0f} MB")
        if connected != devices:
            found.append(f"{connected} connections of {devices} devices")
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
