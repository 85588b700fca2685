"""The composition root: what is built of what, in which order it starts and stops.

The command line, `dev` and the tests all enter `running`; there is no other way to get
a daemon, and no state outside of it. Start: the ports are bound first, so that a second
daemon fails at once; they are served last. Redis and Postgres may be unreachable: both
are retried until the end. Stop: `Daemon.drain`, then the handlers still running, then
Redis and Postgres.
"""

import asyncio
import os
import random
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from . import known_series
from .bus.bus import Bus
from .clerk.tokens import Clerk
from .config.live import LiveConfig
from .config.model import Config, ConfigError
from .daemon import HANDLING_S, TICK_S, Daemon
from .delivery.hub import Hub
from .delivery.recovery import Recovery
from .delivery.relay import Relay
from .delivery.resync import ResyncSender
from .delivery.revocations import RevokedSessions
from .delivery.senders import RowSender
from .fastpaths import VARIABLE, FastPaths
from .health import Health
from .ports import Clock
from .postgres.store import Store
from .redis.build import RedisConnections, connect_redis
from .redis.horizons import SharedHorizons
from .redis.limits import SharedLimits
from .session.authenticator import Authenticator
from .session.context import Context
from .session.presence import Presence
from .session.signing import NonceRegistry
from .session.user_rates import UserRates
from .telemetry.log import FilteringBoundLogger
from .telemetry.metrics import Metrics
from .telemetry.process_metrics import ProcessMetrics
from .telemetry.recent_lines import RecentLines
from .telemetry.telemetry import Telemetry
from .websocket.flush_queue import FlushQueue
from .websocket.http import Endpoints, Page
from .websocket.limiter import ConnectionLimiter
from .websocket.listener import advance_timers, bind_admin, bind_public
from .websocket.state import ServerState
from .websocket.timer_wheel import TimerWheel
from .websocket.tls import Tls, certificate

__all__ = ["Daemon", "build", "running"]

REVOKED_TTL_S: Final = 3_600.0
"""Clerk's session tokens live a minute; templates may make them live an hour."""
REVOKED_LIMIT: Final = 100_000
RECENT_LINES: Final = 2_000
"""Log lines about users that are kept: some 300 bytes each."""


@asynccontextmanager
async def running(
    config: Config,
    *,
    log: FilteringBoundLogger,
    pages: Mapping[str, Page] | None = None,
    sockets: Collection[socket.socket] = (),
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[Daemon]:
    """Yield a daemon that serves for as long as the context is entered; then drain it.

    `sockets` are listening ones, in place of the public port. Raises `OSError` when a
    port cannot be bound, `ConfigError` for a certificate that cannot be used and a
    group of `ValueError` for a bad key.
    """
    fast = _fast_paths(os.environ)
    shown = certificate(config.server)
    tls = Tls(shown) if shown else None
    public_sockets = list(sockets) or bind_public(config)
    admin_sockets = bind_admin(config)
    async with asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
        # Handlers finish before Redis and Postgres are closed, also when the start
        # failed.
        async with _handling_timeout(log) as timeout, asyncio.TaskGroup() as handling:
            daemon = build(config, log, wall, handling, pages or {}, tls, fast)
            daemon.handling_timeout = timeout
            daemon.port_is_held = bool(sockets)
            await stack.enter_async_context(daemon.clerk)
            await daemon.store.start()
            stack.push_async_callback(daemon.store.close)
            background = [
                tasks.create_task(work)
                for work in (
                    daemon.bus.commands.run(),
                    daemon.bus.run(),
                    daemon.health.limits.run(),
                    daemon.relay.recovery.run(),
                    daemon.refresh_status(),
                    advance_timers(daemon.state, TICK_S),
                )
            ]
            stack.callback(_close, daemon, background)
            await daemon.listen(public_sockets, admin_sockets)
            yield daemon
            await daemon.drain()
            daemon.limit_handling(HANDLING_S)
        if not daemon.exit_forced.is_set():
            await daemon.bus.flush()


def _fast_paths(environ: Mapping[str, str]) -> FastPaths:
    try:
        return FastPaths.named(environ.get(VARIABLE, "all"))
    except ValueError as exc:
        raise ConfigError(str(exc)) from None


@asynccontextmanager
async def _handling_timeout(
    log: FilteringBoundLogger,
) -> AsyncIterator[asyncio.Timeout]:
    """Cancel the body when the yielded timeout expires; it starts without a limit."""
    try:
        async with asyncio.timeout(None) as timeout:
            yield timeout
    except TimeoutError:
        if not timeout.expired():
            raise
        log.warning("handling_cut")


def _close(daemon: Daemon, background: list[asyncio.Task[None]]) -> None:
    daemon.close()
    for task in background:
        task.cancel()


def build(
    config: Config,
    log: FilteringBoundLogger,
    wall: Callable[[], float],
    handling: asyncio.TaskGroup,
    pages: Mapping[str, Page],
    tls: Tls | None,
    fast: FastPaths,
) -> Daemon:
    """Put the parts together; nothing runs yet. `handling` runs message handlers."""
    loop = asyncio.get_running_loop()
    live, clock = LiveConfig(config), Clock(wall, loop.time)
    rng = random.Random(secrets.randbits(64))  # noqa: S311 - not for secrets
    recent = RecentLines(RECENT_LINES, clock.now_ms)
    telemetry = Telemetry(Metrics(fast_counters=fast.counters), recent.kept_from(log))
    known_series.declare(telemetry.metrics)
    ProcessMetrics(telemetry.metrics.registry, wall())

    redis = connect_redis(config.redis, telemetry, clock.monotonic, rng)
    limits = SharedLimits(live, redis.client, telemetry=telemetry, rng=rng)
    store = Store(config.database, telemetry, fast)
    clerk = Clerk(config.auth, clock, telemetry, fast=fast)

    hub = Hub()
    revoked = RevokedSessions(REVOKED_TTL_S, REVOKED_LIMIT, limits)
    recovery = _recovery(config, hub, store, redis, telemetry, clock, rng)
    relay = Relay(hub, recovery, revoked, live, clock, telemetry)
    bus = Bus(config.redis, redis, relay, clock, telemetry, rng)
    health = Health(live, clock, bus, limits)

    authenticator = Authenticator(
        clerk,
        Presence(hub, recovery, bus, limits, live),
        revoked,
        NonceRegistry(live),
        UserRates(live),
        clock,
        telemetry,
    )
    context = Context(
        store, authenticator, recovery, bus.publish, live, clock, telemetry
    )
    limiter = ConnectionLimiter(live)
    endpoints = Endpoints(
        live, hub, telemetry.metrics, health, limiter, recent.about, pages
    )
    state = ServerState(
        context,
        endpoints=endpoints,
        limiter=limiter,
        timer_wheel=TimerWheel(TICK_S),
        flush_queue=FlushQueue(loop.call_soon),
        spawn=handling.create_task,
        fast=fast,
    )
    return Daemon(live, state, health, relay=relay, store=store, clerk=clerk, tls=tls)


def _recovery(
    config: Config,
    hub: Hub,
    store: Store,
    redis: RedisConnections,
    telemetry: Telemetry,
    clock: Clock,
    rng: random.Random,
) -> Recovery:
    replay_s = config.recovery.replay_s
    return Recovery(
        store.changes,
        RowSender(hub, telemetry.metrics, clock.now_ms),
        ResyncSender(hub, config.redis.resync_spread_s, rng.random),
        SharedHorizons(redis.client, config.redis.prefix, replay_s, clock.wall),
        config.recovery,
        telemetry,
        clock.monotonic,
    )
