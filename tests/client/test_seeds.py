"""Seeds of faults between the JavaScript client and two real daemons.

Each client edits a note of its own and a shared one. Postgres is written behind the
daemons' back, with and without a publish; links are cut, stalled and refused. At the
end every client equals Postgres, and each own note has its client's last edit. The
shared note has the last text of one client, or those texts were handed over.
`SEEDS=200 FIRST=1` runs more of them.
"""

import asyncio
import os
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.client.clients import Client, by_id
from tests.client.test_daemon import Scene, scene
from tests.daemon import Boot, publish
from tests.postgres import Database
from tests.redis import LinkProxy, RedisServer, link_proxy

__all__ = ["scene"]

FIRST = int(os.environ.get("FIRST", "1"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("SEEDS", "2")))
RECOVERY = {"enabled": True, "audit_s": 0.5, "quiet_s": 0.1}
NAMES = ("phone", "laptop", "tablet")


class Course:
    """One seed's devices, links and edits."""

    def __init__(self, it: Scene, database: Database, redis_url: str) -> None:
        self.it = it
        self.database = database
        self.redis_url = redis_url
        self.clients: list[Client] = []
        self.proxies: list[LinkProxy] = []
        self.own = [database.add_note("alice", title=name) for name in NAMES]
        self.last = list(NAMES)
        self.shared: list[tuple[Client, str]] = []

    async def step(self, rng: random.Random, number: int) -> None:
        place = rng.randrange(len(NAMES))
        client, proxy = self.clients[place], self.proxies[place]
        chance = rng.random()
        if chance < 0.45:
            self.last[place] = f"{NAMES[place]} {number}"
            await client.edit(self.own[place], title=self.last[place])
        elif chance < 0.6:
            text = f"{NAMES[place]} shared {number}"
            self.shared.append((client, text))
            await client.edit(self.it.first, content=text)
        elif chance < 0.7:
            query = "UPDATE notes SET starred = NOT starred WHERE id = %s"
            self.database.execute(query, self.own[place])
        elif chance < 0.75:
            self.database.add_note("alice", title=f"REST {number}")
            await publish(self.redis_url, "alice", {"event": "resync_required"})
        elif chance < 0.85:
            proxy.cut()
        elif chance < 0.9:
            proxy.stall()
        elif chance < 0.95:
            await proxy.refuse()
        else:
            await proxy.heal()
        await asyncio.sleep(rng.random() * 0.03)

    async def settle(self) -> set[str]:
        """End all faults; resolve conflicts for their devices. Returns their texts."""
        handed: set[str] = set()
        for proxy in self.proxies:
            await proxy.heal()
        for client in self.clients:
            while await client.call("status") != "in sync":
                for conflict in await client.heard("conflict"):
                    handed |= {str(value) for value in conflict["changes"].values()}
                    await client.call("resolve", id=conflict["noteId"], changes=None)
                await asyncio.sleep(0.05)
            for conflict in await client.heard("conflict"):
                handed |= {str(value) for value in conflict["changes"].values()}
        return handed


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_fault_makes_clients_differ_or_loses_an_edit(
    scene: Any, boot: Boot, database: Database, redis_server: RedisServer, seed: int
) -> None:
    rng = random.Random(seed)
    async with (
        scene(recovery=RECOVERY) as it,
        boot(recovery=RECOVERY) as other,
        AsyncExitStack() as stack,
    ):
        course = Course(it, database, redis_server.url)
        for number, name in enumerate(NAMES):
            port = (it.server, other)[number % 2].daemon.port
            proxy = await stack.enter_async_context(link_proxy(port))
            course.proxies.append(proxy)
            client = await it.client(name, f"ws://127.0.0.1:{proxy.port}/")
            course.clients.append(client)
            await client.equals_postgres()
        for number in range(60):
            await course.step(rng, number)
        handed = await course.settle()
        for client in course.clients:
            await client.equals_postgres()
        rows = by_id(it.clients.stored(NAMES[0]))
        for note, title in zip(course.own, course.last, strict=True):
            assert rows[note]["title"] == title
        newest = {client.name: text for client, text in course.shared}
        stored = {rows[it.first]["content"]}
        assert not newest or stored & set(newest.values()) or handed, newest
