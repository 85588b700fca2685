"""The composition root: what is built of what, in which order it starts and stops.

The command line, `dev` and the tests all enter `running`; there is no other way
to get a daemon, and no state outside of it. Start: rules and words, the outside
world (which may be away: it is retried for ever), the port last, though it is taken
first. Stop: the port first, then the devices, spread over `drain_seconds` (the web
client has no jitter), then what is being handled, the outside world last.
"""

import asyncio
import random
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from . import known_series
from .bus.bus import Bus
from .clerk.tokens import Clerk
from .config.model import Config
from .daemon import HANDLING_S, SWEEP_S, Daemon
from .delivery.hub import Hub
from .delivery.relay import Relay
from .delivery.revocations import RevokedSessions
from .delivery.versions import VersionCache
from .postgres.store import Store
from .redis.limits import SharedLimits
from .session.authenticator import Authenticator
from .session.handlers import Context
from .session.services import Services
from .session.signing import NonceRegistry
from .session.user_rates import UserRates
from .telemetry.log import FilteringBoundLogger
from .telemetry.metrics import Metrics
from .telemetry.process_metrics import ProcessMetrics
from .telemetry.recent_lines import RecentLines
from .websocket.admin import AdminConnection
from .websocket.flush_queue import FlushQueue
from .websocket.http import Endpoints, Page
from .websocket.listener import (
    bind_admin,
    bind_public,
    listen,
    listen_public,
    sweep,
)
from .websocket.state import ServerState
from .websocket.timer_wheel import TimerWheel
from .websocket.tls import Tls, certificate

__all__ = ["Daemon", "running"]

VERSIONS_TTL_S: Final = 10.0
"""Longer than an event can be late: a publish is given up after 2 s."""
VERSIONS_MAX_BYTES: Final = 32 * 1_048_576
REVOKED_MS: Final = 3_600_000
"""Clerk's session tokens live a minute; templates may make them live an hour."""
RECENT_LINES: Final = 2_000
"""Log lines about users that are kept: some 300 bytes each."""
REVOKED_LIMIT: Final = 100_000


