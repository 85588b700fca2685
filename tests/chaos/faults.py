"""Faults: each does harm to one part of the world, and undoes it at its end.

A fault holds the lock of the daemon, link or server it harms, so that two never meet.
"""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import psycopg
import redis

from tests.chaos.world import DEVICES, DaemonProcess, World
from tests.redis import LinkProxy

__all__ = ["FAULTS", "ScheduledFault", "apply", "plan"]

Fault = Callable[[World, random.Random], Awaitable[None]]


@dataclass(frozen=True)
class ScheduledFault:
    """One fault of a schedule: when (s), which, and the seed of its choices."""

    at: float
    fault: str
    seed: int

    def __str__(self) -> str:
        return f"{self.at:.2f}:{self.fault}:{self.seed}"

    @classmethod
    def parse(cls, text: str) -> "ScheduledFault":
        """From what `str` gives. Raises `ValueError`."""
        try:
            at, fault, seed = text.split(":")
            entry = cls(float(at), fault, int(seed))
        except ValueError:
            raise ValueError(f"{text!r} is not TIME:FAULT:SEED") from None
        if fault not in FAULTS:
            raise ValueError(f"{fault!r} is none of {', '.join(FAULTS)}")
        return entry


def plan(
    rng: random.Random, seconds: float, every_s: float = 0.9
) -> list[ScheduledFault]:
    """A random schedule: a fault about every `every_s`, each kind as likely."""
    entries, at = [], rng.uniform(0.3, 1.0)
    while at < seconds:
        fault = rng.choice(list(FAULTS))
        entries.append(ScheduledFault(round(at, 2), fault, rng.getrandbits(32)))
        at += rng.uniform(0.2, 1.8) * every_s
    return entries


async def apply(world: World, entry: ScheduledFault) -> None:
    """Wait for the entry's time, and let the fault happen."""
    await asyncio.sleep(entry.at)
    await FAULTS[entry.fault](world, random.Random(entry.seed))


def _daemon(world: World, rng: random.Random) -> DaemonProcess:
    return rng.choice(world.daemons)


# Daemons.


async def kill_daemon(world: World, rng: random.Random) -> None:
    """Kill -9 at any moment, and start again."""
    daemon = _daemon(world, rng)
    async with daemon.busy:
        await daemon.kill()
        await asyncio.sleep(rng.uniform(0.0, 1.0))
        await daemon.start()


async def restart_daemon(world: World, rng: random.Random) -> None:
    """Stop and start."""
    daemon = _daemon(world, rng)
    async with daemon.busy:
        await daemon.stop()
        await daemon.start()


async def upgrade_daemons(world: World, rng: random.Random) -> None:
    """Stop and start one after the other; from then on they run other code."""
    for daemon in rng.sample(world.daemons, len(world.daemons)):
        async with daemon.busy:
            await daemon.stop()
            daemon.fast_paths = rng.choice(["all", "none"])
            await daemon.start()


async def freeze_daemon(world: World, rng: random.Random) -> None:
    """The process gets no CPU for a while, as on a machine that swaps."""
    daemon = _daemon(world, rng)
    async with daemon.busy:
        daemon.process.send(signal.SIGSTOP)
        await asyncio.sleep(rng.uniform(0.2, 3.0))
        daemon.process.send(signal.SIGCONT)


async def reload_daemon(world: World, rng: random.Random) -> None:
    """Change a setting and send SIGHUP."""
    daemon = _daemon(world, rng)
    async with daemon.busy:
        daemon.supervisor.write(
            limits={"devices_per_user": DEVICES + rng.randrange(3)},
            log={"level": rng.choice(["info", "debug"])},
        )
        daemon.process.send(signal.SIGHUP)
        await asyncio.sleep(0.2)


# Links: of devices to a daemon, of a daemon to Postgres and to servers of Redis.


@asynccontextmanager
async def _links(world: World, rng: random.Random) -> AsyncIterator[list[LinkProxy]]:
    """One link of a daemon or all of one side, held; healed at the end."""
    side = rng.choice(_daemon(world, rng).sides)
    links = list(side) if rng.random() < 0.4 else [rng.choice(side)]
    async with AsyncExitStack() as stack:
        for link in links:
            await stack.enter_async_context(link.busy)
            stack.push_async_callback(link.heal)
        yield links


async def cut_link(world: World, rng: random.Random) -> None:
    """Reset all connections of a link."""
    async with _links(world, rng) as links:
        for link in links:
            link.cut()


