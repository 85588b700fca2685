"""A Sentinel group under the bus and the limits: every failover heals itself."""

import pytest

from tests.integration.bus.running_bus import ready, running_bus, until
from tests.redis import RedisServer
from tests.redis_topologies import SentinelGroup
from tests.within import within


@pytest.mark.usefixtures("steady_sentinel_group")
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
        await until(lambda: not one.bus.proven)
        for sentinel in sentinel_group.sentinels[:2]:
            sentinel.resume()
        await one.ready()
        assert {user for user, _ in one.gaps} == {"ann"}
        await one.barrier("ann")


@pytest.mark.usefixtures("steady_sentinel_group")
async def test_one_frozen_sentinel_delays_nothing(
    sentinel_group: SentinelGroup,
) -> None:
    with sentinel_group.sentinels[0].frozen(), within(2):
        async with ready(sentinel_group.url) as one:
            assert await one.bus.subscribe("ann")
            await one.barrier("ann")


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
