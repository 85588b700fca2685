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
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from .admission import Admission, Barred
from .bus import Bus
from .clerk import Clerk
from .config import Config
from .convergence import Newest
from .conversation import Services
from .deadlines import Deadlines
from .endpoints import Endpoints, Page
from .errors import CloseCode
from .handlers import Context
from .house import House
from .hub import Hub
from .listener import AdminConnection, listen, public, sweep, tls_context
from .metrics import Metrics
from .outbox import Turn
from .ports import StoreUnavailable
from .relay import Relay
from .shared_limits import SharedLimits
from .signing import NonceRegistry
from .store import Store

__all__ = ["Daemon", "running"]

SWEEP_S: Final = 0.1
"""How exact deadlines are; the shortest by default is 2 s."""
NEWEST_KEEP_S: Final = 10.0
"""Longer than an event can be late: a publish is given up after 2 s."""
NEWEST_ROOM_BYTES: Final = 32 * 1_048_576
BARRED_MS: Final = 3_600_000
"""Clerk's session tokens live a minute; templates may make them live an hour."""
BARRED_LIMIT: Final = 100_000
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
    log: structlog.typing.FilteringBoundLogger
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
        for server in (*self.servers, *self.admin_servers):
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


@asynccontextmanager
async def running(
    config: Config,
    *,
    log: structlog.typing.FilteringBoundLogger,
    pages: Mapping[str, Page] | None = None,
    sockets: Collection[socket.socket] = (),
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[Daemon]:
    """A daemon that serves for as long as the context is entered.

    Raises `OSError` when a port cannot be opened and `ValueError` for a key that
    is none; Redis and Postgres may be away. On the way out the daemon drains.
    """
    async with asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
        daemon = _build(config, log, pages or {}, wall, tasks)
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
        try:
            await _open(daemon, list(sockets))
            yield daemon
            await daemon.drain()
        finally:
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
    log: structlog.typing.FilteringBoundLogger,
    pages: Mapping[str, Page],
    wall: Callable[[], float],
    tasks: asyncio.TaskGroup,
) -> Daemon:
    """Put the parts together; nothing runs yet."""
    daemon: Daemon
    loop = asyncio.get_running_loop()
    started = loop.time()
    metrics, hub = Metrics(), Hub()
    newest = Newest(NEWEST_KEEP_S, NEWEST_ROOM_BYTES)
    barred = Barred(BARRED_MS, BARRED_LIMIT)
    chance = random.Random(secrets.randbits(64))  # noqa: S311 - not for secrets

    def now_ms() -> int:
        return int(wall() * 1000)

    relay = Relay(
        hub=hub,
        newest=newest,
        barred=barred,
        remember_revoked=lambda session: daemon.shared.bar(session, BARRED_MS),
        metrics=metrics,
        log=log,
        now_ms=now_ms,
        monotonic=loop.time,
        random=chance.random,
        resync_spread_s=config.redis.resync_spread_s,
        event_bytes=config.limits.unsent_bytes,
    )
    bus = Bus(
        config.redis,
        metrics=metrics,
        log=log,
        clock=wall,
        monotonic=loop.time,
        chance=chance,
        on_event=relay.receive,
        on_gap=relay.resync,
        on_unpublished=lambda *unpublished: daemon.unpublished(*unpublished),
    )
    shared = SharedLimits(
        config.redis,
        config.limits.devices_per_user,
        bus.commands,
        metrics=metrics,
        log=log,
        chance=chance,
    )
    clerk = Clerk(config.auth, now=wall, monotonic=loop.time, metrics=metrics, log=log)
    store = Store(config.database, metrics=metrics, log=log)
    admission = Admission(
        clerk=clerk,
        hub=hub,
        subscriptions=bus,
        shared=shared,
        nonces=NonceRegistry(config.limits.nonces_per_user),
        barred=barred,
        metrics=metrics,
        now_ms=now_ms,
        devices_per_user=config.limits.devices_per_user,
    )
    services = Services(
        context=Context(
            store=store,
            rules=config.messages,
            metrics=metrics,
            now_ms=now_ms,
            new_id=lambda: secrets.token_urlsafe(12),
        ),
        admission=admission,
        newest=newest,
        publish=lambda *event: daemon.publish(*event),
        spawn=tasks.create_task,
        metrics=metrics,
        log=log,
        monotonic=loop.time,
        inbox_bytes_before_auth=config.limits.unread_bytes_before_auth,
        message_bytes=config.limits.message_bytes,
    )
    house = House(
        config,
        services=services,
        endpoints=Endpoints(
            hub=hub,
            metrics=metrics,
            status_token=config.server.status_token,
            complaints=lambda: daemon.complaints(),
            draining=lambda: daemon.house.draining,
            door=lambda: daemon.house.door,
            uptime=lambda: loop.time() - started,
            pages=pages,
        ),
        deadlines=Deadlines(SWEEP_S),
        turn=Turn(loop.call_soon),
        metrics=metrics,
        log=log,
        monotonic=loop.time,
    )
    daemon = Daemon(config, house, hub, relay, bus, shared, store, clerk, metrics, log)
    return daemon


def _port(servers: list[asyncio.Server]) -> int:
    return int(servers[0].sockets[0].getsockname()[1]) if servers else 0
