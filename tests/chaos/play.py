"""One run: a world, its devices and publishers, a schedule of faults, the verdict.

Invariants throughout: no device is sent a text with another user's id; no daemon
ends by itself or logs an error of its own. At the end, after the faults: each device
equals Postgres within `BOUND_S`; each confirmed update was committed; subscriptions,
leases, connections and descriptors return to where they were.
"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tests.chaos.devices import OldClient, hostile
from tests.chaos.faults import Entry, apply
from tests.chaos.publishers import RestHost
from tests.chaos.rows import folders_of, notes_of
from tests.chaos.syncing import SyncClient
from tests.chaos.topology import ask_all
from tests.chaos.world import HEALS, World, opened

__all__ = ["BOUND_S", "Size", "Verdict", "play"]

BOUND_S = 30.0
"""From the last fault to all devices equal: a few audits of two seconds."""

LATE_S = 6.0
"""What still differs after a few audits is printed: it is worth a look."""


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
class Verdict:
    """What a run came to."""

    violations: list[str]
    converged_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)


async def play(seed: int, size: Size, schedule: Sequence[Entry]) -> Verdict:
    """Run the schedule in a new world, and judge."""
    rng = random.Random(seed)
    async with opened(size.daemons, size.topology) as world:
        users = [f"user_c{number}" for number in range(size.users)]
        for user in users:
            world.database.add_user(user)
            for _ in range(3):
                world.database.add_note(user, title=user)
        descriptors = [_descriptors(daemon.process.pid) for daemon in world.daemons]
        devices = [
            # Every third device syncs; each user has devices of both kinds.
            (SyncClient if HEALS and n // len(users) % 3 == 2 else OldClient)(
                world, users[n % len(users)], random.Random(rng.getrandbits(32))
            )
            for n in range(size.devices)
        ]
        hosts = [
            RestHost(world, users, random.Random(rng.getrandbits(32)))
            for _ in range(size.hosts)
        ]
        verdict = Verdict(world.violations)
        alive = [asyncio.Task(device.live()) for device in devices]
        noise = [asyncio.Task(host.live()) for host in hosts]
        noise += [asyncio.Task(_saving(devices, random.Random(rng.getrandbits(32))))]
        noise += [
            asyncio.Task(hostile(world, random.Random(rng.getrandbits(32))))
            for _ in range(size.hostile)
        ]
        try:
            async with asyncio.TaskGroup() as group:
                for entry in schedule:
                    group.create_task(apply(world, entry))
                group.create_task(asyncio.sleep(size.seconds))
            await _end(noise)
            if HEALS:
                verdict.converged_s = await _converge(world, devices)
            _check_history(world, devices)
        finally:
            await _end([*noise, *alive])
        await asyncio.to_thread(world.redis.restore)
        await _check_rest(world, descriptors)
        for daemon in world.daemons:
            for complaint in daemon.complaints():
                world.violated(complaint)
        for device in devices:
            verdict.counts += device.seen
        for host in hosts:
            verdict.counts += host.counts
        verdict.counts += Counter(entry.fault for entry in schedule)
        return verdict


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


async def _converge(world: World, devices: Sequence[OldClient]) -> float:
    began, shown = time.monotonic(), False
    while True:
        found = await asyncio.to_thread(_differences, world, devices)
        waited = time.monotonic() - began
        if not found:
            return waited
        if waited > LATE_S and not shown:
            shown = True
            print(f"after {waited:.0f} s:", *found[:40], sep="\n  ", flush=True)
        if waited > BOUND_S:
            world.violated(f"{len(found)} differences after {waited:.0f} s")
            for text in found[:40]:
                world.violated(text)
            return waited
        await asyncio.sleep(0.2)


def _differences(world: World, devices: Sequence[OldClient]) -> list[str]:
    found = [f"{one.user} is not connected" for one in devices if not one.connected]
    with world.connect() as link:
        rows = {
            user: (notes_of(link, user), folders_of(link, user))
            for user in {one.user for one in devices}
        }
    for one in devices:
        for text in one.differences(*rows[one.user]):
            found += [text, *one.explain(text)]
    return found


def _check_history(world: World, devices: Sequence[OldClient]) -> None:
    committed = {
        (str(row["note_id"]), row["title"])
        for row in world.database.execute("SELECT note_id, title FROM history")
    }
    for device in devices:
        for note, title in device.acknowledged:
            # A reply shows the newest row, which may be another writer's insert.
            if (note, title) not in committed and str(id(device)) in title:
                world.violated(f"confirmed and not committed: {note} {title}")


async def _check_rest(world: World, descriptors: Sequence[int]) -> None:
    """Nothing is left behind once all devices are gone."""

    def left() -> list[str]:
        found = []
        if channels := ask_all(world.redis, "PUBSUB", "CHANNELS", "*user:*"):
            found.append(f"subscribed to {channels}")
        found += [f"a slot is held: {slot}" for slot in _slots(world)]
        for number, daemon in enumerate(world.daemons):
            if connections := daemon.figure("connections"):
                found.append(f"daemon {number} has {connections:.0f} connections")
            files = _descriptors(daemon.process.pid)
            if files > descriptors[number] + 8:
                found.append(f"daemon {number} has {files} descriptors")
        return found

    end = time.monotonic() + BOUND_S
    while True:
        found = await asyncio.to_thread(left)
        if not found or time.monotonic() > end:
            break
        await asyncio.sleep(0.2)
    for text in found:
        world.violated(text)


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
