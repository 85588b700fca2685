"""redis-py clients for a publisher: every wait short, no connection beyond a bound.

A pool made by `from_url` refuses above 100 connections and waits 5 s for an answer;
here a full pool waits, and one attempt of connecting or reading ends after `timeout_s`.
A connection that broke while idle is replaced at once. An address of a Sentinel group
or a Cluster gives a client that follows its masters.
"""

from contextlib import suppress
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from ..config.redis_address import RedisAddress, Topology, parse
from ..redis.dialled import dialled
from .sentinel import async_sentinel_client, options, sentinel_client

__all__ = ["Cluster", "async_client", "client", "publish_and_count"]


def client(url: str, timeout_s: float, connections: int) -> Any:
    """A blocking client of its own pool; nothing is connected yet.

    Raises ValueError for a malformed address.
    """
    address = parse(url)
    if address.kind is Topology.SENTINEL:
        return sentinel_client(address, timeout_s, connections)
    if address.kind is Topology.CLUSTER:
        return Cluster(address, timeout_s, connections)
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )
    return redis.Redis.from_pool(pool)


def async_client(url: str, timeout_s: float, connections: int) -> Any:
    """The same for asyncio."""
    address = parse(url)
    if address.kind is Topology.SENTINEL:
        return async_sentinel_client(address, timeout_s, connections)
    if address.kind is Topology.CLUSTER:
        nodes = [redis.asyncio.cluster.ClusterNode(*node) for node in address.nodes]
        cluster = redis.asyncio.cluster.RedisCluster(
            startup_nodes=nodes,
            max_connections=connections,
            **_cluster_options(address, timeout_s),
        )
        # The nodes that are found later get these arguments, too.
        shared: dict[str, Any] = cluster.get_connection_kwargs()
        shared["connection_class"] = dialled(shared["connection_class"])
        for node in cluster.startup_nodes:
            node.connection_class = shared["connection_class"]
        return cluster
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=AsyncRetry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )
    # redis-py gives the whole timeout to the first address of a host name.
    pool.connection_class = dialled(pool.connection_class)
    return redis.asyncio.Redis.from_pool(pool)


def publish_and_count(link: Any, channel: str, payload: bytes) -> int:
    """Publish with a client of `client`; return how many processes subscribe.

    A node of a Cluster counts its own subscribers only, so all nodes are asked. Where
    the ACL forbids that, it is the number of the one node.
    """
    heard = int(link.publish(channel, payload))
    if isinstance(link, Cluster):
        with suppress(redis.ResponseError):
            heard = max(heard, sum(count for _, count in link.pubsub_numsub(channel)))
    return heard


def _cluster_options(address: RedisAddress, timeout_s: float) -> dict[str, Any]:
    found = options(
        address.server_url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
    )
    found.pop("db", None)
    return found


class Cluster:
    """redis-py's client of a Cluster, which connects when it is made: so, later."""

    def __init__(
        self, address: RedisAddress, timeout_s: float, connections: int
    ) -> None:
        self._address = address
        self._options = _cluster_options(address, timeout_s)
        self._options["max_connections"] = connections
        self._made: redis.cluster.RedisCluster | None = None

    def set(self, key: str, value: bytes, *, ex: int) -> Any:
        """SET at the key's master."""
        return self.client().set(key, value, ex=ex)

    def publish(self, channel: str, payload: bytes) -> int:
        """PUBLISH at one node; the reply counts the subscribers of that node only."""
        return int(self.client().publish(channel, payload))

    def spublish(self, channel: str, payload: bytes) -> int:
        """SPUBLISH at the channel's master."""
        return int(self.client().spublish(channel, payload))

    def pubsub_numsub(self, channel: str) -> Any:
        """Subscribers of a channel, over all nodes."""
        return self.client().pubsub_numsub(channel, target_nodes="all")

    def close(self) -> None:
        """Close all connections."""
        made, self._made = self._made, None
        if made is not None:
            made.close()

    def client(self) -> redis.cluster.RedisCluster:
        """The client of redis-py; the first call connects."""
        if self._made is None:
            node_class: Any = redis.cluster.ClusterNode
            nodes = [node_class(*node) for node in self._address.nodes]
            self._made = redis.cluster.RedisCluster(
                startup_nodes=nodes, **self._options
            )
        return self._made
