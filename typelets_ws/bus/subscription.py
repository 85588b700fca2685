"""A user's channel, as classic and sharded pub/sub both know it.

Invariant: those who wait for a subscription are answered once: when it is confirmed,
refused, or given up. Tested by tests/integration/bus/test_bus.py.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from ..telemetry.telemetry import Telemetry
from .handler import EventHandler

__all__ = ["Incoming", "LeavingUsers", "MessageHandler", "Subscription"]


class Subscription:
    """One channel, from the first device of its user to the last."""

    __slots__ = (
        "channel",
        "confirmed",
        "has_gap",
        "refused",
        "requested",
        "user_id",
        "waiters",
    )

    def __init__(self, user_id: str, channel: bytes) -> None:
        self.user_id = user_id
        self.channel = channel
        self.requested = False
        self.confirmed = False
        self.has_gap = False
        self.refused = False
        self.waiters: list[asyncio.Future[bool]] = []

    async def heard(self) -> bool:
        """Wait until it is known whether the channel is subscribed."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        return await waiter

    def resolve(self, *, heard: bool) -> None:
        """Set whether the channel is subscribed now, for all that wait."""
        self.confirmed = heard
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(heard)
        self.waiters.clear()


class MessageHandler(Protocol):
    """Receives the messages of a connection."""

    def message(self, channel: bytes, payload: bytes) -> None:
        """A message on a channel."""

    def on_batch_end(self) -> None:
        """All messages that had arrived were passed on."""


class Incoming:
    """Passes messages on to `handler`; an exception of it is counted and logged."""

    def __init__(self, handler: EventHandler, telemetry: Telemetry) -> None:
        self._handler = handler
        self._events = telemetry.metrics.events
        self._log = telemetry.log

    def event(self, user_id: str, payload: bytes) -> None:
        """One event of a user."""
        try:
            self._handler.on_event(user_id, payload)
        except Exception:
            # One bad event must not end the connection of all users.
            self._events.labels(event="unknown", result="failed").inc()
            self._log.exception("event_handler_failed")

    def on_batch_end(self) -> None:
        """All that one read held was passed on."""
        self._handler.on_batch_end()


class LeavingUsers:
    """Users without a device, until `leave(user_ids)` is called after `delay_s`."""

    def __init__(self, leave: Callable[[list[str]], None], delay_s: float) -> None:
        self._leave = leave
        self._delay_s = delay_s
        self._due: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, user_id: str) -> None:
        """Leave after the delay, counted from now."""
        loop = asyncio.get_running_loop()
        self._due.pop(user_id, None)
        self._due[user_id] = loop.time() + self._delay_s
        if self._timer is None:
            self._timer = loop.call_at(self._due[user_id], self._expire)

    def discard(self, user_id: str) -> None:
        """The user is back."""
        self._due.pop(user_id, None)

    def clear(self) -> list[str]:
        """Return the users who were leaving; `leave` is not called for them."""
        users, self._due = list(self._due), {}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return users

    def _expire(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        gone: list[str] = []
        for user_id, due in self._due.items():
            if due > now:
                self._timer = loop.call_at(due, self._expire)
                break
            gone.append(user_id)
        for user_id in gone:
            del self._due[user_id]
        self._leave(gone)
