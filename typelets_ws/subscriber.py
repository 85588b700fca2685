"""Hearing users' events: who is wanted, who is confirmed, who may have missed some.

Theory of operation. A `Wish` stands for one user with a device on this process. It
is asked for (SUBSCRIBE), confirmed by Redis, and at its end taken back
(UNSUBSCRIBE). Confirmations come in the order in which they were asked for, so the
link's queue of wishes says which one each is for; any other is a reason to start
over. Nothing is remembered from one link to the next but the wishes: what was being
taken back when a link broke is simply not asked for again.

Law: whoever was wanted while not being heard is reported to `on_gap`, once, as soon
as they are heard again.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping

from .config import Redis as Config
from .log import FilteringBoundLogger
from .metrics import Metrics
from .redis_link import pack, redis_key
from .redis_upkeep import Upkeep
from .subscriptions import Messages, Wish

__all__ = ["OnEvent", "OnGap", "Subscriber"]

OnEvent = Callable[[str, bytes], None]
OnGap = Callable[[Collection[str], str], None]


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
        on_gap: OnGap,
        internal: Mapping[bytes, Callable[[bytes], None]],
        on_listening: Callable[[], None],
    ) -> None:
        self._config = config
        self._upkeep = upkeep
        self._metrics = metrics
        self._log = log
        self._on_event = on_event
        self._when_read: list[Callable[[], None]] = []
        self._on_gap = on_gap
        self._internal = internal
        self._on_listening = on_listening
        self._prefix = f"{config.prefix}user:".encode()
        self._wishes: dict[str, Wish] = {}
        self._by_channel: dict[bytes, Wish] = {}
        self._asking: list[Wish] = []
        self._leaving: dict[str, float] = {}
        self._leave_timer: asyncio.TimerHandle | None = None
        self._link: Messages | None = None
        self._unconfirmed = 0
        self._announced = False
        self._recovered: list[str] = []
        self._reason = "unreachable"
        self._channels = 0

    @property
    def listening(self) -> bool:
        """True when Redis has confirmed all that was wanted when the link opened."""
        return self._link is not None and self._unconfirmed == 0

    @property
    def users(self) -> Collection[str]:
        """Who is wanted."""
        return self._wishes.keys()

    @property
    def era(self) -> object:
        """Another object for each link: has it been replaced meanwhile?"""
        return self._link

    async def subscribe(self, user_id: str) -> bool:
        """Hear the user's events. True once Redis has confirmed it.

        False when it cannot be had now; `on_gap` follows when it can. Never raises.
        """
        self._leaving.pop(user_id, None)
        wish = self._wishes.get(user_id)
        if wish is None:
            wish = self._wish(user_id)
        if wish.confirmed:
            return True
        if self._link is None:
            wish.missed = True
            return False
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        wish.waiters.append(waiter)
        return await waiter

    def unsubscribe(self, user_id: str) -> None:
        """Stop hearing the user after a while, unless they come back before."""
        if user_id not in self._wishes:
            return
        loop = asyncio.get_running_loop()
        self._leaving.pop(user_id, None)
        self._leaving[user_id] = loop.time() + self._config.unsubscribe_delay_s
        if self._leave_timer is None:
            self._leave_timer = loop.call_at(self._leaving[user_id], self._leave)

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
            if self._leave_timer is not None:
                self._leave_timer.cancel()

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
        kind = command.lower()
        for start in range(0, len(wishes), batch):
            some = wishes[start : start + batch]
            link.write(pack(command, *(wish.channel for wish in some)))
            self._metrics.redis_commands.labels(command=kind.decode()).inc()
            for wish in some:
                link.expect((kind, wish))

    def _leave(self) -> None:
        self._leave_timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        gone: list[Wish] = []
        while self._leaving:
            user_id, due = next(iter(self._leaving.items()))
            if due > now:
                self._leave_timer = loop.call_at(due, self._leave)
                break
            del self._leaving[user_id]
            gone.append(self._forget(user_id))
        if self._link is not None:
            self._send(
                self._link, b"UNSUBSCRIBE", [wish for wish in gone if wish.asked]
            )

    def _forget(self, user_id: str) -> Wish:
        wish = self._wishes.pop(user_id)
        del self._by_channel[wish.channel]
        wish.settle(heard=False)
        return wish

    # What the link reports.

    def _opened(self, link: "Messages") -> None:
        self._link = link
        self._announced = False
        internal = [Wish("", channel) for channel in self._internal]
        wishes = [*internal, *self._wishes.values()]
        self._unconfirmed = len(wishes)
        if any(wish.missed for wish in wishes):
            self._metrics.gaps.labels(reason=self._reason).inc()
        self._ask(wishes)

    def refused(self, error: Exception) -> None:
        """Redis will not let us listen."""
        self._log.error("redis_subscribe_refused", reason=str(error))

    def lost(self, reason: str) -> None:
        """The link is over: from now on everybody wanted misses events."""
        if self._link is None:
            return
        self._link = None
        self._reason = reason
        self._recovered.clear()
        self._asking.clear()
        self._metrics.subscriptions.set(0)
        for user_id in list(self._leaving):
            self._forget(user_id)
        self._leaving.clear()
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
        if self._unconfirmed:
            self._unconfirmed -= 1
        if self._wishes.get(wish.user_id) is wish:
            if wish.missed:
                self._recovered.append(wish.user_id)
                wish.missed = False
            wish.settle(heard=True)

    def settled(self) -> None:
        """All that has arrived was taken: tell what it means."""
        self._metrics.subscriptions.set(self._channels)
        recovered, self._recovered = self._recovered, []
        if recovered:
            try:
                self._on_gap(recovered, self._reason)
            except Exception:
                self._log.exception("gap_handler_failed")
        if self._unconfirmed == 0 and not self._announced:
            self._announced = True
            self._upkeep.usable()
            self._on_listening()
