"""One run: a world, its devices and publishers, a schedule of faults, the verdict.

Invariants throughout: no device is sent a text with another user's id; no daemon
ends by itself or logs an error of its own. `judge` has those that hold at the end.
"""

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.devices import OldClient
from tests.chaos.faults import ScheduledFault, apply
from tests.chaos.hostile import hostile
from tests.chaos.judge import Rest, check_history, check_limits, converge
from tests.chaos.module import Clients, ModuleClient, node_clients
from tests.chaos.publishers import RestHost
from tests.chaos.syncing import SyncClient
from tests.chaos.world import World, opened

__all__ = ["RunResult", "Size", "play"]


@dataclass(frozen=True)
class Size:
    """How large a run is."""

    daemons: int = 2
    users: int = 6
    devices: int = 24
    hosts: int = 2
    hostile: int = 3
    seconds: float = 10.0
    topology: str = "single"


@dataclass
class RunResult:
    """The result of a run."""

    violations: list[str]
    converged_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)


async def play(seed: int, size: Size, schedule: Sequence[ScheduledFault]) -> RunResult:
    """Run the schedule in a new world, and judge."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        async with opened(size.daemons, size.topology) as world:
            # The module asks a REST service for rows, which needs no Redis for that.
            rest = (world.database.url, "redis://localhost")
            async with node_clients(Path(place), *rest) as clients:
                return await _play(world, clients, rng, size, schedule)


async def _play(
    world: World,
    clients: Clients,
    rng: random.Random,
    size: Size,
    schedule: Sequence[ScheduledFault],
) -> RunResult:
    users = [f"user_c{number}" for number in range(size.users)]
    for user in users:
        world.database.add_user(user)
        for _ in range(3):
            world.database.add_note(user, title=user)
    at_rest = await Rest.measured(world)
    devices = _devices(world, clients, users, size.devices, rng)
    hosts = [RestHost(world, users, _child(rng)) for _ in range(size.hosts)]
    verdict = RunResult(world.violations)
    alive = [asyncio.Task(device.live()) for device in devices]
    noise = [asyncio.Task(host.live()) for host in hosts]
    noise += [asyncio.Task(_saving(devices, _child(rng)))]
    noise += [asyncio.Task(hostile(world, _child(rng))) for _ in range(size.hostile)]
    try:
        async with asyncio.TaskGroup() as group:
            for entry in schedule:
                group.create_task(apply(world, entry))
            group.create_task(asyncio.sleep(size.seconds))
        await _end(noise)
        verdict.converged_s = await converge(world, devices)
        check_history(world, devices)
    finally:
        await _end([*noise, *alive])
    await asyncio.to_thread(world.redis.restore)
    await check_limits(world)
    await at_rest.check()
    for daemon in world.daemons:
        for complaint in daemon.complaints():
            world.violated(complaint)
    for source in (*(d.seen for d in devices), *(h.counts for h in hosts)):
        verdict.counts += source
    verdict.counts += Counter(entry.fault for entry in schedule)
    return verdict


def _devices(
    world: World, clients: Clients, users: Sequence[str], count: int, rng: random.Random
) -> list[OldClient]:
    """So many devices; each user has some of each kind."""
    devices: list[OldClient] = []
    for number in range(count):
        user, kind = users[number % len(users)], number // len(users) % 3
        if kind == 0:
            devices.append(OldClient(world, user, _child(rng)))
        elif kind == 1:
            devices.append(SyncClient(world, user, _child(rng)))
        else:
            devices.append(ModuleClient(world, user, _child(rng), clients))
    return devices


def _child(rng: random.Random) -> random.Random:
    return random.Random(rng.getrandbits(32))


async def _saving(devices: Sequence[OldClient], rng: random.Random) -> None:
    while True:
        await asyncio.sleep(rng.uniform(0.01, 0.08))
        await rng.choice(devices).save()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
