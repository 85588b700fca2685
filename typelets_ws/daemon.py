"""A running daemon, as its owner sees it: how it is, and how it goes down.

Going down: the port first, then the devices, evenly spread over `drain_seconds`
(the web client reconnects without jitter, so the spread must come from us).
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from .bus import Bus
from .clerk import Clerk
from .config import Config
from .errors import CloseCode
from .house import House
from .hub import Hub
from .log import FilteringBoundLogger
from .metrics import Metrics
from .ports import StoreUnavailable
from .relay import Relay
from .shared_limits import SharedLimits
from .store import Store

__all__ = ["SWEEP_S", "Daemon"]

SWEEP_S: Final = 0.1
"""How exact deadlines are; the shortest by default is 2 s."""
PROBE_AGE_S: Final = 30.0
"""Spec section 7: ready only while a probe came back in the last 30 s."""
STUCK_S: Final = 3 * PROBE_AGE_S
WATCH_S: Final = 2.0


@dataclass(slots=True)
class Daemon:
    """A running daemon, as its owner sees it."""

    config: Config
    house: House
    hub: Hub
    relay: Relay
    bus: Bus
    shared: SharedLimits
    store: Store
    clerk: Clerk
    metrics: Metrics
    log: FilteringBoundLogger
    servers: list[asyncio.Server] = field(default_factory=list)
    admin_servers: list[asyncio.Server] = field(default_factory=list)
    postgres_answers: bool = False
    hurried: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def port(self) -> int:
        """The public port."""
        return _port(self.servers)

    @property
    def admin_port(self) -> int:
        """The admin port, 0 when there is none."""
        return _port(self.admin_servers)

    def complaints(self) -> list[str]:
        """Why the daemon is not ready; empty when it is."""
        found = []
        if self.house.draining:
            found.append("draining")
        if not self.postgres_answers:
            found.append("postgres does not answer")
        age = self.bus.probe_age()
        if age is None or age > PROBE_AGE_S or not self.bus.listening:
            found.append("no probe came back through redis")
        return found

    def publish(self, user_id: str, event: bytes) -> None:
        """Send an event of ours down the one road.

        While this process is deaf its own devices are served directly; all
        others are told to resync when Redis is back.
        """
        if not self.bus.listening:
            self.relay.receive(user_id, event)
        self.bus.publish(user_id, event)

    def unpublished(self, user_id: str, event: bytes, _reason: str) -> None:
        """Redis did not take an event: serve the devices of this process."""
        if self.bus.listening:
            self.relay.receive(user_id, event)

    def alive(self) -> bool:
        """For the watchdog: the loop runs this, and the subscriber is not stuck.

        A Redis that is away is no reason to be restarted; a subscriber that
        believes it listens, and has heard no probe for long, is.
        """
        age = self.bus.probe_age()
        return not (self.bus.listening and age is not None and age > STUCK_S)

    def hurry(self) -> None:
        """End at once: cut whoever is still here."""
        self.hurried.set()

    def reconfigure(self, config: Config) -> None:
        """Take new settings without dropping a device (spec section 8, SIGHUP).

        Ports, Redis and Postgres keep theirs until a restart.
        """
        self.house.reconfigure(config)
        self.clerk.reconfigure(config.auth)
        self.config = config
        self.log.info("reloaded")

    async def watch(self) -> None:
        """Ask Postgres whether it answers, and keep the gauges, for ever."""
        while True:
            try:
                await self.store.ping()
                self.postgres_answers = True
            except StoreUnavailable:
                self.postgres_answers = False
            self.store.observe_pool()
            gauge = self.metrics.connections
            gauge.labels("authenticated").set(self.hub.devices)
            gauge.labels("unauthenticated").set(self.house.door.unauthenticated)
            await asyncio.sleep(WATCH_S)

    async def _pause(self, seconds: float) -> None:
        """Wait, unless somebody is in a hurry."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.hurried.wait(), seconds)

    async def drain(self) -> None:
        """Let nobody in, and send everybody away with 1012, evenly spread."""
        self.house.draining = True
        for server in self.servers:
            server.close()
        inside = [c for c in self.house.connections if c.open]
        seconds = self.config.server.drain_seconds
        self.log.info("draining", connections=len(inside), seconds=seconds)
        for index, connection in enumerate(inside):
            await self._pause(0 if index == 0 else seconds / len(inside))
            connection.close(CloseCode.RESTARTING, "restarting")
        loop = asyncio.get_running_loop()
        end = loop.time() + self.config.limits.abort_s + 2 * SWEEP_S
        while self.house.connections and loop.time() < end:
            await self._pause(SWEEP_S / 2)
            if self.hurried.is_set():
                break
        self.log.info("drained", left=len(self.house.connections))


def _port(servers: list[asyncio.Server]) -> int:
    return int(servers[0].sockets[0].getsockname()[1]) if servers else 0
