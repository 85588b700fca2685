"""Pub/sub subscriptions and their confirmations.

Invariant: Redis confirms each channel in the order in which it was asked for, or
refuses a whole command with one error. The connection's queue of subscriptions is
therefore the only account of what is subscribed. A reply that is neither a message, nor
the next confirmation, nor an error in place of a command's first confirmation ends the
link. Tested by tests/integration/bus/test_bus.py.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol

import hiredis

from ..redis.connection import RedisConnection
from .subscription import MessageHandler, Subscription

__all__ = [
    "Asked", "PubSubConnection", "PubSubHandler", "RefusedChannels",
]  # fmt: skip

REFUSED_RETRY_S: Final = 2.0


class Asked(NamedTuple):
    """One awaited confirmation: `command` holds all channels of its command."""

    kind: bytes
    subscription: Subscription
    command: Sequence[Subscription]


class RefusedChannels:
    """Channels that Redis refused: each is asked for again, a batch every few seconds.

    `ask(subscriptions)` sends one batch; the longest refused come first.
    """

    def __init__(
        self, ask: Callable[[Sequence[Subscription]], None], batch: int
    ) -> None:
        self._ask = ask
        self._batch = batch
        self._subscriptions: dict[str, Subscription] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, sub: Subscription) -> None:
        """Ask for this channel again later."""
        self._subscriptions[sub.user_id] = sub
        self._schedule()

    def discard(self, user_id: str) -> None:
        """The user has left."""
        self._subscriptions.pop(user_id, None)

    def clear(self) -> None:
        """The connection has ended: the next one requests every channel."""
        self._subscriptions.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(REFUSED_RETRY_S, self._retry)

    def _retry(self) -> None:
        self._timer = None
        users = list(islice(self._subscriptions, self._batch))
        self._ask([self._subscriptions.pop(user_id) for user_id in users])
        if self._subscriptions:
            self._schedule()


class PubSubHandler(MessageHandler, Protocol):
    """Receives the connection's reports: see `subscriber.Subscriber`."""

    def confirmed(self, kind: bytes, sub: Subscription, channels: int) -> None:
        """Redis has done this; it counts so many channels."""

    def on_batch_confirmed(self) -> None:
        """So were all confirmations."""

    def refused(
        self, error: Exception, kind: bytes, subscriptions: Sequence[Subscription]
    ) -> None:
        """Redis refused a command with these channels: rights, or no memory left."""

    def lost(self, reason: str) -> None:
        """The connection has ended."""


class PubSubConnection(RedisConnection[Asked]):
    """The connection: passes on messages, and confirmations in their order."""

    def __init__(self, timeout: float, owner: PubSubHandler) -> None:
        super().__init__(timeout)
        self._owner = owner
        self._changed = False
        self._was_left = False

    def leave(self) -> None:
        """The owner moves to another server; messages of this one are passed on."""
        self._was_left = True
        super().leave()

    def received(self, reply: Any) -> None:
        """Pass a message or a confirmation on."""
        # Not a `match`, which costs half a microsecond for each of many messages.
        if reply.__class__ is list and len(reply) == 3:
            kind, channel, content = reply
            if kind == b"message":
                self._owner.message(channel, content)
                return
            if self._is_next(kind, channel):
                sub = self.waiting.popleft()[1].subscription
                self._changed = True
                self._owner.confirmed(kind, sub, content)
                return
        if isinstance(reply, hiredis.ReplyError) and self._refuses_next():
            self._refuse(reply)
        elif not self._was_left:
            # The subscriptions at Redis are no longer those in the queue.
            self.abort("unexpected")

    def on_batch_end(self) -> None:
        """Tell the owner that all replies of this read were passed on."""
        self._owner.on_batch_end()
        if self._changed and not self.reason and not self._was_left:
            self._changed = False
            self._owner.on_batch_confirmed()

    def on_close(self, waiting: deque[tuple[float, Asked]], why: str) -> None:
        """Tell the owner that the connection has ended."""
        if not self._was_left:
            self._owner.lost(why)

    def _is_next(self, kind: object, channel: object) -> bool:
        if not self.waiting:
            return False
        asked = self.waiting[0][1]
        return kind == asked.kind and channel == asked.subscription.channel

    def _refuses_next(self) -> bool:
        """Whether an error now can refuse a command, none of it being confirmed."""
        if not self.waiting:
            return False
        asked = self.waiting[0][1]
        return asked.subscription is asked.command[0]

    def _refuse(self, error: Exception) -> None:
        asked = self.waiting[0][1]
        for _ in asked.command:
            self.waiting.popleft()
        self._changed = True
        self._owner.refused(error, asked.kind, asked.command)
