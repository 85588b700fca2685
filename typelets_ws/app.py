"""The composition root: what is built of what, in which order it starts and stops.

The command line, `dev` and the tests all enter `running`; there is no other way
to get a daemon, and no state outside of it. Start: rules and words, the outside
world (which may be away: it is retried for ever), the port last. Stop: the port
first, then the devices, spread over `drain_seconds` (the web client reconnects
without jitter, so the spread must come from us), the outside world last.
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

from .admission import Admission, Barred
from .bus import Bus
from .clerk import Clerk
from .config import Config
from .convergence import Newest
from .conversation import Services
from .daemon import SWEEP_S, Daemon
from .deadlines import Deadlines
from .endpoints import Endpoints, Page
from .handlers import Context
from .house import House
from .hub import Hub
from .listener import AdminConnection, listen, public, sweep, tls_context
from .log import FilteringBoundLogger
from .metrics import Metrics
from .outbox import Turn
from .relay import Relay
from .shared_limits import SharedLimits
from .signing import NonceRegistry
from .store import Store

__all__ = ["Daemon", "running"]

NEWEST_KEEP_S: Final = 10.0
"""Longer than an event can be late: a publish is given up after 2 s."""
NEWEST_ROOM_BYTES: Final = 32 * 1_048_576
BARRED_MS: Final = 3_600_000
"""Clerk's session tokens live a minute; templates may make them live an hour."""
BARRED_LIMIT: Final = 100_000


@asynccontextmanager
async def running(
    config: Config,
    *,
    log: FilteringBoundLogger,
    pages: Mapping[str, Page] | None = None,
    sockets: Collection[socket.socket] = (),
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[Daemon]:
    """A daemon that serves for as long as the context is entered.

    Raises `OSError` when a port cannot be opened and `ValueError` for a key that
    is none; Redis and Postgres may be away. On the way out the daemon drains.
    """
    async with asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
        # What is being handled is finished, after a drain as after a failure to
        # start; only then the outside world goes.
        async with asyncio.TaskGroup() as handling:
            daemon = _build(config, log, pages or {}, wall, handling)
            await stack.enter_async_context(daemon.clerk)
            await daemon.store.start()
            stack.push_async_callback(daemon.store.close)
            background = [
                tasks.create_task(work)
                for work in (
                    daemon.bus.run(),
                    daemon.shared.run(),
                    daemon.watch(),
                    sweep(daemon.house, SWEEP_S),
                )
            ]
            stack.callback(_end, daemon, background)
            await _open(daemon, list(sockets))
            yield daemon
            await daemon.drain()
        await daemon.bus.flush()


def _end(daemon: Daemon, background: list[asyncio.Task[None]]) -> None:
    """Whatever is still open goes now; after a drain that is the admin port."""
    for server in (*daemon.servers, *daemon.admin_servers):
        server.close()
    for connection in tuple(daemon.house.connections):
        connection.abort()
    for task in background:
        task.cancel()


async def _open(daemon: Daemon, sockets: list[socket.socket]) -> None:
    config, house = daemon.config, daemon.house
    daemon.servers = await listen(
        public(house),
        config.server,
        host=config.server.host,
        port=config.server.port,
        inherited=sockets,
        tls=tls_context(config.server),
    )
    if config.admin.enabled:
        daemon.admin_servers = await listen(
            lambda: AdminConnection(house.endpoints),
            config.server,
            host=config.admin.host,
            port=config.admin.port,
            inherited=[],
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
    chance = random.Random(secrets.randbits(64))  # noqa: S311 - not for secrets
    return _Builder(
        config, log, pages, wall, loop, chance, handling.create_task
    ).build()


@dataclass
class _Builder:
    """The parts that several others need. What needs the daemon gets a lambda."""

    config: Config
    log: FilteringBoundLogger
    pages: Mapping[str, Page]
    wall: Callable[[], float]
    loop: asyncio.AbstractEventLoop
    chance: random.Random
    spawn: Callable[[Coroutine[Any, Any, None]], object]

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.hub = Hub()
        self.barred = Barred(BARRED_MS, BARRED_LIMIT)
        self.newest = Newest(NEWEST_KEEP_S, NEWEST_ROOM_BYTES)

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
            chance=self.chance,
            on_event=relay.receive,
            on_gap=relay.resync,
            on_unpublished=lambda *unpublished: self.daemon.unpublished(*unpublished),
        )
        shared = SharedLimits(
            config.redis,
            config.limits.devices_per_user,
            bus.commands,
            metrics=metrics,
            log=log,
            chance=self.chance,
        )
        clerk = Clerk(
            config.auth,
            now=self.wall,
            monotonic=self.loop.time,
            metrics=metrics,
            log=log,
        )
        store = Store(config.database, metrics=metrics, log=log)
        house = self._house(store, self._admission(clerk, bus, shared))
        self.daemon = Daemon(
            config, house, self.hub, relay, bus, shared, store, clerk, metrics, log
        )
        return self.daemon

    def _relay(self) -> Relay:
        return Relay(
            hub=self.hub,
            newest=self.newest,
            barred=self.barred,
            remember_revoked=lambda sid: self.daemon.shared.bar(sid, BARRED_MS),
            metrics=self.metrics,
            log=self.log,
            now_ms=self.now_ms,
            monotonic=self.loop.time,
            random=self.chance.random,
            resync_spread_s=self.config.redis.resync_spread_s,
            event_bytes=self.config.limits.unsent_bytes,
        )

    def _admission(self, clerk: Clerk, bus: Bus, shared: SharedLimits) -> Admission:
        return Admission(
            clerk=clerk,
            hub=self.hub,
            subscriptions=bus,
            shared=shared,
            nonces=NonceRegistry(self.config.limits.nonces_per_user),
            barred=self.barred,
            metrics=self.metrics,
            log=self.log,
            now_ms=self.now_ms,
            devices_per_user=self.config.limits.devices_per_user,
        )

    def _house(self, store: Store, admission: Admission) -> House:
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
            admission=admission,
            newest=self.newest,
            publish=lambda *event: self.daemon.publish(*event),
            spawn=self.spawn,
            metrics=self.metrics,
            log=self.log,
            monotonic=loop.time,
            inbox_bytes_before_auth=config.limits.unread_bytes_before_auth,
            message_bytes=config.limits.message_bytes,
        )
        endpoints = Endpoints(
            hub=self.hub,
            metrics=self.metrics,
            status_token=config.server.status_token,
            complaints=lambda: self.daemon.complaints(),
            draining=lambda: self.daemon.house.draining,
            door=lambda: self.daemon.house.door,
            uptime=lambda: loop.time() - started,
            pages=self.pages,
        )
        return House(
            config,
            services=services,
            endpoints=endpoints,
            deadlines=Deadlines(SWEEP_S),
            turn=Turn(loop.call_soon),
            metrics=self.metrics,
            log=self.log,
            monotonic=loop.time,
        )
