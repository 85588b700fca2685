"""The loopback probe: what we publish, do we hear it?

Law: only a probe that Redis accepted is evidence. One that was accepted and did not
come back means that the subscriber is deaf, whatever its socket says (half-open
connections, a failover, a proxy that swallows one direction).
"""

import asyncio
from collections.abc import Callable

import hiredis

from .config import Redis as Config
from .metrics import Metrics
from .redis_commands import CommandLink
from .redis_link import RedisUnavailable
from .subscriber import Subscriber

__all__ = ["Probe"]


class Probe:
    """Sends probes on a channel nobody else uses. `monotonic` in seconds."""

    def __init__(
        self,
        config: Config,
        channel: bytes,
        *,
        monotonic: Callable[[], float],
        metrics: Metrics,
        every_time: Callable[[], None],
    ) -> None:
        self._config = config
        self._channel = channel
        self._monotonic = monotonic
        self._metrics = metrics
        self._every_time = every_time
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

    async def run(self, commands: CommandLink, subscriber: Subscriber) -> None:
        """Probe until cancelled, and replace a deaf subscriber."""
        while True:
            try:
                async with asyncio.timeout(self._config.probe_interval_s):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()
            self._every_time()
            if subscriber.listening:
                await self._once(commands, subscriber)

    async def _once(self, commands: CommandLink, subscriber: Subscriber) -> None:
        self._number += 1
        self._back.clear()
        sent = self._monotonic()
        era = subscriber.era
        try:
            await commands.call(b"PUBLISH", self._channel, b"%d" % self._number)
        except (RedisUnavailable, hiredis.ReplyError):
            return
        try:
            async with asyncio.timeout(self._config.probe_timeout_s):
                await self._back.wait()
        except TimeoutError:
            if subscriber.era is era:
                subscriber.replace("deaf")
            return
        if self._came == self._number:
            self._metrics.redis_probe.observe(self._monotonic() - sent)
            commands.proven()
            subscriber.proven()
