"""The loopback probe: does this process hear what it publishes?

Invariants. Only a probe that Redis accepted is evidence. One that was accepted and did
not come back means that the subscriber is deaf, also when its socket seems sound
(half-open connections, a failover, a proxy that swallows one direction). A probe proves
something only when every server is known to be a master: a replica accepts PUBLISH.
Tested by tests/integration/bus/test_bus_faults.py.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import hiredis

from ..config.model import Redis as Config
from ..redis.client import RedisClient
from ..redis.connection import RedisUnavailableError
from ..telemetry.metrics import Metrics
from .subscriber import Subscriber

__all__ = ["Probe", "ProbeHandler"]

DOUBT_INTERVAL_S = 1.0
"""While nothing is proven, a probe is sent at least this often."""


class ProbeHandler(Protocol):
    """Is called for each probe: see `bus.Bus`."""

    @property
    def proven(self) -> bool:
        """False while there is doubt; probes are sent more often then."""

    def on_probe_due(self) -> None:
        """A probe is due; it is sent only when both connections are open."""

    def on_probe_sent(self) -> None:
        """A probe is about to be sent."""

    def on_probe_failed(self, reason: str) -> None:
        """The probe was refused, or a server is not known to be a master."""

    def on_proof(self) -> None:
        """The probe came back, over connections that lead to a master."""


class Probe:
    """Sends probes on a channel of its own. `monotonic` in seconds."""

    def __init__(
        self,
        config: Config,
        channel: bytes,
        handler: ProbeHandler,
        *,
        monotonic: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._channel = channel
        self._handler = handler
        self._monotonic = monotonic
        self._metrics = metrics
        self._number = 0
        self._heard: set[bytes] = set()
        self._back = asyncio.Event()
        self._soon = asyncio.Event()
        self._last: float | None = None

    def age(self) -> float | None:
        """Seconds since a probe last came back; None before the first."""
        return None if self._last is None else self._monotonic() - self._last

    def soon(self) -> None:
        """Probe now: not at the next interval, nor after the probe under way."""
        self._soon.set()
        self._back.set()

    def heard(self, payload: bytes) -> None:
        """A message on the probe channel."""
        self._heard.add(payload)
        self._back.set()

    async def run(self, commands: RedisClient, subscriber: Subscriber) -> None:
        """Probe until cancelled; replace connections that prove to be bad."""
        while True:
            wait = min(self._config.probe_interval_s, commands.probe_interval_s)
            if not self._handler.proven:
                wait = min(wait, DOUBT_INTERVAL_S)
            try:
                async with asyncio.timeout(wait):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()
            self._handler.on_probe_due()
            if subscriber.listening and commands.up:
                await self._once(commands, subscriber)

    async def _once(self, commands: RedisClient, subscriber: Subscriber) -> None:
        self._number += 1
        self._heard.clear()
        self._back.clear()
        sent = self._monotonic()
        connection = subscriber.connection
        self._handler.on_probe_sent()
        try:
            expected = await commands.probe(self._channel, self._number)
        except RedisUnavailableError as exc:
            self._handler.on_probe_failed(exc.reason)
            return
        except hiredis.ReplyError:
            self._handler.on_probe_failed("refused")
            return
        try:
            async with asyncio.timeout(self._config.probe_timeout_s):
                while not self._heard >= expected and not self._soon.is_set():
                    self._back.clear()
                    await self._back.wait()
        except TimeoutError:
            if subscriber.connection is connection:
                subscriber.replace("deaf")
            return
        if self._heard >= expected and subscriber.connection is connection:
            self._last = self._monotonic()
            self._metrics.redis_probe.observe(self._last - sent)
            if self._last - sent > commands.late_probe_s:
                self._handler.on_probe_failed("late")
                return
            commands.healthy()
            subscriber.healthy()
            self._handler.on_proof()
