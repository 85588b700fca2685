"""Churn with everything on: devices, publishers, hostile clients, rare outages.

Devices of the old client and devices that sync come and go; each session lasts some
seconds. Every minute or so a link is cut, Postgres crashes or a daemon reloads, and
every few minutes another Redis becomes the master. The daemons' processes are not
restarted, because their memory is what is watched. At the end the devices must equal
Postgres, and once they are gone nothing may be left of them.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.devices import OldClient
from tests.chaos.faults import FAULTS
from tests.chaos.hostile import hostile
from tests.chaos.judge import converge
from tests.chaos.publishers import RestHost
from tests.chaos.resources import Resources
from tests.chaos.syncing import SyncClient
from tests.chaos.world import World, opened
from tests.soak.measure import Sample, sample

__all__ = ["GENTLE", "Plan", "SoakResult", "soak"]

GENTLE = [
    "reload_daemon", "cut_link", "stall_link", "slow_link", "refuse_link",
    "kill_redis", "freeze_redis", "command_redis", "crash_postgres", "kill_backends",
    "migrate", "lock_table", "vacuum",
]  # fmt: skip
"""Faults that leave the daemons' processes alone."""


@dataclass(frozen=True)
class Plan:
    """How long, how large, and how often; times in seconds."""

    seconds: float = 120.0
    every_s: float = 1.0
    fault_s: float = 60.0
    failover_s: float = 180.0
    devices: int = 40
    seed: int = 1
    topology: str = "single"


@dataclass
class SoakResult:
    """What a soak measured, did, and found broken."""

    samples: list[Sample] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


async def soak(plan: Plan, show: Callable[[Sample], None]) -> SoakResult:
    """Run so long; `show` is called with each sample."""
    rng, result = random.Random(plan.seed), SoakResult()
    async with opened(2, plan.topology) as world:
        users = [f"user_c{number}" for number in range(max(2, plan.devices // 4))]
        for user in users:
            world.database.add_user(user)
            for _ in range(5):
                world.database.add_note(user, title=user)
        start = await Resources.measured(world)
        places = [
            _Place(world, users[n % len(users)], random.Random(plan.seed + 10 + n))
            for n in range(plan.devices)
        ]
        churn = [asyncio.Task(place.churn()) for place in places]
        noise = _noise(world, users, plan)
        troubles = _troubles(world, plan, rng, result.faults)
        try:
            result.samples = await _watch(world, plan, show)
            await asyncio.gather(*troubles)
            await _end(noise)
            for place in places:
                place.stays = True
            await converge(world, [place.device for place in places])
        finally:
            await _end([*troubles, *noise, *churn])
        await asyncio.to_thread(world.redis.restore)
        await start.check()
        for daemon in world.daemons:
            for complaint in daemon.complaints():
                world.violated(complaint)
            result.faults["failovers heard of"] += int(
                daemon.figure("redis_failovers_total")
            )
        result.violations = world.violations
        return result


class _Place:
    """One device after the other, of one user; every second one syncs."""

    def __init__(self, world: World, user: str, rng: random.Random) -> None:
        self._world = world
        self._user = user
        self._rng = rng
        self.stays = False
        """Set at the end: the device saves no more, and is not replaced."""

        self.device = self._next()

    def _next(self) -> OldClient:
        kind = self._rng.choice([OldClient, SyncClient])
        return kind(self._world, self._user, self._rng)

    async def churn(self) -> None:
        """Live, save, leave, and come back as another, until cancelled."""
        while True:
            live = asyncio.Task(self.device.live())
            try:
                for _ in range(self._rng.randrange(5, 60)):
                    await asyncio.sleep(self._rng.uniform(0.1, 0.5))
                    if not self.stays:
                        await self.device.save()
                if self.stays:
                    await asyncio.Event().wait()  # until cancelled
            finally:
                await _end([live])
            self.device = self._next()


def _noise(world: World, users: list[str], plan: Plan) -> list[asyncio.Task[None]]:
    """A publisher and hostile clients; all end when cancelled."""
    host = RestHost(world, users, random.Random(plan.seed + 1))
    works: list[Coroutine[Any, Any, None]] = [
        host.live(),
        _tidy(world, users),
    ]
    works += [hostile(world, random.Random(plan.seed + 1000 + n)) for n in range(2)]
    return [asyncio.Task(work) for work in works]


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(
    world: World, plan: Plan, show: Callable[[Sample], None]
) -> list[Sample]:
    began, samples = time.monotonic(), list[Sample]()
    while (at := time.monotonic() - began) < plan.seconds:
        # A server that is down at this moment is measured next time.
        with suppress(Exception):
            one = await asyncio.to_thread(sample, world, at)
            samples.append(one)
            show(one)
        await asyncio.sleep(plan.every_s)
    return samples


def _troubles(
    world: World, plan: Plan, rng: random.Random, counts: Counter[str]
) -> list[asyncio.Task[None]]:
    """The faults of a run, which end with it; `counts` are those that were begun."""
    end = time.monotonic() + plan.seconds

    async def trouble(kinds: Sequence[str], every_s: float) -> None:
        while True:
            pause = rng.uniform(0.5, 1.5) * every_s
            if time.monotonic() + pause > end:
                return
            await asyncio.sleep(pause)
            kind = rng.choice(kinds)
            counts[kind] += 1
            await FAULTS[kind](world, random.Random(rng.getrandbits(32)))

    works = [trouble(GENTLE, plan.fault_s), trouble(["fail_over"], plan.failover_s)]
    return [asyncio.Task(work) for work in works]


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
