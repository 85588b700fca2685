"""The daemon's client of Redis: one server at a time, or all masters of a Cluster.

`RedisClient` is what the bus and the shared limits use. `MasterClient` fulfils it for
one server and for a Sentinel group, `cluster.ClusterClient` for a Cluster.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

import hiredis

from ..telemetry.telemetry import Telemetry
from .commands import Argument, NodeClient, ReplyCallback
from .connection import RedisUnavailableError
from .master import MasterFinder
from .reconnect import Reconnector
from .role import Mode, is_unknown_command, role_error

__all__ = ["MasterClient", "RedisClient"]


class RedisClient(Protocol):
    """Commands to Redis, and what becomes of the connections that carry them."""

    @property
    def up(self) -> bool:
        """True while every connection that commands need is open."""

    @property
    def node(self) -> str:
        """The servers, as `host:port`, for `/ready` and the log."""

    @property
    def probe_interval_s(self) -> float:
        """The longest time between probes that misses no loss of messages."""

    @property
    def late_probe_s(self) -> float:
        """A probe that takes longer counts as lost messages, although it came back."""

    def on_connect(self, callback: Callable[[], None]) -> None:
        """Call `callback` each time `up` becomes true, before other commands."""

    def on_lost(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with the reason each time a connection has ended.

        ``readonly`` and ``failover`` mean that another server is the master now.
        """

    def on_settled(self, callback: Callable[[], None]) -> None:
        """Call `callback` when an old master has stopped taking others' writes."""

    def send(self, callback: ReplyCallback, *args: Argument) -> None:
        """Send a command; see `NodeClient.send`."""

    async def call(self, *args: Argument) -> Any:
        """Send a command and wait for its reply; see `NodeClient.call`."""

    async def flush(self) -> None:
        """Wait for the replies to earlier commands; raises `RedisUnavailableError`."""

    async def probe(self, channel: bytes, number: int) -> frozenset[bytes]:
        """Publish a probe through every master, and check that each is one.

        Returns the payloads that a sound subscriber hears. When nothing is proven,
        raises `RedisUnavailableError` or `hiredis.ReplyError`.
        """

    def healthy(self) -> None:
        """A probe has come back: the next reconnection may be quick."""

    def count(self) -> None:
        """Bring the metrics of sent commands up to date."""

    async def run(self) -> None:
        """Keep the connections until cancelled."""


class MasterClient(NodeClient):
    """A `RedisClient` of the one master that `finder` finds."""

    probe_interval_s = inf
    late_probe_s = inf

    def __init__(
        self,
        reconnector: Reconnector,
        timeout_s: float,
        finder: MasterFinder,
        telemetry: Telemetry,
    ) -> None:
        super().__init__(reconnector, timeout_s, telemetry)
        self._finder = finder
        self._failovers = telemetry.metrics.redis_failovers
        self._on_settled: list[Callable[[], None]] = []

    def on_settled(self, callback: Callable[[], None]) -> None:
        """See `RedisClient.on_settled`."""
        self._on_settled.append(callback)

    async def flush(self) -> None:
        """See `RedisClient.flush`."""
        try:
            await self.call(b"PING")
        except hiredis.ReplyError:
            # Refused, but in its turn: all earlier commands have been answered.
            return

    async def probe(self, channel: bytes, number: int) -> frozenset[bytes]:
        """See `RedisClient.probe`."""
        payload = b"%d" % number
        await self.call(b"PUBLISH", channel, payload)
        try:
            hello = await self.call(b"HELLO")
        except hiredis.ReplyError as exc:
            if not is_unknown_command(exc):
                raise
            hello = None
        if role_error(hello, Mode.SERVER):
            self.replace("readonly")
            raise RedisUnavailableError("readonly")
        if not await self._finder.confirm(self.node):
            raise RedisUnavailableError("unproven")
        return frozenset({payload})

    async def run(self) -> None:
        """Keep the connection, and follow the master, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(super().run())
            group.create_task(self._finder.run(self))

    def on_failover(self, node: str) -> None:
        """See `FailoverHandler.on_failover`."""
        self._failovers.inc()
        if self.up:
            self.replace("failover")
        else:
            self._notify_lost("failover")

    def on_old_master_settled(self) -> None:
        """See `FailoverHandler.on_old_master_settled`."""
        for callback in self._on_settled:
            callback()

    def _lost(self, waiting: deque[tuple[float, ReplyCallback]], reason: str) -> None:
        super()._lost(waiting, reason)
        if reason == "readonly" and not self._finder.names_failovers:
            self._failovers.inc()
