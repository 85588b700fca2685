"""Daemons as real processes, beside a real Redis and a real Postgres.

Each daemon has links of its own to Postgres and to each server of Redis, and devices
reach it directly or through another one; faults cut, stall, slow and refuse them. A
daemon that ends in another way than a fault asked for is a finding.
"""

import asyncio
import json
import random
import re
import signal
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.chaos.topology import TOPOLOGIES, RedisSetup
from tests.daemon import DEFAULT_DATABASE, IMPATIENT, eventually, exceptions
from tests.e2e.supervisor import Process, Supervisor, settings
from tests.postgres import Database
from tests.redis import LinkProxy, link_proxy
from typelets_ws.dev.postgres import Postgres
from typelets_ws.fastpaths import VARIABLE

__all__ = ["BOUND_S", "DEVICES", "DaemonProcess", "World", "opened"]

DEVICES = 20
"""Devices that a user may have."""

BOUND_S = 30.0
"""From the last fault to all devices equal: a few audits of two seconds."""

ADDRESS = re.compile(rb"(127\.0\.0\.1(?:[: ]|\r\n:|\r\n\$5\r\n))(\d{5})")
"""A host and a port in a text, an array with an integer, an array of texts."""

START_S = 30.0
BAD_TEXTS = ("Traceback (most recent", "was never retrieved", "was never awaited")


