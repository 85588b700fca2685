"""A running daemon: listening, reload, shutdown.

Shutdown: the port first, then the connections, spread evenly over `drain_seconds`
(the web client reconnects without jitter, so the daemon must spread them). A
connection with a message being handled closes when that is done. Every wait ends.

A port that systemd holds goes on accepting while no process reads, so a device that is
closed waits in its queue for the next process. All devices are then closed at once: the
spread of 20 s kept devices away for 14 s in the median (measured).
"""

import asyncio
import socket
from contextlib import suppress
from functools import partial
from typing import Final

from .bus.bus import Bus
from .clerk.tokens import Clerk
from .config.live import LiveConfig
from .config.model import Config
from .config.validate import merge_reload
from .delivery.hub import Hub
from .delivery.relay import Relay
from .health import Health
from .ports import StoreError
from .postgres.store import Store
from .protocol.errors import CloseCode
from .telemetry.log import FilteringBoundLogger
from .telemetry.metrics import Metrics
from .websocket.admin import AdminConnection
from .websocket.listener import Listener, listen, listen_public
from .websocket.state import ServerState
from .websocket.tls import Tls, certificate

__all__ = ["HANDLING_S", "HANDOVER_LINGER_S", "TICK_S", "Daemon"]

TICK_S: Final = 0.1
"""The timer wheel's tick; the shortest timeout is 2 s by default."""
REFRESH_S: Final = 2.0
HANDLING_S: Final = 5.0
"""For messages being handled at shutdown: a wait for Postgres and a statement, 2 s
each by default."""
DRAIN_S: Final = 20.0
"""Spread of the closes when `server.drain_seconds` is -1."""
HANDOVER_S: Final = 0.0
"""The same while systemd holds the port."""
HANDOVER_LINGER_S: Final = 0.4
"""Longest wait then for the answers to our close frames."""
BATCH_S: Final = 0.01
"""Closes due within this long are sent together."""


class Daemon:
    """A running daemon. `app.running` builds it; its caller reloads and drains it."""

    def __init__(
        self,
        live: LiveConfig,
        state: ServerState,
        health: Health,
        *,
        relay: Relay,
        store: Store,
        clerk: Clerk,
        tls: Tls | None,
    ) -> None:
        self.live = live
        self.state = state
        self.health = health
        self.relay = relay
        self.store = store
        self.clerk = clerk
        self._tls = tls
        self.servers: list[Listener] = []
        self.admin_servers: list[Listener] = []
        self.port_is_held = False
        """True when systemd passed the public port: it stays open after the end."""
        self.exit_forced = asyncio.Event()
        self.handling_timeout: asyncio.Timeout | None = None

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self.live.current

    @property
    def hub(self) -> Hub:
        """The devices of this process."""
        return self.relay.hub

    @property
    def bus(self) -> Bus:
        """The events of all processes."""
        return self.health.bus

    @property
    def metrics(self) -> Metrics:
        """All figures of this daemon."""
        return self.state.metrics

    @property
    def log(self) -> FilteringBoundLogger:
        """The daemon's log."""
        return self.state.log

    @property
    def port(self) -> int:
        """The public port."""
        return _port(self.servers)

    @property
    def admin_port(self) -> int:
        """The admin port, or 0 without one."""
        return _port(self.admin_servers)

    async def listen(
        self, public: list[socket.socket], admin: list[socket.socket]
    ) -> None:
        """Accept connections on these sockets, which belong to the daemon then."""
        backlog = self.config.server.backlog
        tls = self._tls.context if self._tls else None
        self.servers = await listen_public(self.state, public, backlog=backlog, tls=tls)
        self.admin_servers = await listen(
            partial(AdminConnection, self.state.endpoints), admin, backlog=backlog
        )

    def close(self) -> None:
        """Close all that is still open; after a drain that is the admin port."""
        for server in (*self.servers, *self.admin_servers):
            server.close()
        for connection in tuple(self.state.connections):
            connection.abort()

    def force_exit(self) -> None:
        """Shut down at once: close all connections, cancel all handlers."""
        self.exit_forced.set()
        if (
            self.handling_timeout is not None
            and self.handling_timeout.when() is not None
        ):
            self.limit_handling(0)

    def limit_handling(self, seconds: float) -> None:
        """Cancel handlers still running after `seconds`."""
        if self.handling_timeout is not None and not self.handling_timeout.expired():
            seconds = 0 if self.exit_forced.is_set() else seconds
            self.handling_timeout.reschedule(
                asyncio.get_running_loop().time() + seconds
            )

    def reconfigure(self, config: Config) -> None:
        """Take new settings without dropping a device (spec section 8, SIGHUP).

        All or nothing: raises `ConfigError` or `ValueError` for a certificate or a
        key that cannot be used, and then everything stays as it was. Keys that need a
        restart keep their value and are named in the log.
        """
        config, kept = merge_reload(self.config, config)
        shown = certificate(config.server)
        self.clerk.reconfigure(config.auth)
        # From here on nothing can fail.
        if self._tls is not None and shown is not None:
            self._tls.replace(shown)
        self.live.current = config
        self.state.reconfigure()
        if kept:
            self.log.warning("needs_restart", keys=kept)
        self.log.info("reloaded")

    async def refresh_status(self) -> None:
        """Ask Postgres whether it answers, and keep the gauges, for ever."""
        while True:
            try:
                await self.store.ping()
                self.health.postgres_answers = True
            except StoreError:
                self.health.postgres_answers = False
            self.store.observe_pool()
            self.metrics.sent_bytes.inc(self.state.sent_bytes)
            self.state.sent_bytes = 0
            self.metrics.users.set(len(self.hub))
            self.metrics.tasks.set(len(asyncio.all_tasks()))
            gauge = self.metrics.connections
            gauge.labels("authenticated").set(self.hub.devices)
            gauge.labels("unauthenticated").set(self.state.limiter.unauthenticated)
            await asyncio.sleep(REFRESH_S)

    async def _pause(self, seconds: float) -> None:
        """Wait, but not after `force_exit`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.exit_forced.wait(), seconds)

    async def drain(self) -> None:
        """Stop accepting; close all connections with 1012 over `drain_seconds`.

        A second call does nothing.
        """
        state, loop = self.state, asyncio.get_running_loop()
        if self.health.draining:
            return
        self.health.draining = True
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
        """Close connections that were busy or unfinished; wait until all are gone."""
        loop = asyncio.get_running_loop()
        state, began = self.state, loop.time()
        patient = began + HANDLING_S
        linger = self.config.limits.abort_s + 2 * TICK_S
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
            await self._pause(TICK_S / 2)


def _port(servers: list[Listener]) -> int:
    """Return the port of the first socket that has one; a Unix socket has none."""
    for server in servers:
        for sock in server.sockets:
            if sock.family in {socket.AF_INET, socket.AF_INET6}:
                return int(sock.getsockname()[1])
    return 0
