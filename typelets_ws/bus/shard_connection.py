"""One connection of sharded pub/sub: replies in the order of the requests.

Invariant: every reply is a message, the answer to the oldest request, or a
`sunsubscribe` without a request, by which a node gives up a slot. Any other ends the
connection. Tested by tests/integration/redis/test_cluster.py.
"""

from collections import deque
from typing import Any, NamedTuple, Protocol

import hiredis

from ..config.redis_address import Node
from ..redis.connection import RedisConnection, pack
from ..redis.slots import slot_of
from .subscription import MessageHandler, Subscription

__all__ = ["Requested", "ShardConnection", "ShardHandler", "ShardSubscription"]


class ShardHandler(MessageHandler, Protocol):
    """Is called by the connections: see `sharded.ShardedSubscriber`."""

    def confirmed(self, connection: "ShardConnection", channel: bytes) -> None:
        """The node has confirmed a subscription."""

    def moved_away(self, connection: "ShardConnection", channel: bytes) -> None:
        """The node gave up the slot of a channel."""

    def refused(
        self, connection: "ShardConnection", requested: "Requested", error: str
    ) -> None:
        """The node answered a request with an error."""

    def lost(self, connection: "ShardConnection", reason: str) -> None:
        """The connection has ended."""


class ShardSubscription(Subscription):
    """One user's channel; `node` is where it was asked for."""

    __slots__ = ("node", "slot")

    def __init__(self, user_id: str, channel: bytes) -> None:
        super().__init__(user_id, channel)
        self.slot = slot_of(channel)
        self.node: Node | None = None


class Requested(NamedTuple):
    """One awaited reply; no channel for PING."""

    kind: bytes
    channel: bytes


class ShardConnection(RedisConnection[Requested]):
    """The subscriptions at one master."""

    def __init__(self, timeout: float, owner: ShardHandler, at: Node) -> None:
        super().__init__(timeout)
        self._owner = owner
        self.at = at

    def request(self, command: bytes, *channel: bytes) -> None:
        """SSUBSCRIBE or SUNSUBSCRIBE one channel, or PING."""
        self.write(pack(command, *channel))
        kind = b"pong" if command == b"PING" else command.lower()
        self.expect(Requested(kind, channel[0] if channel else b""))

    def received(self, reply: Any) -> None:
        """Pass a message, a confirmation or an unasked `sunsubscribe` on."""
        if reply.__class__ is list and len(reply) == 3 and reply[0] == b"smessage":
            self._owner.message(reply[1], reply[2])
            return
        expected = self.waiting[0][1] if self.waiting else None
        if isinstance(reply, hiredis.ReplyError):
            if expected is None:
                self.abort("unexpected")
                return
            self.waiting.popleft()
            self._owner.refused(self, expected, str(reply))
        elif self._answers(reply, expected):
            requested = self.waiting.popleft()[1]
            if requested.kind == b"ssubscribe":
                self._owner.confirmed(self, requested.channel)
        elif isinstance(reply, list) and reply[:1] == [b"sunsubscribe"]:
            self._owner.moved_away(self, reply[1])
        else:
            self.abort("unexpected")

    def on_batch_end(self) -> None:
        """All that had arrived was passed on."""
        self._owner.on_batch_end()

    def on_close(self, waiting: deque[tuple[float, Requested]], reason: str) -> None:
        """The connection is over."""
        self._owner.lost(self, reason)

    @staticmethod
    def _answers(reply: Any, expected: Requested | None) -> bool:
        if expected is None:
            return False
        if expected.kind == b"pong":
            return reply in (b"PONG", [b"pong", b""])
        return isinstance(reply, list) and reply[:2] == list(expected)