@asynccontextmanager
async def running(
    config: Config,
    *,
    log: FilteringBoundLogger,
    pages: Mapping[str, Page] | None = None,
    sockets: Collection[socket.socket] = (),
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[Daemon]:
    """A daemon that serves while the context is entered.

    `sockets` are listening ones, in place of the public port. Raises `OSError` when
    a port is not to be had, `ConfigError` for a certificate that cannot be used and
    a group of `ValueError` for a key that is none; Redis and Postgres may be away.
    On the way out the daemon drains.
    """
    shown = certificate(config.server)
    public_sockets = list(sockets) or bind_public(config)
    admin_sockets = bind_admin(config)
    async with asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
        # What is being handled is finished, after a drain as after a failure to
        # start; only then the outside world goes.
        async with _handling_timeout(log) as patience, asyncio.TaskGroup() as handling:
            daemon = _build(config, log, pages or {}, wall, handling)
            daemon.handling_timeout = patience
            daemon.port_is_held = bool(sockets)
            daemon.tls = Tls(shown) if shown else None
            await stack.enter_async_context(daemon.clerk)
            await daemon.store.start()
            stack.push_async_callback(daemon.store.close)
            background = [
                tasks.create_task(work)
                for work in (
                    daemon.bus.run(),
                    daemon.limits.run(),
                    daemon.refresh_status(),
                    sweep(daemon.state, SWEEP_S),
                )
            ]
            stack.callback(_close_all, daemon, background)
            await _open(daemon, public_sockets, admin_sockets)
            yield daemon
            await daemon.drain()
            daemon.limit_handling(HANDLING_S)
        if not daemon.exit_forced.is_set():
            await daemon.bus.flush()


@asynccontextmanager
async def _handling_timeout(
    log: FilteringBoundLogger,
) -> AsyncIterator[asyncio.Timeout]:
    """Ends what is being handled when it takes longer than anybody can wait."""
    try:
        async with asyncio.timeout(None) as patience:
            yield patience
    except TimeoutError:
        if not patience.expired():
            raise
        log.warning("handling_cut")


def _close_all(daemon: Daemon, background: list[asyncio.Task[None]]) -> None:
    """Whatever is still open goes now; after a drain that is the admin port."""
    for server in (*daemon.servers, *daemon.admin_servers):
        server.close()
    for connection in tuple(daemon.state.connections):
        connection.abort()
    for task in background:
        task.cancel()


async def _open(
    daemon: Daemon, sockets: list[socket.socket], admin: list[socket.socket]
) -> None:
    backlog = daemon.config.server.backlog
    endpoints = daemon.state.endpoints
    daemon.servers = await listen_public(
        daemon.state,
        sockets,
        backlog=backlog,
        tls=daemon.tls.context if daemon.tls else None,
    )
    daemon.admin_servers = await listen(
        lambda: AdminConnection(endpoints), admin, backlog=backlog
    )


def _build(
    config: Config,
    log: FilteringBoundLogger,
    pages: Mapping[str, Page],
    wall: Callable[[], float],
    handling: asyncio.TaskGroup,
) -> Daemon:
    """Put the parts together; nothing runs yet."""
    loop = asyncio.get_running_loop()
    rng = random.Random(secrets.randbits(64))  # noqa: S311 - not for secrets
    return _Builder(config, log, pages, wall, loop, rng, handling.create_task).build()


@dataclass
class _Builder:
    """The parts that several others need. What needs the daemon gets a lambda."""

    config: Config
    log: FilteringBoundLogger
    pages: Mapping[str, Page]
    wall: Callable[[], float]
    loop: asyncio.AbstractEventLoop
    rng: random.Random
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]

    def __post_init__(self) -> None:
        self.lines = RecentLines(RECENT_LINES, self.now_ms)
        self.log = self.lines.kept_from(self.log)
        self.metrics = Metrics()
        known_series.declare(self.metrics)
        ProcessMetrics(self.metrics.registry, self.wall())
        self.hub = Hub()
        self.revoked = RevokedSessions(REVOKED_MS / 1000, REVOKED_LIMIT)
        self.versions = VersionCache(VERSIONS_TTL_S, VERSIONS_MAX_BYTES)

    def now_ms(self) -> int:
        """Wall clock, ms since the epoch."""
        return int(self.wall() * 1000)

    def build(self) -> Daemon:
        """The daemon, whole."""
        config, metrics, log = self.config, self.metrics, self.log
        relay = self._relay()
        bus = Bus(
            config.redis,
            metrics=metrics,
            log=log,
            clock=self.wall,
            monotonic=self.loop.time,
            rng=self.rng,
            on_event=relay.on_event,
            on_gap=relay.resync,
            on_unpublished=lambda *unpublished: self.daemon.on_publish_failed(
                *unpublished
            ),
        )
        bus.on_batch(self.hub.flush)
        shared = SharedLimits(
            config.redis,
            config.limits.devices_per_user,
            bus.commands,
            metrics=metrics,
            log=log,
            rng=self.rng,
        )
        clerk = Clerk(
            config.auth,
            now=self.wall,
            monotonic=self.loop.time,
            metrics=metrics,
            log=log,
        )
        store = Store(config.database, metrics=metrics, log=log)
        state = self._state(store, self._authenticator(clerk, bus, shared))
        self.daemon = Daemon(
            config, state, self.hub, relay, bus, shared, store, clerk, metrics, log
        )
        return self.daemon

    def _relay(self) -> Relay:
        return Relay(
            hub=self.hub,
            versions=self.versions,
            revoked=self.revoked,
            remember_revoked=lambda sid: self.daemon.limits.revoke_session(
                sid, REVOKED_MS
            ),
            metrics=self.metrics,
            log=self.log,
            now_ms=self.now_ms,
            monotonic=self.loop.time,
            random=self.rng.random,
            resync_spread_s=self.config.redis.resync_spread_s,
            event_bytes=self.config.limits.unsent_bytes,
        )

    def _authenticator(
        self, clerk: Clerk, bus: Bus, shared: SharedLimits
    ) -> Authenticator:
        return Authenticator(
            clerk=clerk,
            hub=self.hub,
            subscriptions=bus,
            shared=shared,
            nonces=NonceRegistry(self.config.limits.nonces_per_user),
            rates=UserRates(self.config.limits),
            revoked=self.revoked,
            metrics=self.metrics,
            log=self.log,
            now_ms=self.now_ms,
            monotonic=self.loop.time,
            devices_per_user=self.config.limits.devices_per_user,
        )

    def _state(self, store: Store, admission: Authenticator) -> ServerState:
        config, loop = self.config, self.loop
        started = loop.time()
        services = Services(
            context=Context(
                store=store,
                rules=config.messages,
                metrics=self.metrics,
                now_ms=self.now_ms,
                new_id=lambda: secrets.token_urlsafe(12),
            ),
            authenticator=admission,
            versions=self.versions,
            publish=lambda *event: self.daemon.publish(*event),
            spawn=self.spawn,
            metrics=self.metrics,
            log=self.log,
            monotonic=loop.time,
            inbox_bytes_before_auth=config.limits.unread_bytes_before_auth,
        )
        endpoints = Endpoints(
            hub=self.hub,
            metrics=self.metrics,
            status_token=config.server.status_token,
            unready_reasons=lambda: self.daemon.unready_reasons(),
            draining=lambda: self.daemon.state.draining,
            limiter=lambda: self.daemon.state.limiter,
            uptime=lambda: loop.time() - started,
            recent=self.lines.about,
            pages=self.pages,
        )
        return ServerState(
            config,
            services=services,
            endpoints=endpoints,
            timer_wheel=TimerWheel(SWEEP_S),
            flush_queue=FlushQueue(loop.call_soon),
            metrics=self.metrics,
            log=self.log,
            monotonic=loop.time,
        )
