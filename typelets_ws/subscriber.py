"""Hearing users' events: who is wanted, who is confirmed, who may have missed some.

Theory of operation. A `Wish` stands for one user with a device on this process. It
is asked for (SUBSCRIBE), confirmed by Redis, and at its end taken back
(UNSUBSCRIBE). Confirmations come in the order in which they were asked for, so the
link's queue of wishes says which one each is for; any other is a reason to start
over. Nothing is remembered from one link to the next but the wishes: what was being
taken back when a link broke is simply not asked for again.

Invariants. A user who was wanted while not being heard is reported to `BusHealth`,
once, as soon as they are heard again. A channel that Redis refuses concerns its user
only: see `RefusedChannels`.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from .bus_health import BusHealth
from .config import Redis as Config
from .log import FilteringBoundLogger
from .metrics import Metrics
from .redis_link import pack, redis_key
from .redis_upkeep import Upkeep
from .subscriptions import Asked, LeavingUsers, Messages, RefusedChannels, Wish

__all__ = ["OnEvent", "Subscriber"]

OnEvent = Callable[[str, bytes], None]


class Subscriber:
    """The subscriptions of this process; one owner task, `run`.

    `internal` are the daemon's own channels with what to do with their messages;
    `on_listening` is told whenever everything wanted is heard again.
    """

    def __init__(
        self,
        config: Config,
        upkeep: Upkeep,
        *,
        metrics: Metrics,
        log: FilteringBoundLogger,
        on_event: OnEvent,
        health: BusHealth,
        internal: Mapping[bytes, Callable[[bytes], None]],
        on_listening: Callable[[], None],
    ) -> None:
        self._config = config
        self._upkeep = upkeep
        self._metrics = metrics
        self._log = log
        self._on_event = on_event
        self._when_read: list[Callable[[], None]] = []
        self._health = health
        self._internal = internal
        self._on_listening = on_listening
        self._prefix = f"{config.prefix}user:".encode()
        self._wishes: dict[str, Wish] = {}
        self._by_channel: dict[bytes, Wish] = {}
        self._asking: list[Wish] = []
        self._leaving = LeavingUsers(self._leave, config.unsubscribe_delay_s)
        self._link: Messages | None = None
        self._unconfirmed: set[Wish] = set()
        self._refused = RefusedChannels(self._ask, config.subscribe_batch)
        self._announced = False
        self._recovered: list[str] = []
        self._reason = "unreachable"
        self._channels = 0

    @property
    def listening(self) -> bool:
        """True when Redis has answered all that was wanted when the link opened."""
        return self._link is not None and not self._unconfirmed

    @property
    def users(self) -> Collection[str]:
        """The users who are wanted."""
        return self._wishes.keys()

    @property
    def heard_users(self) -> list[str]:
        """The users whose channel Redis has confirmed on this link."""
        return [user_id for user_id, wish in self._wishes.items() if wish.confirmed]

    @property
    def era(self) -> object:
        """Another object for each link: has it been replaced meanwhile?"""
        return self._link

    async def subscribe(self, user_id: str) -> bool:
        """Hear the user's events. True once Redis has confirmed it.

        False when it cannot be had now; `on_gap` follows when it can. Never raises.
        """
        self._leaving.discard(user_id)
        wish = self._wishes.get(user_id)
        if wish is None:
            wish = self._wish(user_id)
        if wish.confirmed:
            return True
        if self._link is None or wish.refused:
            wish.missed = True
            return False
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        wish.waiters.append(waiter)
        return await waiter

    def unsubscribe(self, user_id: str) -> None:
        """Stop hearing the user after a while, unless they come back before."""
        if user_id in self._wishes:
            self._leaving.add(user_id)

    def when_read(self, tell: Callable[[], None]) -> None:
        """Call `tell` each time `on_event` has had all that had arrived.

        It is the same turn of the loop: nothing else happens in between.
        """
        self._when_read.append(tell)

    def replace(self, reason: str) -> None:
        """Give this link up for a new one: it does not hear what it should."""
        if self._link is not None:
            self._link.drop(reason)

    def proven(self) -> None:
        """The link has heard something it should."""
        self._upkeep.proven()

    async def run(self) -> None:
        """Keep the subscriptions until cancelled."""
        try:
            timeout = self._config.command_timeout_s
            await self._upkeep.run(lambda: Messages(timeout, self), self._opened)
        finally:
            self._refused.clear()
            self._leaving.clear()

    def _wish(self, user_id: str) -> Wish:
        channel = redis_key(self._prefix, user_id)
        wish = self._wishes[user_id] = self._by_channel[channel] = Wish(
            user_id, channel
        )
        if self._link is not None:
            if not self._asking:
                asyncio.get_running_loop().call_soon(self._ask_gathered)
            self._asking.append(wish)
        return wish

    def _ask_gathered(self) -> None:
        """What was wanted during one turn of the loop is asked for at once."""
        asking, self._asking = self._asking, []
        self._ask(
            wish
            for wish in asking
            if not wish.asked and self._wishes.get(wish.user_id) is wish
        )

    def _ask(self, wishes: Iterable[Wish]) -> None:
        if self._link is not None:
            asked = list(wishes)
            for wish in asked:
                wish.asked = True
            self._send(self._link, b"SUBSCRIBE", asked)

    def _send(self, link: "Messages", command: bytes, wishes: list[Wish]) -> None:
        batch = self._config.subscribe_batch
        for start in range(0, len(wishes), batch):
            self._send_batch(link, command, wishes[start : start + batch])

    def _send_batch(
        self, link: "Messages", command: bytes, wishes: Sequence[Wish]
    ) -> None:
        kind = command.lower()
        link.write(pack(command, *(wish.channel for wish in wishes)))
        self._metrics.redis_commands.labels(command=kind.decode()).inc()
        for wish in wishes:
            link.expect(Asked(kind, wish, wishes))

    def _leave(self, users: list[str]) -> None:
        gone = [self._forget(user_id) for user_id in users]
        if self._link is not None:
            self._send(
                self._link, b"UNSUBSCRIBE", [wish for wish in gone if wish.asked]
            )

    def _forget(self, user_id: str) -> Wish:
        wish = self._wishes.pop(user_id)
        del self._by_channel[wish.channel]
        self._refused.discard(user_id)
        wish.settle(heard=False)
        return wish

    # What the link reports.

    def _opened(self, link: "Messages") -> None:
        self._link = link
        self._announced = False
        internal = [Wish("", channel) for channel in self._internal]
        self._unconfirmed = {*internal, *self._wishes.values()}
        # In a command of their own: a refused user must not refuse them.
        self._ask(internal)
        self._ask(self._wishes.values())

    def refused(self, error: Exception, kind: bytes, wishes: Sequence[Wish]) -> None:
        """Find the refused channels by halves; the others are asked for again."""
        if self._link is None:
            return
        if kind != b"subscribe":
            self._log.warning("redis_unsubscribe_refused", reason=str(error))
        elif not wishes[0].user_id:
            self._log.error("redis_subscribe_refused", reason=str(error))
            self._link.drop("refused")
        elif len(wishes) == 1:
            self._refuse(wishes[0], str(error))
        else:
            middle = len(wishes) // 2
            self._send_batch(self._link, b"SUBSCRIBE", wishes[:middle])
            self._send_batch(self._link, b"SUBSCRIBE", wishes[middle:])

    def _refuse(self, wish: Wish, reason: str) -> None:
        self._metrics.refused_channels.inc()
        self._unconfirmed.discard(wish)
        wish.asked = False
        if self._wishes.get(wish.user_id) is not wish:
            return
        if not wish.refused:
            self._log.error(
                "redis_channel_refused", user_id=wish.user_id, reason=reason
            )
        wish.refused = wish.missed = True
        wish.settle(heard=False)
        self._refused.add(wish)

    def lost(self, reason: str) -> None:
        """The link is over: from now on everybody wanted misses events."""
        if self._link is None:
            return
        self._link = None
        self._reason = reason
        self._health.doubt(reason)
        self._recovered.clear()
        self._asking.clear()
        self._refused.clear()
        self._metrics.subscriptions.set(0)
        for user_id in self._leaving.clear():
            self._forget(user_id)
        for wish in self._wishes.values():
            wish.asked = False
            wish.missed = True
            wish.settle(heard=False)

    def message(self, channel: bytes, payload: bytes) -> None:
        """One message; of users nobody wants any more it is dropped."""
        try:
            wish = self._by_channel.get(channel)
            if wish is not None:
                self._on_event(wish.user_id, payload)
            elif channel in self._internal:
                self._internal[channel](payload)
        except Exception:
            # One bad event must not cost everybody the link.
            self._metrics.events.labels(event="unknown", result="failed").inc()
            self._log.exception("event_handler_failed")

    def read(self) -> None:
        """All messages that had arrived were passed on."""
        for tell in self._when_read:
            tell()

    def confirmed(self, kind: bytes, wish: Wish, channels: int) -> None:
        """Redis has done the next of what it was asked for."""
        self._channels = channels
        if kind != b"subscribe":
            return
        self._unconfirmed.discard(wish)
        if self._wishes.get(wish.user_id) is wish:
            wish.refused = False
            if wish.missed:
                self._recovered.append(wish.user_id)
                wish.missed = False
            wish.settle(heard=True)

    def settled(self) -> None:
        """All that has arrived was taken: tell what it means."""
        self._metrics.subscriptions.set(self._channels)
        recovered, self._recovered = self._recovered, []
        if recovered:
            self._health.recovered(recovered, self._reason)
        if not self._unconfirmed and not self._announced:
            self._announced = True
            self._upkeep.usable()
            self._on_listening()
