"""A running daemon, as its owner sees it: how it is, how it changes, how it ends.

Ending: the port first, then the devices, evenly spread over `drain_seconds` (the
web client reconnects without jitter, so the daemon must spread them). A connection that
is handling a message is closed when that is done. Every wait has an end.

A port that systemd holds goes on accepting while no process reads, so a device that is
closed waits in its queue for the next process. Then the drain is as short as can be:
the spread of 20 s kept devices away for 14 s in the median (measured).
"""

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from .bus.bus import Bus
from .clerk.tokens import Clerk
from .config.model import Config
from .config.validate import merge_reload
from .delivery.hub import Hub
from .delivery.relay import Relay
from .ports import StoreUnavailable
from .postgres.store import Store
from .protocol.errors import CloseCode
from .redis.limits import SharedLimits
from .telemetry.log import FilteringBoundLogger
from .telemetry.metrics import Metrics
from .websocket.listener import Listener
from .websocket.state import ServerState
from .websocket.tls import Tls, certificate

__all__ = ["HANDLING_S", "SWEEP_S", "Daemon"]

SWEEP_S: Final = 0.1
"""How exact deadlines are; the shortest by default is 2 s."""
PROBE_AGE_S: Final = 30.0
"""Spec section 7: ready only while a probe came back in the last 30 s."""
STUCK_PROBES: Final = 18
"""Probes in a row that may be missed before the subscriber is stuck: 90 s."""
REFRESH_S: Final = 2.0
HANDLING_S: Final = 5.0
"""For what is being handled at the end: a wait for Postgres and a statement, by
default 2 s each."""
DRAIN_S: Final = 20.0
"""Spread of the closes when `server.drain_seconds` is -1."""
HANDOVER_S: Final = 0.3
"""The same while systemd holds the port."""
HANDOVER_LINGER_S: Final = 0.4
"""Longest wait then for the answers to our close frames."""
BATCH_S: Final = 0.01
"""Closes that fall due within this long go out together."""


