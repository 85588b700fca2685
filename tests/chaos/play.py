"""One run: a world, its devices and publishers, a schedule of faults, the verdict.

After each stretch of faults is a rest: the faults are over, publishers and hostile
clients have ended, and `judge` checks what must hold. A rest that fails ends the run.
Invariants throughout: no device is sent a text with another user's id; no daemon
ends by itself.
"""

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.devices import OldClient
from tests.chaos.faults import ScheduledFault, apply
from tests.chaos.hostile import hostile as hostile_client
from tests.chaos.judge import check_limits, rest
from tests.chaos.module import Clients, ModuleClient, node_clients
from tests.chaos.publishers import RestHost
from tests.chaos.resources import Resources
from tests.chaos.stretches import Stretch, stretches
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
    rest_every_s: float = 60.0


@dataclass
class RunResult:
    """The result of a run; `last` is the stretch before its last rest."""

    violations: list[str]
    last: Stretch | None = None
    rests: int = 0
    equal_s: float = 0.0
    """The longest that devices took to be equal at a rest."""

    counts: Counter[str] = field(default_factory=Counter)

    def rested(
        self, stretch: Stretch, devices: int, equal_s: Mapping[str, float]
    ) -> None:
        """Count a rest, and print it."""
        self.last, self.rests = stretch, self.rests + 1
        self.equal_s = max(self.equal_s, *equal_s.values(), 0.0)
        kinds = ", ".join(f"{kind} {s:.1f} s" for kind, s in sorted(equal_s.items()))
        print(
            f"  rest {self.rests} after {len(stretch.faults)} faults:"
            f" {devices} devices, equal after: {kinds}",
            flush=True,
        )


async def play(seed: int, size: Size, schedule: Sequence[ScheduledFault]) -> RunResult:
    """Run the schedule in a new world, and judge."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        async with opened(size.daemons, size.topology) as world:
            # The module asks a REST service for rows, which needs no Redis for that.
            rows = (world.database.url, "redis://localhost")
            async with node_clients(Path(place), *rows) as clients:
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
    start = await Resources.measured(world)
    devices = _devices(world, clients, users, size.devices, rng)
    hosts = [RestHost(world, users, _child(rng)) for _ in range(size.hosts)]
    hostile = [_child(rng) for _ in range(size.hostile)]
    result = RunResult(world.violations)
    alive = [asyncio.Task(device.live()) for device in devices]
    try:
        for stretch in stretches(schedule, size.seconds, size.rest_every_s):
            noise = [host.live() for host in hosts]
            noise += [hostile_client(world, each) for each in hostile]
            await _harm(world, stretch, [*noise, _saving(devices, _child(rng))])
            result.counts += Counter(entry.fault for entry in stretch.faults)
            equal_s = await rest(world, devices, start)
            result.rested(stretch, len(devices), equal_s)
            if world.violations:
                return result
    finally:
        await _end(alive)
    await check_limits(world)
    await start.check()
    for source in (*(d.seen for d in devices), *(h.counts for h in hosts)):
        result.counts += source
    return result


async def _harm(
    world: World, stretch: Stretch, noise: Sequence[Coroutine[Any, Any, None]]
) -> None:
    """Let the faults of a stretch happen and end, beside `noise`."""
    tasks = [asyncio.Task(each) for each in noise]
    try:
        async with asyncio.TaskGroup() as group:
            for entry in stretch.faults:
                group.create_task(apply(world, entry))
            group.create_task(asyncio.sleep(stretch.seconds))
    finally:
        await _end(tasks)


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
