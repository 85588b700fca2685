"""Nodes that have left the map of a Cluster, while clients may still reach them.

A node that is cut off from the others, or that they have forgotten, acknowledges
PUBLISH, and no process hears it. Probes pass through the masters of the map only.

Invariants. `on_settled` is called when such a node is back in the map, and when it
stops answering. One that goes on answering is watched for `WATCH_S`; then `on_settled`
is called once more. Tested by tests/integration/redis/test_cluster.py.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ..config.redis_address import Node

__all__ = ["LostNodes"]

ASK_EVERY_S: Final = 1.0
WATCH_S: Final = 60.0


class LostNodes:
    """`answers(node)` asks a node whether it takes commands; it never raises."""

    def __init__(
        self, answers: Callable[[Node], Awaitable[bool]], on_settled: Callable[[], None]
    ) -> None:
        self._answers = answers
        self._on_settled = on_settled
        self._known: frozenset[Node] = frozenset()
        self._lost: set[Node] = set()

    def follow(self, nodes: frozenset[Node], group: asyncio.TaskGroup) -> None:
        """Compare the newest map's nodes with those before; watch the lost ones."""
        back = self._lost & nodes
        gone = self._known - nodes
        self._known = nodes
        self._lost = (self._lost | gone) - back
        for node in gone:
            group.create_task(self._watch(node))
        if back:
            self._on_settled()

    async def _watch(self, node: Node) -> None:
        loop = asyncio.get_running_loop()
        end, answered = loop.time() + WATCH_S, False
        while node in self._lost and loop.time() < end:
            now = await self._answers(node)
            if answered and not now:
                break
            answered = now
            await asyncio.sleep(ASK_EVERY_S)
        if answered and node in self._lost:
            self._on_settled()
