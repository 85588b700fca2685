"""The masters of a Cluster, for a subscriber with a connection to each."""

from collections.abc import Callable

from ..config.redis_address import Node
from .cluster import ClusterClient
from .reconnect import Reconnector
from .topology import ClusterTopology

__all__ = ["Shards"]


class Shards:
    """`reconnector(node)` keeps a connection to one master."""

    def __init__(
        self,
        topology: ClusterTopology,
        client: ClusterClient,
        reconnector: Callable[[Node], Reconnector],
    ) -> None:
        self._topology = topology
        self._client = client
        self.reconnector = reconnector

    def masters(self) -> frozenset[Node]:
        """The masters of the newest map."""
        return self._topology.slots.masters

    def owner(self, slot: int) -> Node | None:
        """The master of a slot in the newest map."""
        return self._topology.slots.owner(slot)

    def request_refresh(self) -> None:
        """Ask for a new map soon."""
        self._client.request_refresh()

    def on_map(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each new map."""
        self._client.on_map(callback)