@dataclass(slots=True)
class Daemon:
    """A running daemon, as its owner sees it."""

    config: Config
    state: ServerState
    hub: Hub
    relay: Relay
    bus: Bus
    limits: SharedLimits
    store: Store
    clerk: Clerk
    metrics: Metrics
    log: FilteringBoundLogger
    servers: list[Listener] = field(default_factory=list)
    admin_servers: list[Listener] = field(default_factory=list)
    postgres_answers: bool = False
    port_is_held: bool = False
    """True when the public port was passed by systemd, and stays open after us."""
    exit_forced: asyncio.Event = field(default_factory=asyncio.Event)
    handling_timeout: asyncio.Timeout | None = None
    tls: Tls | None = None

    @property
    def port(self) -> int:
        """The public port."""
        return _port(self.servers)

    @property
    def admin_port(self) -> int:
        """The admin port, 0 when there is none."""
        return _port(self.admin_servers)

    def unready_reasons(self) -> list[str]:
        """Why the daemon is not ready; empty when it is."""
        found = []
        if self.state.draining:
            found.append("draining")
        if not self.postgres_answers:
            found.append("postgres does not answer")
        if not self.bus.commands.up:
            found.append("redis does not answer")
        age = self.bus.probe_age()
        proven = self.bus.listening and self.bus.proven
        if age is None or age > PROBE_AGE_S or not proven:
            found.append("no probe came back through redis")
        if self.limits.refused:
            found.append("redis refuses commands of the shared limits")
        return found

    def publish(self, user_id: str, event: bytes) -> None:
        """Send an event of ours down the one road.

        While this process is deaf its own devices are served directly; all
        others are told to resync when Redis is back.
        """
        if not self.bus.listening:
            self._deliver_locally(user_id, event)
        self.bus.publish(user_id, event)

    def on_publish_failed(self, user_id: str, event: bytes, _reason: str) -> None:
        """Redis did not take an event: serve the devices of this process."""
        if self.bus.listening:
            self._deliver_locally(user_id, event)

    def _deliver_locally(self, user_id: str, event: bytes) -> None:
        self.relay.on_event(user_id, event)
        self.hub.flush()

    def alive(self) -> bool:
        """For the watchdog: the loop runs this, and the subscriber is not stuck.

        A Redis that is away is no reason to be restarted; a subscriber that
        believes it listens, and has heard no probe for long, is.
        """
        age = self.bus.probe_age()
        stuck = STUCK_PROBES * self.config.redis.probe_interval_s
        return not (self.bus.listening and age is not None and age > stuck)

    def force_exit(self) -> None:
        """End at once: cut whoever is still here."""
        self.exit_forced.set()
        if (
            self.handling_timeout is not None
            and self.handling_timeout.when() is not None
        ):
            self.limit_handling(0)

    def limit_handling(self, seconds: float) -> None:
        """Cut off in so many seconds what is still being handled then."""
        if self.handling_timeout is not None and not self.handling_timeout.expired():
            seconds = 0 if self.exit_forced.is_set() else seconds
            self.handling_timeout.reschedule(
                asyncio.get_running_loop().time() + seconds
            )

    def reconfigure(self, config: Config) -> None:
        """Take new settings without dropping a device (spec section 8, SIGHUP).

        All or nothing: raises `ConfigError` or `ValueError` for a certificate or a
        key that cannot be used, and then everything stays as it was. What needs a
        restart is kept, and named in the log.
        """
        config, kept = merge_reload(self.config, config)
        shown = certificate(config.server)
        self.clerk.reconfigure(config.auth)
        # From here on nothing can fail.
        if self.tls is not None and shown is not None:
            self.tls.replace(shown)
        limits = config.limits
        self.limits.reconfigure(limits.devices_per_user)
        self.relay.event_bytes = limits.unsent_bytes
        self.state.reconfigure(config)
        self.config = config
        if kept:
            self.log.warning("needs_restart", keys=kept)
        self.log.info("reloaded")

    async def refresh_status(self) -> None:
        """Ask Postgres whether it answers, and keep the gauges, for ever."""
        while True:
            try:
                await self.store.ping()
                self.postgres_answers = True
            except StoreUnavailable:
                self.postgres_answers = False
            self.store.observe_pool()
            self.metrics.sent_bytes.inc(self.state.sent_bytes)
            self.state.sent_bytes = 0
            self.metrics.users.set(len(self.hub))
            gauge = self.metrics.connections
            gauge.labels("authenticated").set(self.hub.devices)
            gauge.labels("unauthenticated").set(self.state.limiter.unauthenticated)
            await asyncio.sleep(REFRESH_S)

    async def _pause(self, seconds: float) -> None:
        """Wait, unless somebody is in a hurry."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.exit_forced.wait(), seconds)

    async def drain(self) -> None:
        """Let nobody in, and send everybody away with 1012, evenly spread.

        Doing it again does nothing.
        """
        state, loop = self.state, asyncio.get_running_loop()
        if state.draining:
            return
        state.draining = True
        for server in self.servers:
            server.close()
        inside = [c for c in state.connections if c.open]
        seconds = self._drain_seconds()
        self.log.info("draining", connections=len(inside), seconds=seconds)
        began = loop.time()
        for index, connection in enumerate(inside):
            wait = began + seconds * index / len(inside) - loop.time()
            if wait > BATCH_S:
                await self._pause(wait)
            if not connection.busy or self.exit_forced.is_set():
                connection.close(CloseCode.RESTARTING, "restarting")
        await self._close_remaining()
        self.log.info("drained", left=len(state.connections))

    def _drain_seconds(self) -> float:
        given = self.config.server.drain_seconds
        if given >= 0:
            return given
        return HANDOVER_S if self.port_is_held else DRAIN_S

    async def _close_remaining(self) -> None:
        """Close who was busy or still at the door, and wait for the sockets' end."""
        loop = asyncio.get_running_loop()
        state, began = self.state, loop.time()
        patient = began + HANDLING_S
        linger = self.config.limits.abort_s + 2 * SWEEP_S
        if self.port_is_held:
            linger = min(linger, HANDOVER_LINGER_S)
        end = began + linger
        while state.connections and loop.time() < end:
            forced = self.exit_forced.is_set()
            for connection in [c for c in state.connections if c.open]:
                if connection.busy and loop.time() < patient and not forced:
                    end = loop.time() + linger
                else:
                    connection.close(CloseCode.RESTARTING, "restarting")
            if forced:
                return
            await self._pause(SWEEP_S / 2)


def _port(servers: list[Listener]) -> int:
    """Return the port of the first socket that has one; a Unix socket has none."""
    for server in servers:
        for sock in server.sockets:
            if sock.family in {socket.AF_INET, socket.AF_INET6}:
                return int(sock.getsockname()[1])
    return 0
