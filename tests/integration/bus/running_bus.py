"""A bus (and its shared limits) as the tests of both run it: short intervals."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import structlog

from tests.within import PATIENCE_S
from typelets_ws.bus.bus import Bus
from typelets_ws.bus.pubsub import PubSubConnection
from typelets_ws.config import model as config
from typelets_ws.config.live import LiveConfig
from typelets_ws.ports import Clock
from typelets_ws.redis.build import connect_redis
from typelets_ws.redis.limits import SharedLimits
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry

PATIENT: dict[str, Any] = {
    "probe_interval_s": 0.1,
    "probe_timeout_s": PATIENCE_S,
    "unsubscribe_delay_s": 0.05,
    "connect_timeout_s": PATIENCE_S,
    "command_timeout_s": PATIENCE_S,
    "lease_s": 3.0,
}
QUICK: dict[str, Any] = {
    "probe_timeout_s": 0.2,
    "connect_timeout_s": 0.3,
    "command_timeout_s": 0.3,
}
"""For a Redis that falls silent. A machine without a free core is as silent."""


async def until(holds: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Wait until something holds; a shorter time is for what must not come."""
    deadline = time.monotonic() + timeout_s
    while not (held := holds()) and time.monotonic() < deadline:  # noqa: ASYNC110
        # No event is set when Redis' own state changes.
        await asyncio.sleep(0.002)
    assert held, "what was waited for did not come"


class RunningBus:
    """One process' bus and limits, and all their callbacks."""

    def __init__(self, url: str, seed: int = 0, **settings: Any) -> None:
        self.metrics = Metrics()
        self.events: list[tuple[str, bytes]] = []
        self.gaps: list[tuple[str, str]] = []
        self.unpublished: list[tuple[str, bytes]] = []
        self.also: Callable[[str, bytes], None] = lambda user_id, payload: None
        redis = config.Redis(url=url, **{**PATIENT, **settings})
        log = structlog.get_logger()
        rng = random.Random(f"{url} {seed}")
        telemetry = Telemetry(self.metrics, log)
        clock = Clock(time.time, time.monotonic)
        made = connect_redis(redis, telemetry, clock.monotonic, rng)
        self.bus = Bus(
            redis,
            made,
            self,
            clock,
            telemetry,
            rng,
        )
        live = LiveConfig(config.Config(redis=redis))
        self.limits = SharedLimits(live, made.client, telemetry=telemetry, rng=rng)

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload in self.events]

    def listening_at(self) -> int:
        """The port of the server that events come from; 0 without a connection."""
        connection = self.bus._subscriber.connection
        if not self.bus._subscriber.listening:
            return 0
        assert isinstance(connection, PubSubConnection)
        return int(connection.node.rpartition(":")[2])

    def sample(self, name: str, **labels: str) -> float:
        return (
            self.metrics.registry.get_sample_value(f"typelets_ws_{name}", labels) or 0
        )

    @property
    def failures(self) -> float:
        """Events that Redis did not take, for any reason."""
        (family,) = self.metrics.publish_failures.collect()
        return sum(sample.value for sample in family.samples)

    async def ready(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until a probe sent from now on came back, and the limits were tried."""
        since = time.monotonic()

        def came_back() -> bool:
            age = self.bus.probe_age()
            return age is not None and time.monotonic() - age > since

        await until(
            lambda: (
                self.bus.proven
                and self.bus.commands.up
                and came_back()
                and self.limits._failing_since is None
            ),
            timeout_s,
        )

    async def barrier(self, user_id: str) -> None:
        """All that was published to the user before has been heard."""
        mark = b"%d" % (10**9 + len(self.events))
        self.bus.publish(user_id, mark)
        await until(lambda: mark in self.payloads)

    def on_event(self, user_id: str, payload: bytes) -> None:
        self.events.append((user_id, payload))
        self.also(user_id, payload)

    def on_gap(self, user_ids: Collection[str], reason: str) -> None:
        self.gaps += [(user_id, reason) for user_id in user_ids]

    def on_unpublished(self, user_id: str, event: bytes) -> None:
        self.unpublished.append((user_id, event))

    def on_batch_end(self) -> None:
        pass


@asynccontextmanager
async def running_bus(
    url: str, seed: int = 0, **settings: Any
) -> AsyncIterator[RunningBus]:
    """A running one, ready or not."""
    one = RunningBus(url, seed, **settings)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(work)
            for work in (one.bus.commands.run(), one.bus.run(), one.limits.run())
        ]
        try:
            yield one
        finally:
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def ready(url: str, seed: int = 0, **settings: Any) -> AsyncIterator[RunningBus]:
    """A running one, once its first probe is back."""
    async with running_bus(url, seed, **settings) as one:
        await one.ready()
        yield one
