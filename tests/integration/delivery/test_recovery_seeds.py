"""After any fault, every device ends with what Postgres holds (recovery.md section 4).

Old web clients and clients that sync, two daemons, REST hosts whose clocks are seconds
apart and whose publishers skip, delay, repeat and reorder, and faults of Redis, of
daemons and of connections. More seeds by hand::

    SEEDS=1000 FIRST_SEED=100 .venv/bin/python -m pytest -q \
        tests/integration/delivery/test_recovery_seeds.py
"""

import asyncio
import os
import random
from contextlib import AsyncExitStack

import pytest

from tests.daemon import Boot, RunningDaemon, eventually
from tests.integration.delivery.recovery_world import (
    Client,
    OldClient,
    RestHost,
    SyncClient,
    type_away,
)
from tests.integration.scene import ALICE, BOB
from tests.postgres import Database
from tests.redis import RedisServer

SETTINGS = {
    "enabled": True, "replay_s": 60.0, "audit_s": 0.6, "audit_share": 0.3,
    "quiet_s": 0.3, "page_rows": 5, "page_bytes": 8_000,
}  # fmt: skip
FIRST = int(os.environ.get("FIRST_SEED", "0"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("SEEDS", "24")))
PATIENCE_S = 25.0


class Daemons:
    """Two daemons; either may be stopped and started."""

    def __init__(self, boot: Boot) -> None:
        self._boot = boot
        self._stacks: list[AsyncExitStack] = []
        self.running: list[RunningDaemon] = []

    async def start(self) -> None:
        stack = AsyncExitStack()
        self.running.append(
            await stack.enter_async_context(self._boot(recovery=SETTINGS))
        )
        self._stacks.append(stack)

    async def stop(self, number: int) -> None:
        self.running.pop(number)
        await self._stacks.pop(number).aclose()

    async def stop_all(self) -> None:
        while self._stacks:
            await self.stop(0)


async def faults(
    rng: random.Random,
    daemons: Daemons,
    redis_server: RedisServer,
    clients: list[Client],
) -> None:
    for _ in range(4):
        await asyncio.sleep(0.2 + rng.random() * 0.5)
        match rng.randrange(6):
            case 0:
                redis_server.kill()
                await asyncio.sleep(rng.random() * 0.5)
                redis_server.start()
            case 1:
                with redis_server.frozen():
                    await asyncio.sleep(rng.random() * 1.5)
            case 2:
                await daemons.start()
                await daemons.stop(0)
            case 3 | 4 | 5:
                rng.choice(clients).drop()


def report(client: Client) -> str:
    """What is wrong with a client's copy, and what it heard of it."""
    lines = [f"{type(client).__name__} {client.name}"]
    for wrong in client.differs():
        row_id = wrong.removeprefix("missing ").removeprefix("extra ")[:36]
        lines.append(f"  {wrong}\n    {client.story(row_id)}")
    return "\n".join(lines)


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_device_ends_with_what_postgres_holds(
    boot: Boot, database: Database, redis_server: RedisServer, seed: int
) -> None:
    rng = random.Random(seed)
    users = [database.add_user(user) for user in (ALICE, BOB)]
    for user in users:
        for _ in range(4):
            database.add_note(user, title="first")
        database.add_folder(user)
    daemons = Daemons(boot)
    clients: list[Client] = []
    for number in range(6):
        kind = OldClient if number % 2 == 0 else SyncClient
        user = users[number % 3 == 2]
        clients.append(
            kind(f"{number}", user, database.url, random.Random(rng.random()))
        )
    async with asyncio.TaskGroup() as group:
        await daemons.start()
        await daemons.start()
        living = []
        for client in clients:
            client.load()
            living.append(group.create_task(client.live(lambda: daemons.running)))
        hosts = [
            RestHost(database.url, redis_server.url, users, random.Random(rng.random()))
            for _ in range(2)
        ]
        async with asyncio.TaskGroup() as work:
            for host in hosts:
                work.create_task(host.work(30, 0.15))
            for client in clients[:4]:
                work.create_task(type_away(client, 12))
            work.create_task(faults(rng, daemons, redis_server, clients))
        try:
            await eventually(
                lambda: not any(client.differs() for client in clients), PATIENCE_S
            )
        except AssertionError:
            pytest.fail(f"seed {seed}\n" + "\n".join(map(report, clients)))
        finally:
            for task in living:
                task.cancel()
            await asyncio.sleep(0)
            await daemons.stop_all()
    assert not any(client.foreign for client in clients)
