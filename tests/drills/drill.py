"""One fault under load: numbered events, two processes, and the reports of each.

`drill` publishes numbered events from one process and from a publisher of its own kind
(redis-py), and lets devices sign in on both, while a fault is injected. Afterwards each
process must have each event, or a report (`on_gap` or a resynchronisation) for its user
that came after it, and both enforce the limits together.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import redis.asyncio
import redis.exceptions
from redis.asyncio.connection import AbstractConnection

from tests.daemon import eventually
from tests.integration.bus.running_bus import RunningBus, running_bus, until
from typelets_ws.ports import AcquireResult, LimitsUnavailableError
from typelets_ws.redis.connector import RedisConnector

USERS = [f"user{number}" for number in range(12)]
SETTINGS: dict[str, Any] = {
    "probe_interval_s": 1.0,
    "probe_timeout_s": 1.0,
    "connect_timeout_s": 1.0,
    "command_timeout_s": 1.0,
    "lease_s": 3.0,
}
BEFORE_S = 0.5
REPORTED_S = 25.0
FAILED = (redis.exceptions.RedisError, OSError, TimeoutError)
HEADER = (
    "| fault | events flow, s | ready, s | sent | missed | silent | latest report, s "
    "| sign-ins refused | connects/s | CPU before, during |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


class Receiver:
    """The events of one process, and the last reported gap of each user."""

    def __init__(self, bus: RunningBus) -> None:
        self.bus = bus
        self.got: set[int] = set()
        self.told = dict.fromkeys(USERS, -1)
        self.latest = -1

    def missed(self, sent: list[str]) -> list[int]:
        return [n for n in range(len(sent)) if n not in self.got]

    def missed_silently(self, sent: list[str]) -> list[int]:
        return [n for n in self.missed(sent) if self.told[sent[n]] < n]


Fault = Callable[[list[Receiver]], Awaitable[float | None]]
"""Returns when the fault began, if that was later than the call (monotonic, s)."""


@dataclass
class DrillResult:
    """Seconds from the fault on; `missed` were reported, `silent` were not.

    `reported_s`: when the last missed event was reported, after the end of the load
    (0: before it). CPU in percent of a core, of both processes and the load.
    """

    flows_s: float = 0.0
    ready_s: float = 0.0
    sent: int = 0
    missed: int = 0
    silent: list[int] = field(default_factory=list)
    reported_s: float = 0.0
    refused: int = 0
    connects: float = 0.0
    cpu_before: float = 0.0
    cpu_during: float = 0.0

    def row(self, name: str) -> str:
        return (
            f"| {name} | {self.flows_s:.1f} | {self.ready_s:.1f} | {self.sent:,} "
            f"| {self.missed:,} | {len(self.silent)} | {self.reported_s:.1f} "
            f"| {self.refused} | {self.connects:.1f} "
            f"| {self.cpu_before:.0f} %, {self.cpu_during:.0f} % |"
        )


class Load:
    """Publishes a numbered event every few milliseconds, until stopped."""

    def __init__(
        self, receivers: list[Receiver], other: "PlainPublisher | None"
    ) -> None:
        self.sent: list[str] = []
        self.stopped = False
        self.refused = 0
        self._receivers = receivers
        self._other = other
        for receiver in receivers:
            receiver.bus.also = self._listener(receiver)

    async def publish(self) -> None:
        sender = self._receivers[0].bus.bus
        while not self.stopped:
            number = len(self.sent)
            user = USERS[number % len(USERS)]
            self.sent.append(user)
            if number % 3 and self._other is not None:
                if not await self._other.publish(user, b"%d" % number):
                    # Not acknowledged: that publisher knows, and tells it itself.
                    for receiver in self._receivers:
                        receiver.got.add(number)
            else:
                sender.publish(user, b"%d" % number)
            await asyncio.sleep(0.004)
            self.note()

    async def sign_in(self) -> None:
        """Devices come and go on both processes."""
        for number in count():
            if self.stopped:
                return
            limits = self._receivers[number % 2].bus.limits
            user, device = f"guest{number % 5}", f"c{number}"
            try:
                await limits.acquire(user, device, f"sess_{number}")
                limits.release(user, device)
            except LimitsUnavailableError:
                self.refused += 1
            await asyncio.sleep(0.05)

    def note(self) -> None:
        """A report is good for what was published before it."""
        for receiver in self._receivers:
            gaps, receiver.bus.gaps[:] = list(receiver.bus.gaps), []
            for user, _ in gaps:
                receiver.told[user] = len(self.sent) - 1

    def _listener(self, receiver: Receiver) -> Callable[[str, bytes], None]:
        def on_event(user: str, payload: bytes) -> None:
            if payload.isdigit():
                receiver.got.add(int(payload))
                receiver.latest = max(receiver.latest, int(payload))
            else:
                assert b"resync_required" in payload
                receiver.told[user] = len(self.sent) - 1

        return on_event


@asynccontextmanager
async def two_buses(url: str, **settings: Any) -> AsyncIterator[list[Receiver]]:
    """Two processes with all users subscribed."""
    merged = {**SETTINGS, **settings}
    async with running_bus(url, 1, **merged) as a, running_bus(url, 2, **merged) as b:
        for bus in (a, b):
            await bus.ready()
            # A slot's owner may be reached a moment after the masters' probes.
            await eventually(partial(subscribed, bus))
        yield [Receiver(a), Receiver(b)]


async def subscribed(bus: RunningBus) -> bool:
    return all(await asyncio.gather(*map(bus.bus.subscribe, USERS)))


async def drill(
    url: str,
    fault: Fault,
    *,
    publisher: "PlainPublisher | None" = None,
    settle_s: float = 0.0,
    **settings: Any,
) -> DrillResult:
    """Run one fault. `settle_s`: keep publishing this long after all is well."""
    result = DrillResult()
    with counted_attempts() as attempts:
        async with (
            two_buses(url, **settings) as receivers,
            asyncio.TaskGroup() as group,
        ):
            load = Load(receivers, publisher)
            group.create_task(load.publish())
            group.create_task(load.sign_in())
            spent = time.process_time()
            await asyncio.sleep(BEFORE_S)
            result.cpu_before = (time.process_time() - spent) / BEFORE_S * 100
            await _outage(load, receivers, fault, result, attempts)
            await asyncio.sleep(settle_s)
            await _all_ready(receivers)
            load.stopped = True
            result.reported_s = await _all_reported(load, receivers)
            for receiver in receivers:
                result.silent += receiver.missed_silently(load.sent)
                result.missed += len(receiver.missed(load.sent))
            result.sent, result.refused = len(load.sent), load.refused
            await limits_hold(*(receiver.bus for receiver in receivers))
            if publisher is not None:
                await publisher.aclose()
    return result


async def _outage(
    load: Load,
    receivers: list[Receiver],
    fault: Fault,
    result: DrillResult,
    attempts: list[float],
) -> None:
    attempts.clear()
    began, spent = time.monotonic(), time.process_time()
    began = await fault(receivers) or began
    mark = len(load.sent)
    # The fault must have shown, or be over, before anything counts as recovered.
    await asyncio.sleep(0.3)
    await until(lambda: all(r.latest >= mark + 60 for r in receivers))
    result.flows_s = time.monotonic() - began
    await _all_ready(receivers)
    result.ready_s = time.monotonic() - began
    result.connects = len(attempts) / result.ready_s
    result.cpu_during = (time.process_time() - spent) / result.ready_s * 100


async def _all_reported(load: Load, receivers: list[Receiver]) -> float:
    """Wait for late reports: an old master may take events for ten seconds and more."""
    began = time.monotonic()
    await asyncio.sleep(0.3)
    load.note()
    waited = 0.0
    while any(each.missed_silently(load.sent) for each in receivers):
        waited = time.monotonic() - began
        if waited > REPORTED_S:
            break
        await asyncio.sleep(0.2)
        load.note()
    return waited


async def _all_ready(receivers: list[Receiver]) -> None:
    await until(
        lambda: all(
            r.bus.bus.proven and r.bus.bus.commands.up and not r.bus.limits.refused
            for r in receivers
        )
    )


async def limits_hold(a: RunningBus, b: RunningBus) -> None:
    """Slots, nonces and revoked sessions count over both processes."""
    for number in range(20):
        one = (a, b)[number % 2]
        granted = await one.limits.acquire("ann", f"c{number}", None)
        assert granted is AcquireResult.GRANTED
    assert await a.limits.acquire("ann", "late", None) is AcquireResult.FULL
    assert await b.limits.acquire("ann", "late", None) is AcquireResult.FULL
    assert await a.limits.claim_nonce("ann", b"n", 60_000)
    assert not await b.limits.claim_nonce("ann", b"n", 60_000)
    a.limits.revoke_session("sess_1", 60_000)
    await a.bus.flush()
    revoked = await b.limits.acquire("bob", "c", "sess_1")
    assert revoked is AcquireResult.REVOKED


@contextmanager
def counted_attempts() -> Iterator[list[float]]:
    """The times of all attempts to connect of the processes in this one."""
    original, times = RedisConnector._connect, []

    async def connect(self: RedisConnector, connection: AbstractConnection) -> None:
        times.append(time.monotonic())
        await original(self, connection)

    RedisConnector._connect = connect  # type: ignore[method-assign]
    try:
        yield times
    finally:
        RedisConnector._connect = original  # type: ignore[method-assign]


class PlainPublisher:
    """PUBLISH with redis-py; `connect` makes a client after each failure."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._client: Any = None

    async def publish(self, user: str, payload: bytes) -> bool:
        """False when Redis did not acknowledge the event."""
        try:
            if self._client is None:
                self._client = self._connect()
            await self._client.publish(f"typelets:user:{user}", payload)
        except FAILED:
            await self.aclose()
            return False
        return True

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
