"""Subscriptions to users' events: requested, confirmed, and with a gap.

Theory of operation. A `Subscription` stands for one user with a device on this process.
It is asked for (SUBSCRIBE), confirmed by Redis, and at its end taken back
(UNSUBSCRIBE). Confirmations come in the order in which they were asked for, so the
connection's queue says which one each is for; any other one ends the connection. Only
the subscriptions are kept from one connection to the next: an UNSUBSCRIBE under way
when it broke is not repeated. After a failover the connection to the old master still
receives what publishers send there that have not moved.

Invariants. A subscription that had a gap is reported to `BusHealth`, once, as soon as
it is confirmed again. A channel that Redis refuses concerns its user
only: see `RefusedChannels`. Tested by tests/integration/bus/test_bus.py.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from ..config.model import Redis as Config
from ..redis.connection import pack, redis_key
from ..redis.reconnect import Reconnector
from ..telemetry.telemetry import Telemetry
from .handler import EventHandler
from .health import BusHealth
from .pubsub import Asked, PubSubConnection, RefusedChannels
from .subscription import Incoming, LeavingUsers, Subscription

__all__ = ["Subscriber"]


class Subscriber:
    """The subscriptions of this process; one owner task, `run`.

    `internal` are the daemon's own channels with what to do with their messages;
    `on_listening` is called when all subscriptions are confirmed again.
    """

    def __init__(
        self,
        config: Config,
        reconnector: Reconnector,
        handler: EventHandler,
        *,
        telemetry: Telemetry,
        health: BusHealth,
        internal: Mapping[bytes, Callable[[bytes], None]],
        on_listening: Callable[[], None],
    ) -> None:
        self._config = config
        self._reconnector = reconnector
        self._metrics = telemetry.metrics
        self._log = telemetry.log
        self._incoming = Incoming(handler, telemetry)
        self._health = health
        self._internal = internal
        self._on_listening = on_listening
        self._prefix = f"{config.prefix}user:".encode()
        self._subscriptions: dict[str, Subscription] = {}
        self._by_channel: dict[bytes, Subscription] = {}
        self._pending_subscribe: list[Subscription] = []
        self._pending_unsubscribe = LeavingUsers(
            self._flush_unsubscribes, config.unsubscribe_delay_s
        )
        self._connection: PubSubConnection | None = None
        self._left: PubSubConnection | None = None
        self._unconfirmed: set[Subscription] = set()
        self._refused = RefusedChannels(self._subscribe, config.subscribe_batch)
        self._announced = False
        self._recovered: list[str] = []
        self._reason = "unreachable"
        self._channels = 0

    @property
    def listening(self) -> bool:
        """True when Redis has answered all requests made when it was connected."""
        return self._connection is not None and not self._unconfirmed

    @property
    def users(self) -> Collection[str]:
        """All users with a subscription."""
        return self._subscriptions.keys()

    @property
    def heard_users(self) -> list[str]:
        """The users whose channel Redis has confirmed on this connection."""
        return [
            user_id for user_id, sub in self._subscriptions.items() if sub.confirmed
        ]

    @property
    def connection(self) -> object:
        """The identity of the connection, to tell whether it was replaced."""
        return self._connection

    async def subscribe(self, user_id: str) -> bool:
        """Subscribe to the user's events. True once Redis has confirmed it.

        False when it cannot be had now; `on_gap` follows when it can. Never raises.
        """
        self._pending_unsubscribe.discard(user_id)
        sub = self._subscriptions.get(user_id)
        if sub is None:
            sub = self._add(user_id)
        if sub.confirmed:
            return True
        if self._connection is None or sub.refused:
            sub.has_gap = True
            return False
        return await sub.heard()

    def unsubscribe(self, user_id: str) -> None:
        """Stop hearing the user after a while, unless they come back before."""
        if user_id in self._subscriptions:
            self._pending_unsubscribe.add(user_id)

    def replace(self, reason: str) -> None:
        """Close this connection for a new one: it does not receive what it should."""
        if self._connection is not None:
            self._connection.abort(reason)

    def leave(self) -> None:
        """Connect to the new master; listen to the old one while it takes events."""
        left = self._connection
        if left is not None:
            self.lost("failover")
            self.end_left()
            self._left = left
            left.leave()

    def end_left(self) -> None:
        """The old master takes no more events."""
        left, self._left = self._left, None
        if left is not None:
            left.abort("closed")

    def healthy(self) -> None:
        """A probe has come back: the next reconnection may be quick."""
        self._reconnector.healthy()

    async def run(self) -> None:
        """Keep the subscriptions until cancelled."""
        try:
            timeout = self._config.command_timeout_s
            await self._reconnector.run(
                lambda: PubSubConnection(timeout, self), self._opened
            )
        finally:
            self._refused.clear()
            self._pending_unsubscribe.clear()

    def _add(self, user_id: str) -> Subscription:
        channel = redis_key(self._prefix, user_id)
        sub = self._subscriptions[user_id] = self._by_channel[channel] = Subscription(
            user_id, channel
        )
        if self._connection is not None:
            if not self._pending_subscribe:
                asyncio.get_running_loop().call_soon(self._flush_subscribes)
            self._pending_subscribe.append(sub)
        return sub

    def _flush_subscribes(self) -> None:
        """Send the subscriptions of one loop iteration in one command."""
        pending, self._pending_subscribe = self._pending_subscribe, []
        self._subscribe(
            [
                sub
                for sub in pending
                if not sub.requested and self._subscriptions.get(sub.user_id) is sub
            ]
        )

    def _subscribe(self, subs: Iterable[Subscription]) -> None:
        requested = list(subs)
        for sub in requested:
            sub.requested = True
        self._send(b"SUBSCRIBE", requested)

    def _send(self, command: bytes, subs: Sequence[Subscription]) -> None:
        batch = self._config.subscribe_batch
        for start in range(0, len(subs), batch):
            self._send_batch(command, subs[start : start + batch])

    def _send_batch(self, command: bytes, subs: Sequence[Subscription]) -> None:
        connection = self._connection
        assert connection is not None
        kind = command.lower()
        connection.write(pack(command, *[sub.channel for sub in subs]))
        self._metrics.redis_commands.labels(command=kind.decode()).inc()
        for sub in subs:
            connection.expect(Asked(kind, sub, subs))

    def _flush_unsubscribes(self, users: list[str]) -> None:
        gone = [self._remove(user_id) for user_id in users]
        self._send(b"UNSUBSCRIBE", [sub for sub in gone if sub.requested])

    def _remove(self, user_id: str) -> Subscription:
        sub = self._subscriptions.pop(user_id)
        del self._by_channel[sub.channel]
        self._refused.discard(user_id)
        sub.resolve(heard=False)
        return sub

    # Called by the connection.

    def _opened(self, connection: PubSubConnection) -> None:
        self._connection = connection
        self._announced = False
        internal = [Subscription("", channel) for channel in self._internal]
        self._unconfirmed = {*internal, *self._subscriptions.values()}
        # In a command of their own: a refused user must not refuse them.
        self._subscribe(internal)
        self._subscribe(self._subscriptions.values())

    def refused(
        self, error: Exception, kind: bytes, subs: Sequence[Subscription]
    ) -> None:
        """Find the refused channels by halves; the others are asked for again."""
        if self._connection is None:
            return
        if kind != b"subscribe":
            self._log.warning("redis_unsubscribe_refused", reason=str(error))
        elif not subs[0].user_id:
            self._log.error("redis_subscribe_refused", reason=str(error))
            self._connection.abort("refused")
        elif len(subs) == 1:
            self._refuse(subs[0], str(error))
        else:
            middle = len(subs) // 2
            self._send_batch(b"SUBSCRIBE", subs[:middle])
            self._send_batch(b"SUBSCRIBE", subs[middle:])

    def _refuse(self, sub: Subscription, reason: str) -> None:
        self._metrics.refused_channels.inc()
        self._unconfirmed.discard(sub)
        sub.requested = False
        if self._subscriptions.get(sub.user_id) is not sub:
            return
        if not sub.refused:
            self._log.error("redis_channel_refused", user_id=sub.user_id, reason=reason)
        sub.refused = sub.has_gap = True
        sub.resolve(heard=False)
        self._refused.add(sub)

    def lost(self, reason: str) -> None:
        """The connection has ended: from now on every user misses events."""
        if self._connection is None:
            return
        self._connection = None
        self._reason = reason
        self._health.doubt(reason)
        self._recovered.clear()
        self._pending_subscribe.clear()
        self._refused.clear()
        self._metrics.subscriptions.set(0)
        for user_id in self._pending_unsubscribe.clear():
            self._remove(user_id)
        for sub in self._subscriptions.values():
            sub.requested = False
            sub.has_gap = True
            sub.resolve(heard=False)

    def message(self, channel: bytes, payload: bytes) -> None:
        """Pass one message on; drop it when its user is no longer subscribed."""
        sub = self._by_channel.get(channel)
        if sub is not None:
            self._incoming.event(sub.user_id, payload)
        elif channel in self._internal:
            self._internal[channel](payload)

    def on_batch_end(self) -> None:
        """All messages that had arrived were passed on."""
        self._incoming.on_batch_end()

    def confirmed(self, kind: bytes, sub: Subscription, channels: int) -> None:
        """Redis has done the next of what it was asked for."""
        self._channels = channels
        if kind != b"subscribe":
            return
        self._unconfirmed.discard(sub)
        if self._subscriptions.get(sub.user_id) is sub:
            sub.refused = False
            if sub.has_gap:
                self._recovered.append(sub.user_id)
                sub.has_gap = False
            sub.resolve(heard=True)

    def on_batch_confirmed(self) -> None:
        """All replies of this read were taken: report what they mean."""
        self._metrics.subscriptions.set(self._channels)
        recovered, self._recovered = self._recovered, []
        if recovered:
            self._health.recovered(recovered, self._reason)
        if not self._unconfirmed and not self._announced:
            self._announced = True
            self._reconnector.connected(
                self._connection.node if self._connection else ""
            )
            self._on_listening()