async def stall_link(world: World, rng: random.Random) -> None:
    """A black hole in one direction or both."""
    to_server = rng.random() < 0.7
    to_client = not to_server or rng.random() < 0.5
    async with _links(world, rng) as links:
        for link in links:
            link.stall(to_server=to_server, to_client=to_client)
        await asyncio.sleep(rng.uniform(0.2, 3.0))


async def slow_link(world: World, rng: random.Random) -> None:
    """Each packet is late."""
    delay_s = rng.uniform(0.01, 0.3)
    async with _links(world, rng) as links:
        for link in links:
            link.delay_s = delay_s
        await asyncio.sleep(rng.uniform(0.5, 3.0))


async def refuse_link(world: World, rng: random.Random) -> None:
    """The other side cannot be reached."""
    async with _links(world, rng) as links:
        for link in links:
            await link.refuse()
        await asyncio.sleep(rng.uniform(0.1, 2.0))


# Redis itself.


async def kill_redis(world: World, rng: random.Random) -> None:
    """A server dies and comes back; a single one comes back empty."""
    async with world.redis_busy:
        await world.redis.harm(rng)


async def fail_over(world: World, rng: random.Random) -> None:
    """The master is replaced: an operator demotes it, or it is dead for long."""
    async with world.redis_busy:
        await world.redis.fail_over(rng)


async def freeze_redis(world: World, rng: random.Random) -> None:
    """A server stands still."""
    async with world.redis_busy:
        await world.redis.freeze(rng)


async def command_redis(world: World, rng: random.Random) -> None:
    """An operator's commands at the wrong moment."""
    async with world.redis_busy:
        await asyncio.to_thread(_on_a_master, world, rng, *rng.choice(COMMANDS))


def _on_a_master(world: World, rng: random.Random, *command: str) -> None:
    try:
        rng.choice(list(world.redis.masters())).command(*command)
    except (redis.RedisError, StopIteration):
        return  # it is away: another fault is under way


COMMANDS = [
    ("FLUSHALL",),
    ("SCRIPT", "FLUSH"),
    ("CLIENT", "KILL", "TYPE", "pubsub"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "PAUSE", "1500", "ALL"),
]


# Postgres.


async def crash_postgres(world: World, rng: random.Random) -> None:
    """Postgres dies, recovers and comes back."""
    async with world.postgres_busy:
        await asyncio.to_thread(world.postgres.crash)
        await asyncio.sleep(rng.uniform(0.0, 1.0))
        await asyncio.to_thread(world.postgres.start)


async def kill_backends(world: World, rng: random.Random) -> None:
    """The daemons' connections to Postgres are terminated."""
    await _execute(
        world,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE usename = 'typelets_ws'",
    )


async def migrate(world: World, rng: random.Random) -> None:
    """The REST service migrates its tables under the running daemons."""
    await _execute(world, rng.choice(MIGRATIONS).format(n=rng.randrange(10**9)))


async def lock_table(world: World, rng: random.Random) -> None:
    """A long transaction holds all rows of one user."""

    def hold() -> None:
        with psycopg.connect(world.database.url) as link:
            link.execute("SELECT FROM notes WHERE user_id = 'user_c0' FOR UPDATE")
            link.execute("SELECT pg_sleep(%s)", [rng.uniform(0.2, 2.0)])
            link.rollback()

    try:
        await asyncio.to_thread(hold)
    except psycopg.Error:
        return  # another fault has ended this one


async def vacuum(world: World, rng: random.Random) -> None:
    """Rewrite the table: each row gets a new place, and keeps its content."""
    await _execute(world, "VACUUM FULL notes")


MIGRATIONS = [
    "ALTER TABLE notes ADD COLUMN extra_{n} text",
    "ALTER TABLE notes ALTER COLUMN type TYPE varchar(80)",
    "ALTER TABLE notes ALTER COLUMN type TYPE text",
    "ALTER TABLE folders ADD COLUMN extra_{n} integer DEFAULT 7",
    "CREATE INDEX extra_{n} ON notes (created_at)",
]


async def _execute(world: World, query: str) -> None:
    try:
        await asyncio.to_thread(world.database.execute, query)
    except psycopg.Error:
        return  # Postgres is away: another fault is under way


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        kill_daemon, restart_daemon, upgrade_daemons, freeze_daemon, reload_daemon,
        cut_link, stall_link, slow_link, refuse_link, kill_redis, fail_over,
        freeze_redis, command_redis, crash_postgres, kill_backends, migrate,
        lock_table, vacuum,
    )
}  # fmt: skip
