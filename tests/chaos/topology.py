"""One Redis, a Sentinel group or a Cluster: the same harm done to each."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import redis

from tests.redis import RedisServer
from tests.redis_topologies import Cluster, SentinelGroup

__all__ = [
    "TOPOLOGIES",
    "Clustered",
    "RedisSetup",
    "Sentinels",
    "Single",
    "ask_all",
]


REPLACED_S = 5.0
"""A master that is dead for so long is replaced by a replica."""


class RedisSetup(Protocol):
    """Redis as the daemons know it, and ways to harm it."""

    @property
    def url(self) -> str:
        """The address for a daemon."""
        ...

    @property
    def servers(self) -> Sequence[RedisServer]:
        """All that a daemon may connect to, sentinels too."""
        ...

    def start(self) -> None: ...

    def close(self) -> None: ...

    def masters(self) -> Sequence[RedisServer]:
        """The servers that hold the data, as far as they answer."""
        ...

    async def harm(self, rng: random.Random) -> None:
        """Kill a server, leave it dead for a while, and start it again."""
        ...

    async def freeze(self, rng: random.Random) -> None:
        """Let a server stand still for a while."""
        ...

    async def fail_over(self, rng: random.Random) -> None:
        """Have another server become the master; a single one comes back empty."""
        ...

    def restore(self) -> None:
        """Have all servers run and agree; nothing to do for a single one."""
        ...


def ask_all(topology: RedisSetup, *command: object) -> list[Any]:
    """The replies of all masters, one list after the other."""
    return [one for server in topology.masters() for one in server.command(*command)]


async def _dead_for(server: RedisServer, seconds: float) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(server.start)


async def _frozen_for(server: RedisServer, seconds: float) -> None:
    server.freeze()
    try:
        await asyncio.sleep(seconds)
    finally:
        server.resume()


class Single:
    """One server, which comes back empty."""

    def __init__(self, place: Path) -> None:
        self.server = RedisServer(place, "--enable-debug-command", "yes")

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def servers(self) -> Sequence[RedisServer]:
        return [self.server]

    def start(self) -> None:
        self.server.start()

    def close(self) -> None:
        self.server.kill()

    def masters(self) -> Sequence[RedisServer]:
        return [self.server]

    async def harm(self, rng: random.Random) -> None:
        await _dead_for(self.server, rng.uniform(0.0, 2.0))

    async def freeze(self, rng: random.Random) -> None:
        await _frozen_for(self.server, rng.uniform(0.2, 2.5))

    async def fail_over(self, rng: random.Random) -> None:
        await self.harm(rng)

    def restore(self) -> None:
        self.server.resume()
        self.server.start()


class Sentinels:
    """A Sentinel group: a dead or frozen master is replaced by a replica."""

    def __init__(self, place: Path) -> None:
        self.group = SentinelGroup(place)

    @property
    def url(self) -> str:
        return self.group.url

    @property
    def servers(self) -> Sequence[RedisServer]:
        return [*self.group.servers, *self.group.sentinels]

    def start(self) -> None:
        self.group.start()

    def close(self) -> None:
        self.group.kill()

    def masters(self) -> Sequence[RedisServer]:
        return [self.group.master]

    async def harm(self, rng: random.Random) -> None:
        with suppress(redis.RedisError, StopIteration):
            if rng.random() < 0.4:
                await asyncio.to_thread(self.group.failover)
                return
            servers = [*self.servers, self.group.master]
            await _dead_for(rng.choice(servers), rng.uniform(0.5, 3.0))

    async def freeze(self, rng: random.Random) -> None:
        await _frozen_for(rng.choice(self.servers), rng.uniform(0.2, 3.0))

    async def fail_over(self, rng: random.Random) -> None:
        with suppress(redis.RedisError, StopIteration):
            if rng.random() < 0.5:
                await asyncio.to_thread(self.group.failover)
            else:
                await _dead_for(self.group.master, REPLACED_S)

    def restore(self) -> None:
        for server in self.servers:
            server.resume()
            server.start()


class Clustered:
    """A Cluster of three masters and three replicas."""

    def __init__(self, place: Path) -> None:
        self.cluster = Cluster(place)

    @property
    def url(self) -> str:
        return self.cluster.url

    @property
    def servers(self) -> Sequence[RedisServer]:
        return self.cluster.nodes

    def start(self) -> None:
        self.cluster.start()

    def close(self) -> None:
        self.cluster.kill()

    def masters(self) -> Sequence[RedisServer]:
        return self.cluster.masters()

    async def harm(self, rng: random.Random) -> None:
        await _dead_for(rng.choice(self.cluster.nodes), rng.uniform(0.5, 3.0))

    async def freeze(self, rng: random.Random) -> None:
        await _frozen_for(rng.choice(self.cluster.nodes), rng.uniform(0.2, 3.0))

    async def fail_over(self, rng: random.Random) -> None:
        # A master that has just been replaced may have no replica yet.
        with suppress(redis.RedisError, StopIteration, IndexError):
            master = rng.choice(self.cluster.masters())
            if rng.random() < 0.5:
                replica = self.cluster.replica_of(master)
                await asyncio.to_thread(replica.command, "CLUSTER", "FAILOVER")
            else:
                await _dead_for(master, REPLACED_S)

    def restore(self) -> None:
        for node in self.cluster.nodes:
            node.resume()
            node.start()


TOPOLOGIES: dict[str, type[Single] | type[Sentinels] | type[Clustered]] = {
    "single": Single,
    "sentinel": Sentinels,
    "cluster": Clustered,
}
