"""Keeping a link to Redis: again and again, with growing pauses, and little said.

Law: an outage is one warning when it begins and one line when it is over, however
many links and attempts it takes.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any, TypeVar

from ..telemetry.telemetry import Telemetry
from .connection import RedisConnection
from .connector import RedisConnector

__all__ = ["Backoff", "Outage", "Reconnector"]

AnyConnection = TypeVar("AnyConnection", bound=RedisConnection[Any])

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
        """The link has proven itself: the next attempt may come soon."""
        self._next = FIRST_PAUSE_S


class Outage:
    """Which links are down, since when (`monotonic`, s), and who was told."""

    def __init__(
        self,
        telemetry: Telemetry,
        monotonic: Callable[[], float],
    ) -> None:
        self._metrics = telemetry.metrics
        self._log = telemetry.log
        self._monotonic = monotonic
        self._down: set[str] = set()
        self._since = 0.0

    def begin(self, link: str, reason: str) -> None:
        """A link is down, or still is."""
        self._metrics.redis_up.labels(link=link).set(0)
        if not self._down:
            self._since = self._monotonic()
            self._log.warning("redis_down", link=link, reason=reason)
        self._down.add(link)

    def end(self, link: str) -> None:
        """A link is up."""
        self._metrics.redis_up.labels(link=link).set(1)
        if link not in self._down:
            return
        self._down.discard(link)
        if not self._down:
            seconds = round(self._monotonic() - self._since, 3)
            self._log.info("redis_back", seconds=seconds)


class Reconnector:
    """Keeps the link called `name` (the metrics' label) open."""

    def __init__(
        self, name: str, connector: RedisConnector, outage: Outage, rng: random.Random
    ) -> None:
        self._name = name
        self._connector = connector
        self._outage = outage
        self._backoff = Backoff(rng)

    def connected(self) -> None:
        """The link is open and set up: the outage, if there was one, is over."""
        self._outage.end(self._name)

    def healthy(self) -> None:
        """The link does its work: should it end, the next attempt comes soon."""
        self._backoff.reset()

    async def run(
        self, make: Callable[[], AnyConnection], opened: Callable[[AnyConnection], None]
    ) -> None:
        """Keep a link until cancelled.

        `make` gives a fresh one for each attempt, `opened` is told when it is open;
        the link itself tells its owner when it ends.
        """
        while True:
            self._outage.begin(self._name, await self._live(make(), opened))
            await asyncio.sleep(self._backoff.pause())

    async def _live(
        self, link: AnyConnection, opened: Callable[[AnyConnection], None]
    ) -> str:
        """One link's whole life. Returns why it ended."""
        try:
            connection = await self._connector.open(link)
        except Exception as exc:
            # Whatever a server, a proxy or redis-py does to us here, we try again.
            return f"{type(exc).__name__}: {exc}"
        try:
            opened(link)
            await link.closed.wait()
        finally:
            link.abort("closed")
            await self._connector.close(connection)
        return link.reason
