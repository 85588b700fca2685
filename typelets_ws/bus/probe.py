"""The loopback probe: what we publish, do we hear it?

Invariants. Only a probe that Redis accepted is evidence. One that was accepted and did
not come back means that the subscriber is deaf, also when its socket seems sound
(half-open connections, a failover, a proxy that swallows one direction). A probe proves
something only when the server also says that it is a master: a replica accepts PUBLISH.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import hiredis

from ..config.model import Redis as Config
from ..redis.commands import RedisClient
from ..redis.connection import RedisUnavailable, role_complaint
from ..telemetry.metrics import Metrics
from .subscriber import Subscriber

__all__ = ["Probe", "ProbeHandler"]

DOUBT_INTERVAL_S = 1.0
"""While nothing is proven, a probe is sent at least this often."""
UNKNOWN_COMMAND = "ERR unknown command"


class ProbeHandler(Protocol):
    """Is called for each probe: see `bus.Bus`."""

    @property
    def proven(self) -> bool:
        """False while there is doubt; probes are sent more often then."""
        ...

    def on_probe_due(self) -> None:
        """A probe is due; it is sent only when both connections are open."""
        ...

    def on_probe_sent(self) -> None:
        """A probe is about to be sent."""
        ...

    def on_probe_refused(self) -> None:
        """Redis answered the probe with an error."""
        ...

    def on_proof(self) -> None:
        """The probe came back, over connections that lead to a master."""
        ...


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
        self._came = 0
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
        if payload == b"%d" % self._number:
            self._last = self._monotonic()
            self._came = self._number
            self._back.set()

    async def run(self, commands: RedisClient, subscriber: Subscriber) -> None:
        """Probe until cancelled; replace connections that prove to be bad."""
        while True:
            wait = self._config.probe_interval_s
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
        self._back.clear()
        sent = self._monotonic()
        link = subscriber.connection
        self._handler.on_probe_sent()
        if not await self._accepted(commands):
            return
        try:
            async with asyncio.timeout(self._config.probe_timeout_s):
                await self._back.wait()
        except TimeoutError:
            if subscriber.connection is link:
                subscriber.replace("deaf")
            return
        if self._came == self._number and subscriber.connection is link:
            self._metrics.redis_probe.observe(self._monotonic() - sent)
            commands.healthy()
            subscriber.healthy()
            self._handler.on_proof()

    async def _accepted(self, commands: RedisClient) -> bool:
        """Publish the probe and check that the server still is a master."""
        try:
            await commands.call(b"PUBLISH", self._channel, b"%d" % self._number)
            role = await commands.call(b"HELLO")
        except RedisUnavailable:
            return False
        except hiredis.ReplyError as exc:
            # HELLO needs no rights; a server that does not know it has one role.
            if not str(exc).startswith(UNKNOWN_COMMAND):
                self._handler.on_probe_refused()
                return False
            role = None
        if role_complaint(role):
            commands.replace("readonly")
            return False
        return True
