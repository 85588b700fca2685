"""Faults of a Sentinel group."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.drills.drill import DrillResult, PlainPublisher, Receiver, drill
from tests.integration.bus.running_bus import until
from tests.redis import RedisServer
from tests.redis_topologies import SentinelGroup, off_loop

Fault = Callable[[SentinelGroup], Awaitable[None]]


def publisher(group: SentinelGroup) -> PlainPublisher:
    """Keeps its connection to a master for as long as the connection works."""

    def client() -> redis.asyncio.Redis:
        with suppress(Exception):
            port.append(group.master.port)
        return redis.asyncio.Redis(
            port=port[-1],
            socket_timeout=0.5,
            socket_connect_timeout=0.5,
            retry=Retry(NoBackoff(), 0),
        )

    port: list[int] = []
    return PlainPublisher(client)


async def kill(group: SentinelGroup) -> None:
    group.master.kill()


async def freeze_and_resume(group: SentinelGroup) -> None:
    """The frozen master is replaced; when it resumes it believes to be the master."""
    master = group.master
    master.freeze()
    await until(lambda: group.master is not master)
    await asyncio.sleep(1)
    master.resume()


async def operator(group: SentinelGroup) -> None:
    group.failover()


async def operator_to_the_end(group: SentinelGroup) -> None:
    """Until the sentinels have made the old master a replica: ten seconds and more."""
    old = group.master
    group.failover()
    await until(lambda: _role(old) == "slave")


async def operator_twice(group: SentinelGroup) -> None:
    """The second as soon as the sentinels allow it, perhaps back to the first."""
    for _ in range(2):
        master = group.master
        await until(lambda: _began(group))
        await until(lambda m=master: group.master is not m)  # type: ignore[misc]


def _began(group: SentinelGroup) -> bool:
    with suppress(redis.ResponseError):
        group.failover()
        return True
    return False


async def kill_and_return(group: SentinelGroup) -> None:
    """The old master returns, as a master at first and then as a replica."""
    master = group.master
    master.kill()
    await until(lambda: group.master is not master)
    await off_loop(master.start)
    await until(lambda: _role(master) == "slave")


async def flush_scripts(group: SentinelGroup) -> None:
    for _ in range(20):
        group.master.command("SCRIPT", "FLUSH")
        await asyncio.sleep(0.05)


def _role(server: RedisServer) -> str:
    return str(server.command("INFO", "replication")["role"])


FAULTS: dict[str, tuple[Fault, bool]] = {
    "master killed": (kill, False),
    "master frozen, replaced, resumed": (freeze_and_resume, False),
    "`SENTINEL FAILOVER`": (operator, True),
    "`SENTINEL FAILOVER`, until the old master is a replica": (
        operator_to_the_end,
        False,
    ),
    "`SENTINEL FAILOVER` twice": (operator_twice, False),
    "master killed, returns as a replica": (kill_and_return, False),
    "scripts flushed": (flush_scripts, True),
}
"""By name: the fault, and whether it is short enough for each run of the suite."""


async def run(group: SentinelGroup, fault: Fault) -> DrillResult:
    """The publisher stays at the old master for as long as that answers."""

    async def injected(_receivers: list[Receiver]) -> None:
        await fault(group)

    return await drill(group.url, injected, publisher=publisher(group), settle_s=2.0)
