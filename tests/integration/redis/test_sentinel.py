"""A Sentinel group under the bus and the limits: every failover heals itself."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.integration.bus.running_bus import ready, running_bus, until
from tests.redis import RedisServer
from tests.redis_drill import PlainPublisher, drill, faults
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


async def test_the_master_is_found_and_used(sentinel_group: SentinelGroup) -> None:
    async with ready(sentinel_group.url) as one:
        assert await one.bus.subscribe("ann")
        await one.barrier("ann")
        assert one.bus.commands.node == f"127.0.0.1:{sentinel_group.master.port}"
        assert one.sample("redis_failovers_total") == 0


async def test_a_minority_of_sentinels_proves_nothing(
    sentinel_group: SentinelGroup,
) -> None:
    async with ready(sentinel_group.url) as one:
        assert await one.bus.subscribe("ann")
        for sentinel in sentinel_group.sentinels[:2]:
            sentinel.freeze()
        await until(lambda: not one.bus.proven, 10)
        for sentinel in sentinel_group.sentinels[:2]:
            sentinel.resume()
        await one.ready(10)
        assert {user for user, _ in one.gaps} == {"ann"}
        await one.barrier("ann")


async def test_one_frozen_sentinel_delays_nothing(
    sentinel_group: SentinelGroup,
) -> None:
    with sentinel_group.sentinels[0].frozen():
        async with asyncio.timeout(2), ready(sentinel_group.url) as one:
            assert await one.bus.subscribe("ann")
            await one.barrier("ann")


async def kill(group: SentinelGroup) -> None:
    group.master.kill()


async def freeze_and_resume(group: SentinelGroup) -> None:
    """The frozen master is replaced; when it resumes it believes to be the master."""
    master = group.master
    master.freeze()
    await until(lambda: group.master is not master, 20)
    await asyncio.sleep(1)
    master.resume()


async def operator(group: SentinelGroup) -> None:
    group.failover()


async def kill_and_return(group: SentinelGroup) -> None:
    """The old master returns, as a master at first."""
    master = group.master
    master.kill()
    await until(lambda: group.master is not master, 20)
    await off_loop(master.start)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", faults([operator, kill_and_return], kill, freeze_and_resume)
)
async def test_a_failover_heals_itself(
    sentinel_group: SentinelGroup, fault: Fault
) -> None:
    old = sentinel_group.master
    result = await drill(
        sentinel_group.url,
        lambda: fault(sentinel_group),
        publisher=publisher(sentinel_group),
        settle_s=2.0,
    )
    print(result.row(getattr(fault, "__name__", "")))
    assert result.silent == []
    assert sentinel_group.master is not old


async def test_credentials_of_servers_and_sentinels(
    sentinel_group: SentinelGroup,
) -> None:
    """A wrong password of the sentinels is not the servers', and is named."""
    url = sentinel_group.url + "?sentinel_password=wrong"
    async with running_bus(url) as one:
        with pytest.raises(AssertionError):
            await one.ready(1.0)
        assert not one.bus.commands.up


def test_the_group_is_restored(sentinel_group: SentinelGroup) -> None:
    assert isinstance(sentinel_group.master, RedisServer)
