"""Valkey in place of Redis: alone, and as a Cluster with sharded pub/sub."""

import asyncio

import pytest

from tests.drills.cluster import failover, move_slot, run
from tests.drills.drill import Receiver, limits_hold, two_buses
from tests.integration.bus.running_bus import ready, until
from tests.redis import RedisServer
from tests.redis_topologies import Cluster


async def test_a_single_valkey(valkey: RedisServer) -> None:
    assert "valkey_version" in valkey.command("INFO", "server")
    async with ready(valkey.url, 1) as a, ready(valkey.url, 2) as b:
        assert await b.bus.subscribe("ann")
        a.bus.publish("ann", b"1")
        await until(lambda: b.events)
        await limits_hold(a, b)
        valkey.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: b.gaps)
        await b.barrier("ann")


@pytest.mark.usefixtures("steady_valkey_cluster")
async def test_a_valkey_cluster(valkey_cluster: Cluster) -> None:
    async with two_buses(valkey_cluster.url, sharded=True) as receivers:
        a, b = (receiver.bus for receiver in receivers)
        a.bus.publish("user1", b"1")
        valkey_cluster.nodes[0].command("PUBLISH", "typelets:user:user1", "2")
        await until(lambda: len(a.events) == len(b.events) == 2)
        await limits_hold(a, b)


@pytest.mark.slow
async def test_valkeys_failover_and_moved_slot(valkey_cluster: Cluster) -> None:
    async def fault(cluster: Cluster, receivers: list[Receiver]) -> None:
        master = cluster.masters()[0]
        await failover(cluster, receivers)
        await until(lambda: master not in cluster.masters())
        await asyncio.sleep(1)
        await move_slot(cluster, receivers)

    result = await run(valkey_cluster, fault, sharded=True)
    assert result.silent == []
