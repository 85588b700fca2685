"""One seed of faults, and many of them by hand.

Two daemons, old web clients and clients that sync, REST hosts whose clocks are seconds
apart and whose publishers skip, delay, repeat and reorder, and faults of Redis, of
daemons and of connections. In one seed of `PROCESSES` the daemons are processes, ended
by kill -9; in the others they run in the test's loop. By hand, several at once::

    python -m tests.integration.delivery.recovery_seeds --first 100 --seeds 1000
"""

import asyncio
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Protocol

import uvloop

from tests.command_line import at_least, command_line
from tests.daemon import IMPATIENT, Boot, RunningDaemon, daemon, exceptions
from tests.e2e.supervisor import Process, Supervisor, settings
from tests.integration.delivery.recovery_world import (
    Client,
    OldClient,
    RestHost,
    Server,
    SyncClient,
    Tables,
    type_away,
)
from tests.postgres import Database
from tests.redis import RedisServer
from tests.within import PATIENCE_S
from typelets_ws.dev.postgres import Postgres

__all__ = ["SETTINGS", "Daemons", "InProcess", "Processes", "play"]

SETTINGS = {
    "enabled": True, "replay_s": 60.0, "audit_s": 0.6, "audit_share": 0.3,
    "quiet_s": 0.3, "page_rows": 5, "page_bytes": 8_000,
}  # fmt: skip
PROCESSES = 8
"""One seed in so many has daemons as processes."""
POLL_S = 0.1


class Daemons(Protocol):
    """The daemons of one seed; any of them may go."""

    running: list[Server]
    complaints: list[object]
    """Lines of their logs that must not be there, once they have ended."""

    async def start(self) -> None:
        """Start one more."""
        ...

    async def replace(self, pause_s: float) -> None:
        """End the oldest, and have another one in its place."""
        ...

    async def close(self) -> None:
        """End all."""
        ...


class InProcess:
    """Daemons in this loop, which end as they should."""

    def __init__(self, boot: Boot) -> None:
        self._boot = boot
        self._houses: list[tuple[RunningDaemon, AsyncExitStack]] = []
        self.running: list[Server] = []
        self.complaints: list[object] = []

    async def start(self) -> None:
        stack = AsyncExitStack()
        server = await stack.enter_async_context(
            self._boot(recovery=SETTINGS, redis=IMPATIENT)
        )
        self._houses.append((server, stack))
        self.running.append(server)

    async def replace(self, pause_s: float) -> None:
        await self.start()
        await asyncio.sleep(pause_s)
        await self._end()

    async def close(self) -> None:
        while self._houses:
            await self._end()

    async def _end(self) -> None:
        self.running.pop(0)
        server, stack = self._houses.pop(0)
        await stack.aclose()
        self.complaints += exceptions(server.log)


class Processes:
    """Daemons as processes, which are killed."""

    def __init__(self, place: Path, redis_url: str, database_url: str) -> None:
        self._place = place
        self._urls = (redis_url, database_url)
        self._started = 0
        self._processes: list[tuple[Supervisor, Process]] = []
        self.running: list[Server] = []
        self.complaints: list[object] = []

    async def start(self) -> None:
        self._started += 1
        folder = self._place / f"{self._started}"
        folder.mkdir()
        made = settings(*self._urls, recovery=SETTINGS, redis=IMPATIENT)
        supervisor = Supervisor(folder, made)
        process = supervisor.start()
        self._processes.append((supervisor, process))
        while not process.logged("listening"):
            assert process.running, process.text
            await asyncio.sleep(0.05)
        self.running.append(supervisor)

    async def replace(self, pause_s: float) -> None:
        self.running.pop(0)
        supervisor, process = self._processes.pop(0)
        supervisor.close()
        self.complaints += exceptions(process.lines)
        await asyncio.sleep(pause_s)
        await self.start()

    async def close(self) -> None:
        self.running.clear()
        while self._processes:
            supervisor, process = self._processes.pop()
            assert process.running, process.text
            supervisor.close()
            self.complaints += exceptions(process.lines)


async def faults(
    rng: random.Random, daemons: Daemons, redis: RedisServer, clients: list[Client]
) -> None:
    """Four faults, some of them at once."""
    for _ in range(4):
        await asyncio.sleep(0.2 + rng.random() * 0.5)
        match rng.randrange(6):
            case 0:
                redis.kill()
                await asyncio.sleep(rng.random() * 0.5)
                redis.start()
            case 1:
                with redis.frozen():
                    await asyncio.sleep(rng.random() * 1.5)
            case 2:
                await daemons.replace(rng.random() * 0.3)
            case _:
                rng.choice(clients).drop()


