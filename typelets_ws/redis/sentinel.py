"""Follows the master of a Sentinel group.

Invariants. The master is the server that more than half of the configured sentinels
name; with less the master is unknown, and nothing is proven. All sentinels are asked at
once, so a frozen one delays nothing while the others agree. They are asked every
second: an operator's failover leaves the connections to the old master open for ten
seconds and more. The hint `+switch-master` is not subscribed to: it saves half a second
on average, may be lost, and events at the old master are received meanwhile. A server
that was left while it still was a master is watched until it is a replica: until then
events of publishers that have not moved reach only users who were subscribed there.
Tested by tests/integration/redis/test_sentinel.py.
"""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection

from ..config.redis_address import Node, RedisAddress
from ..telemetry.telemetry import Telemetry
from .commands import NodeClient
from .connection import RedisConnection
from .connector import RedisConnector
from .master import FailoverHandler
from .reconnect import Reconnector, Unreported
from .role import Mode, NotMasterError

__all__ = ["SentinelMaster"]

ASK_EVERY_S: Final = 1.0
ASK_TIMEOUT_S: Final = 1.0
WATCH_OLD_MASTER_S: Final = 60.0


class SentinelMaster:
    """A `MasterFinder` for `address`; `connector` opens connections to the servers."""

    names_failovers = True

    def __init__(
        self,
        address: RedisAddress,
        connector: RedisConnector,
        telemetry: Telemetry,
        rng: random.Random,
    ) -> None:
        self._name = address.master
        self._connector = connector
        self._log = telemetry.log
        asking = RedisConnector(address.sentinel_url, ASK_TIMEOUT_S, Mode.SENTINEL)
        self._sentinels = [
            NodeClient(
                Reconnector(
                    "sentinel", partial(asking.open, node=node), Unreported(), rng
                ),
                ASK_TIMEOUT_S,
                telemetry,
            )
            for node in address.nodes
        ]
        self._master: Node | None = None
        self._handler: FailoverHandler | None = None
        self._left: dict[Node, float] = {}
        self._look = asyncio.Event()

    async def open(self, protocol: RedisConnection[Any]) -> AbstractConnection:
        """Connect to the master that the sentinels name."""
        node = await self._find()
        if node is None:
            raise ConnectionError(f"no majority of sentinels names {self._name}")
        return await self._connector.open(protocol, node)

    async def confirm(self, node: str) -> bool:
        """Whether a majority of the sentinels names this server now."""
        found = await self._find()
        return found is not None and _name(found) == node

    async def run(self, handler: FailoverHandler) -> None:
        """Keep the connections to the sentinels and ask them every second."""
        self._handler = handler
        async with asyncio.TaskGroup() as group:
            for sentinel in self._sentinels:
                group.create_task(sentinel.run())
            group.create_task(self._watch_left())
            while True:
                await asyncio.sleep(ASK_EVERY_S)
                await self._find()

    async def _find(self) -> Node | None:
        """Ask all sentinels; the first majority is the answer."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Node | None] = loop.create_future()
        votes: Counter[Node] = Counter()
        waiting = len(self._sentinels)

        def on_reply(reply: Any) -> None:
            nonlocal waiting
            waiting -= 1
            if isinstance(reply, list) and len(reply) == 2:
                node = reply[0].decode(), int(reply[1])
                votes[node] += 1
                if votes[node] * 2 > len(self._sentinels) and not answer.done():
                    answer.set_result(node)
            if not waiting and not answer.done():
                answer.set_result(None)

        name = self._name.encode()
        for sentinel in self._sentinels:
            sentinel.send(on_reply, b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name)
        found = await answer
        if found is not None and found != self._master:
            self._moved_to(found)
        return found

    def _moved_to(self, node: Node) -> None:
        old, self._master = self._master, node
        if old is None:
            return
        self._left.pop(node, None)
        self._left[old] = asyncio.get_running_loop().time() + WATCH_OLD_MASTER_S
        self._look.set()
        self._log.warning("redis_failover", node=_name(node), old_node=_name(old))
        if self._handler is not None:
            self._handler.on_failover(_name(node))

    async def _watch_left(self) -> None:
        """Report each server that was left when it has stopped taking writes."""
        loop = asyncio.get_running_loop()
        while True:
            await self._look.wait()
            self._look.clear()
            while self._left:
                for node, give_up_at in tuple(self._left.items()):
                    with suppress(Exception):
                        if await self._is_replica(node) and self._left.pop(node, 0):
                            self._settled()
                    if loop.time() > give_up_at:
                        self._left.pop(node, None)
                await asyncio.sleep(ASK_EVERY_S)

    def _settled(self) -> None:
        if self._handler is not None:
            self._handler.on_old_master_settled()

    async def _is_replica(self, node: Node) -> bool:
        """Raises when the server does not answer."""
        try:
            await self._connector.ask(node, "PING")
        except NotMasterError:
            return True
        return False


def _name(node: Node) -> str:
    return f"{node[0]}:{node[1]}"
