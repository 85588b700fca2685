"""What is wanted of Redis, and what Redis says to it.

Law: Redis confirms each channel in the order in which it was asked for. The link's
queue of wishes is therefore the only account of what is subscribed, and anything
that is neither a message nor the next confirmation ends the link.
"""

import asyncio
from collections import deque
from typing import Any, Protocol

import hiredis

from .redis_link import Link

__all__ = ["Messages", "Owner", "Wish"]


class Wish:
    """One channel to hear, for as long as it is wanted."""

    __slots__ = ("asked", "channel", "confirmed", "missed", "user_id", "waiters")

    def __init__(self, user_id: str, channel: bytes) -> None:
        self.user_id = user_id
        self.channel = channel
        self.asked = False
        self.confirmed = False
        self.missed = False
        self.waiters: list[asyncio.Future[bool]] = []

    def settle(self, *, heard: bool) -> None:
        """Tell those who wait whether the user is heard now."""
        self.confirmed = heard
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(heard)
        self.waiters.clear()


class Owner(Protocol):
    """Who hears of it: see `subscriber.Subscriber`."""

    def message(self, channel: bytes, payload: bytes) -> None:
        """A message on a channel."""
        ...

    def read(self) -> None:
        """All messages that had arrived were passed on."""
        ...

    def confirmed(self, kind: bytes, wish: Wish, channels: int) -> None:
        """Redis has done this; it counts so many channels."""
        ...

    def settled(self) -> None:
        """So were all confirmations."""
        ...

    def refused(self, error: Exception) -> None:
        """Redis will not let us listen: rights, most likely."""
        ...

    def lost(self, reason: str) -> None:
        """The link is over."""
        ...


class Messages(Link[tuple[bytes, Wish]]):
    """The link's side: takes replies apart, and confirmations in their order."""

    def __init__(self, timeout: float, owner: Owner) -> None:
        super().__init__(timeout)
        self._owner = owner
        self._changed = False

    def received(self, reply: Any) -> None:
        """Pass a message or a confirmation on."""
        # Not a `match`, which costs half a microsecond for each of many messages.
        if reply.__class__ is list and len(reply) == 3:
            kind, channel, content = reply
            if kind == b"message":
                self._owner.message(channel, content)
                return
            if self._is_next(kind, channel):
                wish = self.waiting.popleft()[1][1]
                self._changed = True
                self._owner.confirmed(kind, wish, content)
                return
        if isinstance(reply, hiredis.ReplyError):
            self._owner.refused(reply)
            self.drop("refused")
        else:
            # What we hear is no longer what we think we hear.
            self.drop("unexpected")

    def read(self) -> None:
        """Tell the owner that this is all for now."""
        self._owner.read()
        if self._changed and not self.reason:
            self._changed = False
            self._owner.settled()

    def ended(self, waiting: deque[tuple[float, tuple[bytes, Wish]]], why: str) -> None:
        """Tell the owner that the link is over."""
        self._owner.lost(why)

    def _is_next(self, kind: object, channel: object) -> bool:
        if not self.waiting:
            return False
        expected, wish = self.waiting[0][1]
        return kind == expected and channel == wish.channel
