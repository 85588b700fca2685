"""Sharded pub/sub: SSUBSCRIBE at the master of each user's slot.

Runs beside the classic subscription, as SSUBSCRIBE does not hear a plain PUBLISH.

Invariants. A subscription is confirmed only by the node that owns its slot in the
newest map. The owner changes by `sunsubscribe` without a request, by MOVED, by the end
of a connection, and by a new map: each time the user is subscribed again at the new
owner, and reported to `BusHealth` when that is confirmed, as events in between reached
no subscriber. A silent connection is noticed by PING.
Tested by tests/integration/redis/test_cluster.py.
"""

import asyncio
from functools import partial
from typing import Final

from ..config.model import Redis as Config
from ..config.redis_address import Node
from ..redis.connection import redis_key
from ..redis.shards import Shards
from ..telemetry.telemetry import Telemetry
from .handler import EventHandler
from .health import BusHealth
from .shard_connection import Requested, ShardConnection, ShardSubscription
from .subscription import Incoming, LeavingUsers

__all__ = ["ShardedSubscriber"]

PING_S: Final = 1.0
RETRY_S: Final = 0.1
REFUSED_RETRY_S: Final = 2.0


class ShardedSubscriber:
    """The sharded subscriptions of this process; one owner task, `run`."""

    def __init__(
        self,
        config: Config,
        shards: Shards,
        handler: EventHandler,
        *,
        telemetry: Telemetry,
        health: BusHealth,
    ) -> None:
        self._config = config
        self._shards = shards
        self._incoming = Incoming(handler, telemetry)
        self._metrics = telemetry.metrics
        self._log = telemetry.log
        self._health = health
        self._prefix = f"{config.prefix}user:".encode()
        self._subscriptions: dict[str, ShardSubscription] = {}
        self._by_channel: dict[bytes, ShardSubscription] = {}
        self._leaving = LeavingUsers(self._leave, config.unsubscribe_delay_s)
        self._connections: dict[Node, ShardConnection] = {}
        self._tasks: dict[Node, asyncio.Task[None]] = {}
        self._recovered: list[str] = []
        self._changed = asyncio.Event()
        shards.on_map(self._changed.set)

    @property
    def listening(self) -> bool:
        """True while there is a connection to every master."""
        masters = self._shards.masters()
        return bool(masters) and all(node in self._connections for node in masters)

    async def subscribe(self, user_id: str) -> bool:
        """Subscribe; true once the owner has confirmed it. Never raises.

        False when it cannot be confirmed now; a report to `BusHealth` follows.
        """
        self._leaving.discard(user_id)
        sub = self._subscriptions.get(user_id)
        if sub is None:
            sub = ShardSubscription(user_id, redis_key(self._prefix, user_id))
            self._subscriptions[user_id] = self._by_channel[sub.channel] = sub
            self._ask(sub)
        if sub.confirmed:
            return True
        if sub.node is None:
            sub.has_gap = True
            return False
        return await sub.heard()

    def unsubscribe(self, user_id: str) -> None:
        """Unsubscribe after a while, unless the user comes back before."""
        if user_id in self._subscriptions:
            self._leaving.add(user_id)

    async def run(self) -> None:
        """Keep a connection to each master until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._ping())
                while True:
                    self._changed.clear()
                    self._follow(group)
                    await self._changed.wait()
        finally:
            self._leaving.clear()

    def _follow(self, group: asyncio.TaskGroup) -> None:
        """A connection to each master of the map, each user at the owner."""
        masters = self._shards.masters()
        for node in [node for node in self._tasks if node not in masters]:
            self._tasks.pop(node).cancel()
        for node in masters:
            if node not in self._tasks:
                self._tasks[node] = group.create_task(self._keep(node))
        for sub in self._subscriptions.values():
            if sub.node is not None and sub.node != self._shards.owner(sub.slot):
                self._gap(sub)
            if sub.node is None:
                self._ask(sub)

    async def _keep(self, node: Node) -> None:
        timeout = self._config.command_timeout_s
        reconnector = self._shards.reconnector(node)

        def opened(connection: ShardConnection) -> None:
            reconnector.connected(connection.node)
            reconnector.healthy()
            self._connections[node] = connection
            self._changed.set()

        await reconnector.run(partial(ShardConnection, timeout, self, node), opened)

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_S)
            for connection in tuple(self._connections.values()):
                if not connection.waiting:
                    connection.request(b"PING")

    def _ask(self, sub: ShardSubscription) -> None:
        """Ask the owner, if there is a connection to it."""
        node = self._shards.owner(sub.slot)
        connection = self._connections.get(node) if node is not None else None
        if connection is not None:
            sub.node = connection.at
            connection.request(b"SSUBSCRIBE", sub.channel)

    def _leave(self, users: list[str]) -> None:
        for user_id in users:
            sub = self._subscriptions.pop(user_id)
            del self._by_channel[sub.channel]
            sub.resolve(heard=False)
            connection = self._connections.get(sub.node) if sub.node else None
            if connection is not None:
                connection.request(b"SUNSUBSCRIBE", sub.channel)

    # Called by the connections.

    def message(self, channel: bytes, payload: bytes) -> None:
        """One message; it is dropped when its user has left."""
        sub = self._by_channel.get(channel)
        if sub is not None:
            self._incoming.event(sub.user_id, payload)

    def on_batch_end(self) -> None:
        """All that had arrived was passed on: report who is heard again."""
        self._incoming.on_batch_end()
        recovered, self._recovered = self._recovered, []
        if recovered:
            self._health.recovered(recovered, "promoted")

    def confirmed(self, connection: ShardConnection, channel: bytes) -> None:
        """The owner has confirmed a subscription."""
        sub = self._by_channel.get(channel)
        if sub is None or sub.node != connection.at:
            return
        if sub.has_gap:
            sub.has_gap = False
            self._recovered.append(sub.user_id)
        sub.resolve(heard=True)

    def moved_away(self, connection: ShardConnection, channel: bytes) -> None:
        """A node gave up the slot of a channel."""
        self._shards.request_refresh()
        sub = self._by_channel.get(channel)
        if sub is not None and sub.node == connection.at:
            self._gap(sub)
            self._later(RETRY_S)

    def refused(
        self, connection: ShardConnection, requested: Requested, error: str
    ) -> None:
        """MOVED: the map is old. Any other error is logged and tried again."""
        moved = error.startswith(("MOVED", "CLUSTERDOWN"))
        if moved:
            self._shards.request_refresh()
        else:
            self._metrics.refused_channels.inc()
            self._log.error("redis_channel_refused", reason=error)
        sub = self._by_channel.get(requested.channel)
        if sub is not None and sub.node == connection.at:
            self._gap(sub)
            self._later(RETRY_S if moved else REFUSED_RETRY_S)

    def lost(self, connection: ShardConnection, reason: str) -> None:
        """A connection has ended: its users miss events from now on."""
        if self._connections.get(connection.at) is connection:
            del self._connections[connection.at]
        if reason != "closed":
            self._shards.request_refresh()
        for sub in self._subscriptions.values():
            if sub.node == connection.at:
                self._gap(sub)
        self._changed.set()

    def _gap(self, sub: ShardSubscription) -> None:
        sub.node = None
        sub.has_gap = True
        sub.resolve(heard=False)

    def _later(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._changed.set)
