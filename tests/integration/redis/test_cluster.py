"""A Cluster under the bus and the limits: keys by slot, failovers, moved slots."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from tests.integration.bus.running_bus import ready, until
from tests.redis import RedisServer, free_port
from tests.redis_drill import PlainPublisher, drill, faults, limits_hold, two_buses
from tests.redis_topologies import Cluster, off_loop
from typelets_ws._publisher.redis import client
from typelets_ws.ports import AcquireResult
from typelets_ws.publisher import Publisher

Fault = Callable[[Cluster], Awaitable[None]]


def publisher(cluster: Cluster) -> PlainPublisher:
    """PUBLISH at one node after the other, replicas too, as redis-py and ioredis do."""
    turn = 0

    def client() -> Any:
        nonlocal turn
        turn += 1
        running = [node for node in cluster.nodes if node.running]
        return redis.asyncio.Redis(
            port=running[turn % len(running)].port,
            socket_timeout=0.5,
            socket_connect_timeout=0.5,
            retry=Retry(NoBackoff(), 0),
        )

    return PlainPublisher(client)


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


async def kill_a_master(cluster: Cluster) -> None:
    cluster.masters()[0].kill()


async def freeze_a_master(cluster: Cluster) -> None:
    master = cluster.masters()[0]
    master.freeze()
    await asyncio.sleep(3)
    master.resume()


async def freeze_the_rest(cluster: Cluster) -> None:
    """A node is cut off for longer than its timeout, its connections never break."""
    for replica in [n for n in cluster.nodes if n not in cluster.masters()]:
        replica.freeze()
    await asyncio.sleep(2.5)
    for node in cluster.nodes:
        node.resume()


async def cluster_failover(cluster: Cluster) -> None:
    master = cluster.masters()[0]
    cluster.replica_of(master).command("CLUSTER", "FAILOVER")


async def move_a_slot(cluster: Cluster) -> None:
    """A slot of a user with devices changes its master, key by key."""
    slot = key_slot(b"typelets:user:user1")
    source = cluster.owner(slot)
    target = next(node for node in cluster.masters() if node is not source)
    await off_loop(lambda: cluster.move_slot(slot, source, target))


async def kill_and_return(cluster: Cluster) -> None:
    master = cluster.masters()[0]
    master.kill()
    await asyncio.sleep(4)
    await off_loop(master.start)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    faults(
        [freeze_the_rest, cluster_failover, kill_and_return],
        kill_a_master,
        freeze_a_master,
        move_a_slot,
    ),
)
async def test_a_cluster_heals_itself(cluster: Cluster, fault: Fault) -> None:
    result = await drill(
        cluster.url,
        lambda: fault(cluster),
        publisher=publisher(cluster),
        settle_s=1.0,
    )
    print(result.row(getattr(fault, "__name__", "")))
    assert result.silent == []


def sharded_publisher(cluster: Cluster) -> PlainPublisher:
    """SPUBLISH with redis-py's client of a Cluster."""

    class Client:
        def __init__(self) -> None:
            self._client = client(cluster.url, 0.5, 10)

        async def publish(self, channel: str, payload: bytes) -> None:
            await asyncio.to_thread(self._client.spublish, channel, payload)

        async def aclose(self) -> None:
            await asyncio.to_thread(self._client.close)

    return PlainPublisher(Client)


def shard_subscribers(node: RedisServer, channel: bytes) -> int:
    reply = node.command("PUBSUB", "SHARDNUMSUB", channel)
    return int(reply[-1][-1] if isinstance(reply[-1], tuple) else reply[-1])


async def test_sharded_and_plain_events_are_heard_once(cluster: Cluster) -> None:
    async with two_buses(
        cluster.url, sharded=True, unsubscribe_delay_s=0.1
    ) as receivers:
        a, b = (receiver.bus for receiver in receivers)
        a.bus.publish("user1", b"1")
        cluster.nodes[0].command("PUBLISH", "typelets:user:user1", "2")
        with Publisher(cluster.url, sharded=True, raise_errors=True) as publisher:
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    faults([kill_a_master, cluster_failover, move_a_slot], freeze_a_master),
)
async def test_sharded_subscriptions_follow(cluster: Cluster, fault: Fault) -> None:
    result = await drill(
        cluster.url,
        lambda: fault(cluster),
        publisher=sharded_publisher(cluster),
        settle_s=1.0,
        sharded=True,
    )
    print(result.row(f"sharded {getattr(fault, '__name__', '')}"))
    assert result.silent == []


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
        ),
        15,
    )
    await until(lambda: "cluster_state:ok" in added.command("CLUSTER", "INFO"), 15)
