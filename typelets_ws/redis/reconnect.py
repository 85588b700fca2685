"""Keeps a connection to Redis: reconnects with exponential backoff.

Invariant: an outage is one warning when it begins and one line when it is over, for
any number of connections and attempts. Tested by tests/integration/bus/test_bus.py.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from redis.asyncio.connection import AbstractConnection

from ..telemetry.telemetry import Telemetry
from .connection import RedisConnection
from .connector import close_connection
from .role import is_refusal

__all__ = ["Backoff", "Outage", "Reconnector", "Reports", "Unreported"]

Connect = Callable[[RedisConnection[Any]], Awaitable[AbstractConnection]]
AnyConnection = TypeVar("AnyConnection", bound=RedisConnection[Any])

FAILOVER = "failover"
"""The only reason to leave a connection that works."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0
"""Bounds how long events stay away after Redis is back."""


class Backoff:
    """Pauses between attempts: 0.1 s doubling to 1 s, each times 0.5 to 1.

    The jitter keeps many processes from coming back at one moment.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._next = FIRST_PAUSE_S

    def pause(self) -> float:
        """Seconds to wait before the next attempt."""
        pause, self._next = self._next, min(self._next * 2, LONGEST_PAUSE_S)
        return pause * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """The connection is proven: the next attempt may come soon."""
        self._next = FIRST_PAUSE_S


class Outage:
    """Tracks which connections are down, and since when (`monotonic`, s)."""

    def __init__(self, telemetry: Telemetry, monotonic: Callable[[], float]) -> None:
        self._metrics = telemetry.metrics
        self._log = telemetry.log
        self._monotonic = monotonic
        self._down: set[tuple[str, str]] = set()
        self._since = 0.0

    def begin(self, link: str, reason: str, node: str, key: str) -> None:
        """The connection called `link` is down, or still is."""
        self._metrics.redis_up.labels(link=link).set(0)
        if node:
            self._metrics.redis_node_up.labels(link=link, node=node).set(0)
        if not self._down:
            self._since = self._monotonic()
            self._log.warning("redis_down", link=link, reason=reason, node=node)
        self._down.add((link, key))

    def end(self, link: str, node: str, key: str) -> None:
        """The connection is up, or not needed any more."""
        if node:
            self._metrics.redis_node_up.labels(link=link, node=node).set(1)
        down = (link, key) in self._down
        self._down.discard((link, key))
        if not any(name == link for name, _ in self._down):
            self._metrics.redis_up.labels(link=link).set(1)
        if down and not self._down:
            seconds = round(self._monotonic() - self._since, 3)
            self._log.info("redis_back", seconds=seconds, node=node)


class Reports(Protocol):
    """Receives the begin and the end of connections: `Outage`, or `Unreported`."""

    def begin(self, link: str, reason: str, node: str, key: str) -> None:
        """The connection called `link` is down, or still is."""

    def end(self, link: str, node: str, key: str) -> None:
        """The connection is up."""


class Unreported:
    """For connections whose loss others notice and report."""

    def begin(self, link: str, reason: str, node: str, key: str) -> None:
        """Do nothing."""

    def end(self, link: str, node: str, key: str) -> None:
        """Do nothing."""


class Reconnector:
    """Keeps the connection called `name` (the metrics' label) open.

    `connect` opens one; it raises when it cannot. `key` tells connections with the
    same name apart. `node` is the server of the newest attempt, `refused` is true when
    that attempt failed by the server's answer.
    """

    def __init__(
        self,
        name: str,
        connect: Connect,
        outage: Reports,
        rng: random.Random,
        key: str = "",
    ) -> None:
        self._name = name
        self._key = key
        self._connect = connect
        self._outage = outage
        self._backoff = Backoff(rng)
        self.node = ""
        self.refused = False

    def connected(self, node: str) -> None:
        """The connection is open and set up: the outage, if any, is over."""
        self._outage.end(self._name, node, self._key)

    def healthy(self) -> None:
        """The connection is proven: should it end, the next attempt comes soon."""
        self._backoff.reset()

    async def run(
        self, make: Callable[[], AnyConnection], opened: Callable[[AnyConnection], None]
    ) -> None:
        """Keep a connection until cancelled.

        `make` returns a new protocol for each attempt; `opened` is called when it is
        connected. The protocol itself tells its owner when it ends.
        """
        try:
            async with asyncio.TaskGroup() as left:
                while True:
                    reason = await self._keep(make(), opened, left)
                    self._outage.begin(self._name, reason, self.node, self._key)
                    await asyncio.sleep(self._backoff.pause())
        finally:
            if self._key:
                # The others with this name go on without it.
                self._outage.end(self._name, "", self._key)

    async def _keep(
        self,
        protocol: AnyConnection,
        opened: Callable[[AnyConnection], None],
        left: asyncio.TaskGroup,
    ) -> str:
        """Return why the connection ended, or why there was none."""
        try:
            connection = await self._connect(protocol)
        except Exception as exc:
            # Each failure of a server, a proxy or redis-py here is tried again.
            self.node = protocol.node or self.node
            self.refused = is_refusal(exc)
            return f"{type(exc).__name__}: {exc}"
        self.node, self.refused = protocol.node, False
        ending = _end(protocol, connection)
        try:
            opened(protocol)
            await protocol.left.wait()
        except BaseException:
            protocol.abort("closed")
            await ending
            raise
        if not protocol.reason:
            left.create_task(ending)
            return FAILOVER
        await ending
        self.refused = protocol.reason == "readonly"
        return protocol.reason


async def _end(protocol: RedisConnection[Any], connection: AbstractConnection) -> None:
    """Close the connection when it has ended, or when the caller is cancelled."""
    try:
        await protocol.closed.wait()
    finally:
        protocol.abort("closed")
        await close_connection(connection)
