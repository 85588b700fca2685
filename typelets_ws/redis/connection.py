"""One connection to Redis: replies are read in one go, commands written in one go.

Invariants. A connection never reconnects. It is opened once and ends once, with one
word as the reason, which every command that waits for a reply receives. Its owner opens
the next one, and so always knows that there was a gap. A connection that was left
(`leave`) awaits no reply and lives on, at most `LEFT_S`.

- Commands of one loop iteration leave as one write.
- Replies come in the order of the commands, so the first of `waiting` is always the
  oldest: one timer per connection watches it, not one per command.

Tested by tests/integration/bus/test_bus.py.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Final, Generic, TypeVar, cast

import hiredis

__all__ = [
    "RedisConnection", "RedisUnavailableError", "pack", "redis_key",
]  # fmt: skip

Waiting = TypeVar("Waiting")

LEFT_S: Final = 60.0
MORE: Final = object()
"""Returned by the reader while the next reply is incomplete."""


def redis_key(prefix: bytes, name: str) -> bytes:
    """A key or channel; a lone surrogate out of a JSON escape must not raise."""
    return prefix + name.encode("utf-8", "surrogatepass")


def pack(*args: bytes | str | int) -> bytes:
    """A command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]
    return packed


class RedisUnavailableError(Exception):
    """Redis did not take the command, or it is unknown whether it did.

    `reason`: ``down`` (not connected), ``refused`` (a server answers and does not
    serve: a replica, another kind of server, a wrong password, a Cluster that is down),
    ``lost`` (the connection broke before the reply), ``timeout``, ``full`` (too many
    commands wait), ``readonly`` (a demoted master), ``failover`` (another server is the
    master now), ``unproven`` (it is not known to be the master), ``garbled``,
    ``unexpected`` (no reply to any command), ``closed`` (the daemon is stopping).
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RedisConnection(asyncio.Protocol, ABC, Generic[Waiting]):
    """One connection's life. `timeout` in seconds, for the oldest reply awaited."""

    def __init__(self, timeout: float) -> None:
        self.waiting: deque[tuple[float, Waiting]] = deque()
        self.closed = asyncio.Event()
        self.left = asyncio.Event()
        self.reason = ""
        self.node = ""
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=MORE)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._suspect: object = None

    @abstractmethod
    def received(self, reply: Any) -> None:
        """Take one reply; error replies are `hiredis.ReplyError` objects."""

    def on_batch_end(self) -> None:
        """All replies of this read were taken; the connection may have ended."""

    def on_close(self, waiting: deque[tuple[float, Waiting]], reason: str) -> None:
        """The connection has ended; `waiting` got no reply. Called once."""

    def write(self, packed: bytes) -> None:
        """Send one packed command, together with the others of this turn."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)

    def expect(self, item: Waiting) -> None:
        """Note that one more reply is awaited."""
        deadline = self._loop.time() + self._timeout
        self.waiting.append((deadline, item))
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._check_timeout)

    def abort(self, reason: str) -> None:
        """Close at once; unsent commands and pending replies fail."""
        if self.reason:
            return
        self.reason = reason
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            # close() would wait for a peer that no longer reads.
            self._transport.abort()
        waiting, self.waiting = self.waiting, deque()
        self.left.set()
        self.closed.set()
        self.on_close(waiting, reason)

    def leave(self) -> None:
        """Let the owner open the next connection while this one still receives."""
        self.waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(LEFT_S, self.abort, "closed")
        self.left.set()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is ours now."""
        # uvloop's transports are not registered as asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take apart what has arrived."""
        if self.reason:
            return
        self._reader.feed(data)
        gets, received = self._reader.gets, self.received
        try:
            while (reply := gets()) is not MORE:
                received(reply)
        except hiredis.ProtocolError:
            self.abort("garbled")
        self.on_batch_end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self._transport = None
        self.abort("lost")

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and not self.reason:
            self._transport.write(b"".join(out))

    def _check_timeout(self) -> None:
        """End the connection when its oldest reply is overdue.

        A loop that stood still finds the deadline past and the reply unread: the
        same reply must be missing twice.
        """
        self._timer = None
        if not self.waiting:
            return
        head = self.waiting[0]
        if head[0] > self._loop.time():
            self._timer = self._loop.call_at(head[0], self._check_timeout)
        elif head is self._suspect:
            self.abort("timeout")
        else:
            self._suspect = head
            self._timer = self._loop.call_later(self._timeout / 10, self._check_timeout)
