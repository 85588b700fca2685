"""Faults of a Cluster, with classic and with sharded pub/sub."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from tests.drills.drill import USERS, DrillResult, PlainPublisher, Receiver, drill
from tests.integration.bus.running_bus import until
from tests.redis import RedisServer, link_proxy
from tests.redis_topologies import NODE_TIMEOUT_MS, Cluster, off_loop
from typelets_ws._publisher.redis import client

Fault = Callable[[Cluster, list[Receiver]], Awaitable[float | None]]


def publisher(cluster: Cluster) -> PlainPublisher:
    """PUBLISH at one node after the other, replicas too, as redis-py and ioredis do.

    It begins at the node that `forget` takes: no process hears it there.
    """
    turn = cluster.nodes.index(first_replica(cluster)) - 1

    def one() -> Any:
        nonlocal turn
        turn += 1
        nodes = [cluster.nodes[(turn + n) % len(cluster.nodes)] for n in range(6)]
        return redis.asyncio.Redis(
            port=next(node for node in nodes if node.running).port,
            socket_timeout=0.5,
            socket_connect_timeout=0.5,
            retry=Retry(NoBackoff(), 0),
        )

    return PlainPublisher(one)


def first_replica(cluster: Cluster) -> RedisServer:
    masters = cluster.masters()
    return next(each for each in cluster.nodes if each not in masters)


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


async def kill(cluster: Cluster, _receivers: list[Receiver]) -> None:
    cluster.masters()[0].kill()


async def freeze(cluster: Cluster, _receivers: list[Receiver]) -> None:
    master = cluster.masters()[0]
    master.freeze()
    await asyncio.sleep(3)
    master.resume()


async def freeze_replicas(cluster: Cluster, _receivers: list[Receiver]) -> None:
    """A node is cut off for longer than its timeout, its connections never break."""
    masters = cluster.masters()
    for replica in [node for node in cluster.nodes if node not in masters]:
        replica.freeze()
    await asyncio.sleep(2.5)
    for node in cluster.nodes:
        node.resume()


async def failover(cluster: Cluster, _receivers: list[Receiver]) -> None:
    master = cluster.masters()[0]
    cluster.replica_of(master).command("CLUSTER", "FAILOVER")


async def move_slot(cluster: Cluster, _receivers: list[Receiver]) -> None:
    """A slot of a user with devices changes its master, key by key."""
    slot = key_slot(f"typelets:user:{USERS[1]}".encode())
    source = cluster.owner(slot)
    target = next(node for node in cluster.masters() if node is not source)
    await off_loop(lambda: cluster.move_slot(slot, source, target))


async def kill_and_return(cluster: Cluster, _receivers: list[Receiver]) -> None:
    """The old master returns, and becomes a replica of the new one."""
    master = cluster.masters()[0]
    master.kill()
    await until(lambda: all(master is not each for each in cluster.masters()))
    await off_loop(master.start)
    await until(lambda: _role(cluster, master.port) == "slave")


async def flush_scripts(cluster: Cluster, _receivers: list[Receiver]) -> None:
    masters = cluster.masters()
    for number in range(21):
        masters[number % 3].command("SCRIPT", "FLUSH")
        await asyncio.sleep(0.05)


async def forget(cluster: Cluster, receivers: list[Receiver]) -> float:
    """A node that a process listens at is forgotten: it answers, and hears nothing.

    The plain publisher stays at the same node.
    """
    node = first_replica(cluster)
    listening = receivers[1].bus.listening_at
    while listening() != node.port:
        port = listening()
        if port:
            cluster.node(port).command("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda p=port: listening() not in {0, p})  # type: ignore[misc]
    await receivers[1].bus.ready()
    began = time.monotonic()
    cluster.forget(node)
    await until(lambda: listening() not in {0, node.port})
    # Nodes that are cut off for less than the node timeout are not lost to the others.
    await asyncio.sleep(2 * NODE_TIMEOUT_MS / 1000)
    cluster.meet(node)
    return began


async def disconnect(cluster: Cluster, _receivers: list[Receiver]) -> float:
    """A master that no client reaches, while the Cluster knows nothing of it."""
    master = cluster.masters()[0]
    async with link_proxy(master.port) as proxy:
        master.command("CONFIG", "SET", "cluster-announce-port", proxy.port)
        try:
            await until(lambda: _known(cluster, proxy.port))
            await asyncio.sleep(1)
            began = time.monotonic()
            proxy.stall()
            await asyncio.sleep(3)
            await proxy.heal()
            await asyncio.sleep(1)
        finally:
            master.command("CONFIG", "SET", "cluster-announce-port", 0)
        await until(lambda: _known(cluster, master.port))
    return began


def _known(cluster: Cluster, port: int) -> bool:
    return all(
        any(entry[2][1] == port for entry in node.command("CLUSTER", "SLOTS"))
        for node in cluster.nodes
    )


def _role(cluster: Cluster, port: int) -> str:
    return str(cluster.node(port).command("INFO", "replication")["role"])


FAULTS: dict[str, tuple[Fault, bool]] = {
    "master killed": (kill, False),
    "master frozen 3 s, resumed": (freeze, False),
    "all replicas frozen 2.5 s": (freeze_replicas, False),
    "`CLUSTER FAILOVER`": (failover, True),
    "master killed, returns as a replica": (kill_and_return, False),
    "slot of a user moved": (move_slot, False),
    "scripts flushed": (flush_scripts, True),
    "node of a subscriber forgotten (`CLUSTER FORGET`)": (forget, True),
    "master cut off from all clients for 3 s": (disconnect, False),
}
"""By name: the fault, and whether it is short enough for each run of the suite."""
SHARDED: dict[str, tuple[Fault, bool]] = {
    "master killed": (kill, True),
    "master frozen 3 s, resumed": (freeze, False),
    "`CLUSTER FAILOVER`": (failover, False),
    "master killed, returns as a replica": (kill_and_return, False),
    "slot of a subscribed user moved": (move_slot, True),
    "master cut off from all clients for 3 s": (disconnect, False),
}


async def run(cluster: Cluster, fault: Fault, *, sharded: bool = False) -> DrillResult:
    """Publishers use PUBLISH, or SPUBLISH."""

    async def injected(receivers: list[Receiver]) -> float | None:
        return await fault(cluster, receivers)

    return await drill(
        cluster.url,
        injected,
        publisher=(sharded_publisher if sharded else publisher)(cluster),
        settle_s=1.0,
        sharded=sharded,
    )
