"""A Cluster under the bus and the limits: keys by slot, failovers, moved slots."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
import redis.asyncio
from redis.crc import key_slot

from tests.drills.drill import limits_hold, two_buses
from tests.integration.bus.running_bus import RunningBus, ready, until
from tests.redis import RedisServer, free_port
from tests.redis_topologies import Cluster
from tests.within import PATIENCE_S
from typelets_ws.ports import AcquireResult
from typelets_ws.publisher import Publisher
from typelets_ws.redis.cluster import ClusterClient


@pytest.mark.usefixtures("steady_cluster")
async def test_events_and_limits_work_on_a_cluster(cluster: Cluster) -> None:
    async with two_buses(cluster.url) as receivers:
        a, b = (receiver.bus for receiver in receivers)
        await a.barrier("user1")
        await b.barrier("user2")
        await limits_hold(a, b)
        assert a.bus.commands.up
        assert a.sample("redis_failovers_total") == 0
        for node in cluster.nodes:
            node.command("PUBLISH", "typelets:user:user3", f"1{node.port}")
        sent = {f"1{node.port}".encode() for node in cluster.nodes}
        await until(lambda: sent <= set(a.payloads) & set(b.payloads))


@pytest.mark.usefixtures("steady_cluster")
async def test_slots_of_two_hundred_users_with_braces(cluster: Cluster) -> None:
    users = [f"user_{n}" for n in range(150)]
    users += ["{", "}", "{}", "a{b}c", "}{", "{{x}}", "{a}{b}", "ü{é}", *"{}{}{}"]
    async with ready(cluster.url) as one:
        results = await asyncio.gather(
            *(one.limits.acquire(user, "c", "sess") for user in users)
        )
        assert set(results) == {AcquireResult.GRANTED}
        assert not one.limits.refused
        # Scripts that a node lost are loaded again.
        for master in cluster.masters():
            master.command("SCRIPT", "FLUSH")
        results = await asyncio.gather(
            *(one.limits.acquire(user, "d", "sess") for user in users)
        )
        assert set(results) == {AcquireResult.GRANTED}
        assert not one.limits.refused


async def test_events_at_a_node_that_the_cluster_lost_are_reported(
    cluster: Cluster,
) -> None:
    """It acknowledges them, and no process hears them."""
    node = cluster.replica_of(cluster.masters()[0])
    async with two_buses(cluster.url) as receivers:
        buses = [receiver.bus for receiver in receivers]

        cluster.forget(node)
        try:
            await until(lambda: not any(knows(bus, node) for bus in buses))
            # A bus that listened there finds itself deaf first.
            await until(lambda: not subscribers(node))
            await until(lambda: all(bus.bus.proven for bus in buses))
            for bus in buses:
                bus.gaps.clear()
            assert node.command("PUBLISH", "typelets:user:user1", "1") == 0
        finally:
            cluster.meet(node)
        await until(lambda: all(("user1", "failover") in bus.gaps for bus in buses))
        await until(lambda: all(knows(bus, node) for bus in buses))


def subscribers(node: RedisServer) -> int:
    reply = node.command("PUBSUB", "NUMSUB", "typelets:user:user1")
    return int(reply[-1][-1] if isinstance(reply[-1], tuple) else reply[-1])


def knows(bus: RunningBus, node: RedisServer) -> bool:
    """Whether the process' map of the Cluster has the node."""
    client = bus.bus.commands
    assert isinstance(client, ClusterClient)
    return ("127.0.0.1", node.port) in client._topology.slots.nodes


def shard_subscribers(node: RedisServer, channel: bytes) -> int:
    reply = node.command("PUBSUB", "SHARDNUMSUB", channel)
    return int(reply[-1][-1] if isinstance(reply[-1], tuple) else reply[-1])


@pytest.mark.usefixtures("steady_cluster")
async def test_sharded_and_plain_events_are_heard_once(cluster: Cluster) -> None:
    async with two_buses(
        cluster.url, sharded=True, unsubscribe_delay_s=0.1
    ) as receivers:
        a, b = (receiver.bus for receiver in receivers)
        a.bus.publish("user1", b"1")
        cluster.nodes[0].command("PUBLISH", "typelets:user:user1", "2")
        with Publisher(
            cluster.url, sharded=True, timeout_s=PATIENCE_S, raise_errors=True
        ) as publisher:
            heard = await asyncio.to_thread(publisher.disconnect_user, "user1")
            assert heard == 2
        await until(lambda: len(a.events) == len(b.events) == 3)
        for one in (a, b):
            assert {b"1", b"2"} <= set(one.payloads)
        await limits_hold(a, b)
        a.bus.unsubscribe("user1")
        channel = b"typelets:user:user1"
        owner = cluster.owner(key_slot(channel))
        await until(lambda: shard_subscribers(owner, channel) == 1)
        # A return is heard again, without a gap.
        a.gaps.clear()
        assert await a.bus.subscribe("user1")
        await a.barrier("user1")
        assert a.gaps == []


async def test_a_slot_on_its_way_to_a_new_master(
    cluster: Cluster, tmp_path: Path
) -> None:
    """ASK names a master without slots, which the map does not have."""
    source = cluster.owner(key_slot(b"typelets:nonce:ann:n"))
    added = RedisServer(
        tmp_path, *source.options[:-2], "--cluster-port", str(free_port())
    )
    added.start()
    try:
        await join(cluster, added)
        slot, source_id = key_slot(b"typelets:nonce:ann:n"), cluster.node_id(source)
        added.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        async with ready(cluster.url) as one:
            source.command(
                "CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.node_id(added)
            )
            assert await one.limits.claim_nonce("ann", b"n", 60_000)
            assert not await one.limits.claim_nonce("ann", b"n", 60_000)
            assert not one.limits.refused
            assert added.command("DBSIZE") == 1
            assert one.sample("redis_failovers_total") == 0
            source.command("CLUSTER", "SETSLOT", slot, "STABLE")
    finally:
        added_id = cluster.node_id(added)
        added.kill()
        for node in cluster.nodes:
            with suppress(redis.ResponseError):
                node.command("CLUSTER", "FORGET", added_id)


async def join(cluster: Cluster, added: RedisServer) -> None:
    """Wait until every node knows the new one, and it serves."""
    port = cluster.nodes[0]
    added.command("CLUSTER", "MEET", "127.0.0.1", port.port, port.bus_port)
    added_id = cluster.node_id(added)
    await until(
        lambda: all(
            any(
                line.startswith(added_id) and " connected" in line
                for line in node.command("CLUSTER", "NODES").splitlines()
            )
            for node in cluster.nodes
        )
    )
    await until(lambda: "cluster_state:ok" in added.command("CLUSTER", "INFO"))
