"""The map of a Cluster: asked for again and again, from one node after the other.

Invariants. A map replaces an older one only: a node that was cut off knows an older
epoch, or says that the cluster has failed, and is not believed. Any node may be asked.
Tested by tests/integration/redis/test_cluster.py.
"""

import random
from contextlib import suppress
from functools import partial
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from ..config.redis_address import Node
from .connection import RedisConnection
from .connector import RedisConnector
from .dial import ATTEMPT_DELAY_S, first_success
from .slots import SlotMap, parse_slots

__all__ = ["ClusterTopology"]

NODE_TIMEOUT_S: Final = 15.0
"""Redis' default, for servers that refuse CONFIG GET."""


class ClusterTopology:
    """Knows the masters; `seeds` are asked first and when no known node answers."""

    def __init__(
        self, seeds: tuple[Node, ...], connector: RedisConnector, rng: random.Random
    ) -> None:
        self.slots = SlotMap()
        self.node_timeout_s = NODE_TIMEOUT_S
        self._seeds = seeds
        self._connector = connector
        self._rng = rng
        self._epoch = -1
        self._queue: list[Node] = []

    async def refresh(self) -> None:
        """Take the newest map; raises what the last node raised when none answers."""
        nodes = self._shuffled()
        self._epoch, self.slots = await first_success(
            [partial(self._ask, node) for node in nodes], delay_s=ATTEMPT_DELAY_S
        )

    async def open(self, protocol: RedisConnection[Any]) -> AbstractConnection:
        """Connect to any node, another one each time: for classic pub/sub."""
        if not self._queue:
            self._queue = self._shuffled()
        return await self._connector.open(protocol, self._queue.pop())

    def _shuffled(self) -> list[Node]:
        known = list(self.slots.masters)
        self._rng.shuffle(known)
        return [*known, *(seed for seed in self._seeds if seed not in known)]

    async def _ask(self, node: Node) -> tuple[int, SlotMap]:
        """Raises ValueError for a node that does not know the newest map."""
        commands = ["CLUSTER INFO", "CLUSTER SLOTS", "CONFIG GET cluster-node-timeout"]
        info, slots, timeout = await self._connector.ask(node, *commands)
        epoch = -1
        if isinstance(info, bytes):
            facts = dict(line.partition(b":")[::2] for line in info.split(b"\r\n"))
            epoch = int(facts.get(b"cluster_current_epoch", -1))
            if epoch < self._epoch or facts.get(b"cluster_state") == b"fail":
                raise ValueError("this node does not know the newest map")
        if isinstance(slots, ResponseError):
            raise ValueError(str(slots))
        with suppress(ValueError, TypeError, IndexError):
            self.node_timeout_s = int(timeout[1]) / 1000
        return epoch, parse_slots(slots, node)