class DaemonProcess:
    """One daemon: its configuration, its present process, and those before.

    `sides` are its links: to devices, to Postgres, and to each server of Redis.
    """

    def __init__(
        self,
        place: Path,
        sides: Sequence[Sequence[LinkProxy]],
        sections: dict[str, Any],
    ) -> None:
        self.sides = sides
        self.supervisor = Supervisor(place, sections)
        self.busy = asyncio.Lock()
        """Held by a fault: one at a time for each daemon."""

        self.processes: list[Process] = []
        self.fast_paths = "all"
        """With which the next process runs: two ways to do the same."""

    @property
    def port(self) -> int:
        return self.supervisor.port

    def door(self, rng: random.Random) -> int:
        """A port for a device: the daemon's own, or that of the link to it."""
        return rng.choice([self.port, self.sides[0][0].port])

    @property
    def process(self) -> Process:
        return self.processes[-1]

    async def start(self) -> None:
        """Start the next process; returns when it listens."""
        environ = {VARIABLE: self.fast_paths}
        self.processes.append(self.supervisor.start(**environ))
        await eventually(lambda: bool(self.process.logged("listening")), START_S)

    async def kill(self) -> None:
        """End the process as `kill -9` does."""
        await asyncio.to_thread(self.process.kill)

    async def stop(self) -> None:
        """End the process as systemd does; it must end well."""
        self.process.send(signal.SIGCONT)
        self.process.send(signal.SIGTERM)
        code = await self.process.ended(30)
        assert code == 0, f"ended with {code}: {self.process.text[-2000:]}"

    def figure(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.supervisor.metrics_text().splitlines()
        prefix = f"typelets_ws_{name}"
        found = [line for line in lines if line.split("{")[0].split(" ")[0] == prefix]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def counts_devices(self) -> bool:
        """Whether it is ready, and its devices count over all processes."""
        url = f"http://127.0.0.1:{self.supervisor.admin_port}/ready"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return self.figure("shared_limits_up") == 1
        except OSError:  # 503 too
            return False

    def complaints(self) -> list[str]:
        """Forbidden lines in the logs; those of ended processes are read once."""
        found = []
        for process in self.processes:
            found += [json.dumps(line)[:500] for line in exceptions(process.lines)]
            for line in process.text.splitlines():
                if any(text in line for text in BAD_TEXTS):
                    found.append(line[:500])
        for process in self.processes[:-1]:
            process.forget()
        del self.processes[:-1]
        return found


class World:
    """Everything that is not a device or a publisher."""

    def __init__(self, redis: RedisSetup, postgres: Postgres) -> None:
        self.redis = redis
        self.postgres = postgres
        self.database = Database(postgres)
        self.daemons: list[DaemonProcess] = []
        self.violations: list[str] = []
        self.redis_busy = asyncio.Lock()
        self.postgres_busy = asyncio.Lock()
        self.began = time.monotonic()

    def violated(self, text: str) -> None:
        """Remember a broken invariant."""
        self.violations.append(f"{time.monotonic() - self.began:.2f} s: {text}")

    def connect(self) -> psycopg.Connection:
        """A connection of the REST service."""
        return psycopg.connect(self.database.url, autocommit=True)


@asynccontextmanager
async def opened(daemons: int, topology: str = "single") -> AsyncIterator[World]:
    """Servers and so many daemons, all listening; everything ends with the block."""
    async with AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        redis = TOPOLOGIES[topology](place)
        stack.callback(redis.close)
        await asyncio.to_thread(redis.start)
        postgres = Postgres(place / "data", max_connections=100)
        stack.callback(postgres.close)
        await asyncio.to_thread(postgres.start)
        world = World(redis, postgres)
        stack.callback(world.database.close)
        prepare(world.database)
        for number in range(daemons):
            folder = place / f"daemon-{number}"
            folder.mkdir()
            daemon = await _linked(world, stack, folder)
            stack.callback(daemon.supervisor.close)
            world.daemons.append(daemon)
            # The first is socket-activated, the others bind their port themselves.
            if number == 0:
                daemon.supervisor.listen()
            await daemon.start()
        yield world


async def _linked(world: World, stack: AsyncExitStack, folder: Path) -> DaemonProcess:
    """A daemon that reaches Postgres and Redis through links of its own."""
    login = conninfo_to_dict(world.database.url_as("typelets_ws"))
    postgres = await stack.enter_async_context(
        link_proxy(Path(str(login["host"])) / ".s.PGSQL.5432")
    )
    redirect, links = Redirect(), list[LinkProxy]()
    for server in world.redis.servers:
        link = await stack.enter_async_context(link_proxy(server.port, redirect))
        redirect.ports[b"%d" % server.port] = b"%d" % link.port
        links.append(link)
    redis_url = redirect(world.redis.url.encode()).decode()
    database_url = f"postgresql://typelets_ws@127.0.0.1:{postgres.port}/postgres"
    sections = configuration(redis_url, database_url)
    front = await stack.enter_async_context(link_proxy(sections["server"]["port"]))
    return DaemonProcess(folder, [[front], [postgres], links], sections)


class Redirect:
    """Names the links of a daemon in place of the servers of Redis.

    So the daemon also uses links to servers that sentinels and the nodes of a Cluster
    name: in CLUSTER SLOTS, a redirection, the address of a master. A port has five
    digits, so that lengths stay.
    """

    def __init__(self) -> None:
        self.ports: dict[bytes, bytes] = {}
        """Of links by those of servers."""

    def __call__(self, data: bytes) -> bytes:
        """The data of a server, or an address, with the ports of links."""
        return ADDRESS.sub(lambda m: m[1] + self.ports.get(m[2], m[2]), data)


def configuration(redis_url: str, database_url: str) -> dict[str, Any]:
    """Short intervals, so that a minute of faults has many of each."""
    sections: dict[str, Any] = {
        "redis": {
            **IMPATIENT,
            "lease_s": 3.0,
            "unsubscribe_delay_s": 0.5,
            "resync_spread_s": 0.2,
        },
        "database": DEFAULT_DATABASE,
        "limits": {"rate_messages": 3_000, "devices_per_user": DEVICES},
        "log": {"level": "info"},
        # Without a share the bound does not depend on how busy the machine is.
        "recovery": {"audit_s": 2.0, "quiet_s": 0.3, "audit_share": 1.0},
    }
    return settings(redis_url, database_url, **sections)


def prepare(database: Database) -> None:
    """Tables, rights, and a record of every update that was committed."""
    database.script("schema.sql")
    database.execute("CREATE ROLE typelets_ws LOGIN")
    database.script("grants.sql")
    database.execute(
        "CREATE TABLE history (note_id uuid, title text,"
        " at timestamptz DEFAULT clock_timestamp());"
        "CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql"
        " SECURITY DEFINER AS $$ BEGIN"
        " INSERT INTO history VALUES (NEW.id, NEW.title); RETURN NEW; END $$;"
        "CREATE TRIGGER remember AFTER UPDATE ON notes"
        " FOR EACH ROW EXECUTE FUNCTION remember()"
    )