async def play(
    seed: int, database: Database, redis: RedisServer, daemons: Daemons
) -> list[str]:
    """Play a seed; returns what the devices show that Postgres does not hold."""
    rng = random.Random(seed)
    users = [database.add_user(f"user_{seed}_{name}") for name in ("alice", "bob")]
    for user in users:
        for _ in range(4):
            database.add_note(user, title="first")
        database.add_folder(user)
    with Tables(database.url) as tables:
        clients: list[Client] = []
        for number in range(6):
            kind = OldClient if number % 2 == 0 else SyncClient
            user = users[number % 3 == 2]
            own = random.Random(rng.random())
            clients.append(kind(f"{number}", user, tables, own))
        hosts = [
            RestHost(database.url, redis.url, users, random.Random(rng.random()))
            for _ in range(2)
        ]
        try:
            wrong = await _played(rng, redis, daemons, clients, hosts)
        finally:
            redis.resume()
            await daemons.close()
    return wrong + [f"logged: {line}" for line in daemons.complaints]


async def _played(
    rng: random.Random,
    redis: RedisServer,
    daemons: Daemons,
    clients: list[Client],
    hosts: list[RestHost],
) -> list[str]:
    await daemons.start()
    await daemons.start()
    servers: Callable[[], list[Server]] = lambda: daemons.running  # noqa: E731
    async with asyncio.TaskGroup() as group:
        living = []
        for client in clients:
            client.load()
            living.append(group.create_task(client.live(servers)))
        async with asyncio.TaskGroup() as work:
            for host in hosts:
                work.create_task(host.work(30, 0.15))
            for client in clients[:4]:
                work.create_task(type_away(client, 12))
            work.create_task(faults(rng, daemons, redis, clients))
        end = time.monotonic() + PATIENCE_S
        while any(client.differs() for client in clients):
            if time.monotonic() > end:
                break
            await asyncio.sleep(POLL_S)
        found = [report(client) for client in clients if client.differs()]
        for task in living:
            task.cancel()
    return found + [f"of another user: {c.foreign}" for c in clients if c.foreign]


def report(client: Client) -> str:
    """What is wrong with a client's copy, and what it heard of it."""
    lines = [f"{type(client).__name__} {client.name}"]
    for wrong in client.differs():
        row_id = wrong.removeprefix("missing ").removeprefix("extra ")[:36]
        lines.append(f"  {wrong}\n    {client.story(row_id)}")
    return "\n".join(lines)


async def by_hand(first: int, count: int, at_once: int) -> int:
    """Play the seeds, some at once; returns how many failed."""
    seeds, failed = iter(range(first, first + count)), []
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seeds-")))
        server = stack.enter_context(Postgres(place / "data", max_connections=400))
        database = stack.enter_context(closing(Database(server)))
        database.script("schema.sql")

        async def player(number: int) -> None:
            folder = place / f"{number}"
            folder.mkdir()
            redis = RedisServer(folder)
            stack.callback(redis.kill)
            for seed in seeds:
                redis.start()
                daemons: Daemons = InProcess(partial(daemon, redis.url, database.url))
                if seed % PROCESSES == 0:
                    where = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                    daemons = Processes(where, redis.url, database.url)
                began = time.monotonic()
                try:
                    wrong = await play(seed, database, redis, daemons)
                except Exception:
                    wrong = [traceback.format_exc()]
                kind = type(daemons).__name__
                took = f"{time.monotonic() - began:.1f} s"
                print(f"seed {seed} {kind} {took}: {'WRONG' if wrong else 'equal'}")
                print(*wrong, sep="\n", end="\n" if wrong else "", flush=True)
                if wrong:
                    failed.append(seed)

        await asyncio.gather(*(player(number) for number in range(at_once)))
    print(f"{count} seeds from {first}: {len(failed)} failed {failed}", flush=True)
    return len(failed)


def main() -> int:
    """Returns 1 when a seed failed."""
    parser = command_line(
        "python -m tests.integration.delivery.recovery_seeds",
        "Random courses of faults, with real daemons, Redis and Postgres.",
        "--first 1000 --seeds 100",
    )
    count, option = at_least(1), parser.add_argument
    option("--first", type=int, default=1_000, help="seed")
    option("--seeds", type=count, default=100, help="how many")
    option("--at-once", type=count, default=3, help="courses")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        playing = by_hand(options.first, options.seeds, options.at_once)
        return int(runner.run(playing) > 0)


if __name__ == "__main__":
    sys.exit(main())
