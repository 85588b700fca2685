"""Churn with everything on: devices, publishers, hostile clients, rare outages.

Old and new devices come and go; each session lasts some seconds. Every minute or so
Redis is killed, a link is cut, Postgres crashes or a daemon reloads. The processes
themselves are not restarted, because their memory is what is watched.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress

from tests.chaos.devices import OldClient, hostile
from tests.chaos.faults import FAULTS
from tests.chaos.publishers import RestHost
from tests.chaos.world import World, opened
from tests.soak.measure import Sample, sample

__all__ = ["GENTLE", "soak"]

GENTLE = [
    "reload_daemon", "cut_link", "refuse_link", "kill_redis", "command_redis",
    "crash_postgres", "kill_backends", "migrate", "vacuum",
]  # fmt: skip
"""Faults that leave the daemons' processes alone."""


async def soak(
    seconds: float,
    every_s: float,
    fault_s: float,
    devices: int,
    seed: int,
    topology: str,
    show: Callable[[Sample], None],
) -> tuple[list[Sample], list[str]]:
    """Run so long; returns the samples and the broken invariants."""
    rng = random.Random(seed)
    async with opened(2, topology) as world:
        users = [f"user_c{number}" for number in range(max(2, devices // 4))]
        for user in users:
            world.database.add_user(user)
            for _ in range(5):
                world.database.add_note(user, title=user)
        host = RestHost(world, users, random.Random(seed + 1))
        tasks = [asyncio.Task(host.live()), asyncio.Task(_tidy(world, users))]
        tasks += [
            asyncio.Task(_churn(world, users[n % len(users)], seed + 10 + n))
            for n in range(devices)
        ]
        tasks += [
            asyncio.Task(hostile(world, random.Random(seed + 1000 + n)))
            for n in range(2)
        ]
        tasks.append(asyncio.Task(_trouble(world, fault_s, rng)))
        try:
            samples = await _watch(world, seconds, every_s, show)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for daemon in world.daemons:
            for complaint in daemon.complaints():
                world.violated(complaint)
        return samples, world.violations


async def _watch(
    world: World, seconds: float, every_s: float, show: Callable[[Sample], None]
) -> list[Sample]:
    began, samples = time.monotonic(), list[Sample]()
    while (at := time.monotonic() - began) < seconds:
        # A server that is down at this moment is measured next time.
        with suppress(Exception):
            one = await asyncio.to_thread(sample, world, at)
            samples.append(one)
            show(one)
        await asyncio.sleep(every_s)
    return samples


async def _churn(world: World, user: str, seed: int) -> None:
    rng = random.Random(seed)
    while True:
        device = OldClient(world, user, rng)
        live = asyncio.Task(device.live())
        try:
            for _ in range(rng.randrange(5, 60)):
                await asyncio.sleep(rng.uniform(0.1, 0.5))
                await device.save()
        finally:
            live.cancel()
            await asyncio.gather(live, return_exceptions=True)


async def _trouble(world: World, fault_s: float, rng: random.Random) -> None:
    while True:
        await asyncio.sleep(rng.uniform(0.5, 1.5) * fault_s)
        await FAULTS[rng.choice(GENTLE)](world, random.Random(rng.getrandbits(32)))


async def _tidy(world: World, users: list[str]) -> None:
    """Keep the tables at one size, as users do who delete what they made."""
    while True:
        await asyncio.sleep(20)
        with suppress(Exception):
            for table in ("notes", "folders"):
                await asyncio.to_thread(
                    world.database.execute,
                    f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table}"
                    " ORDER BY created_at DESC OFFSET %s)",
                    8 * len(users),
                )
