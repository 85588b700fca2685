"""Builds the daemon's connections to Redis from its address."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ..config.model import Redis as Config
from ..config.redis_address import Node, RedisAddress, Topology, parse
from ..telemetry.telemetry import Telemetry
from .client import MasterClient, RedisClient
from .cluster import ClusterClient
from .commands import NodeClient
from .connector import RedisConnector
from .master import MasterFinder, SingleServer
from .node_watch import NodeWatch
from .reconnect import Outage, Reconnector, Unreported
from .role import Mode
from .sentinel import SentinelMaster
from .shards import Shards
from .topology import ClusterTopology

__all__ = ["RedisConnections", "connect_redis"]


@dataclass(frozen=True, slots=True)
class RedisConnections:
    """`client` sends commands; `events` keeps the connection of the subscriber.

    `watch` sends probes through the other nodes of a Cluster. `shards` is for sharded
    pub/sub; None unless it is configured.
    """

    client: RedisClient
    events: Reconnector
    watch: NodeWatch | None = None
    shards: Shards | None = None


def connect_redis(
    config: Config,
    telemetry: Telemetry,
    monotonic: Callable[[], float],
    rng: random.Random,
) -> RedisConnections:
    """Nothing is connected before `client.run`. Raises ValueError or TypeError."""
    address = parse(config.url)
    outage = Outage(telemetry, monotonic)
    reconnector = partial(Reconnector, outage=outage, rng=rng)
    timeout_s = config.command_timeout_s
    if address.kind is Topology.CLUSTER:
        reading = _connector(config, address, Mode.CLUSTER, replica_allowed=True)
        writing = _connector(config, address, Mode.CLUSTER)
        topology = ClusterTopology(address.nodes, reading, rng)

        def make(node: Node) -> NodeClient:
            connect = partial(writing.open, node=node)
            own = reconnector("commands", connect, key=f"{node[0]}:{node[1]}")
            return NodeClient(own, timeout_s, telemetry)

        def make_watched(node: Node) -> NodeClient:
            connect = partial(reading.open, node=node)
            own = reconnector("commands", connect, outage=Unreported())
            return NodeClient(own, timeout_s, telemetry)

        watch = NodeWatch(make_watched, monotonic, telemetry)
        cluster = ClusterClient(topology, make, watch, telemetry)

        def keep(node: Node) -> Reconnector:
            connect = partial(writing.open, node=node)
            return reconnector("events", connect, key=f"{node[0]}:{node[1]}")

        shards = Shards(topology, cluster, keep) if config.sharded else None
        events = reconnector("events", topology.open)
        return RedisConnections(cluster, events, watch, shards)
    connector = _connector(config, address, Mode.SERVER)
    finder: MasterFinder = SingleServer(connector)
    if address.kind is Topology.SENTINEL:
        finder = SentinelMaster(address, connector, telemetry, rng)
    own = reconnector("commands", finder.open)
    client = MasterClient(own, timeout_s, finder, telemetry)
    return RedisConnections(client, reconnector("events", finder.open))


def _connector(
    config: Config, address: RedisAddress, mode: Mode, *, replica_allowed: bool = False
) -> RedisConnector:
    return RedisConnector(
        address.server_url,
        config.connect_timeout_s,
        mode,
        replica_allowed=replica_allowed,
    )
