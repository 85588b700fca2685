"""A failover under load: numbered events, two processes, and the reports of each.

`drill` publishes numbered events from one process and from a publisher of its own kind
(redis-py) while a fault is injected. Afterwards each process must have each event, or
a report (`on_gap` or a resynchronisation) for its user that came after it.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
import redis.exceptions

from tests.integration.bus.running_bus import RunningBus, running_bus, until
from typelets_ws.ports import AcquireResult

USERS = [f"user{number}" for number in range(12)]
SETTINGS: dict[str, Any] = {
    "probe_interval_s": 1.0,
    "probe_timeout_s": 1.0,
    "connect_timeout_s": 1.0,
    "command_timeout_s": 1.0,
    "lease_s": 3.0,
}
REPORTED_S = 25.0
FAILED = (redis.exceptions.RedisError, OSError, TimeoutError)


class Receiver:
    """The events of one process, and the last reported gap of each user."""

    def __init__(self, bus: RunningBus) -> None:
        self.bus = bus
        self.got: set[int] = set()
        self.told = dict.fromkeys(USERS, -1)
        self.reports = 0
        self.latest = -1

    def missed(self, sent: list[str]) -> list[int]:
        return [n for n in range(len(sent)) if n not in self.got]

    def missed_silently(self, sent: list[str]) -> list[int]:
        return [n for n in self.missed(sent) if self.told[sent[n]] < n]


@dataclass
class Result:
    """Seconds from the fault on; `missed` were reported, `silent` were not."""

    flows_s: float = 0.0
    ready_s: float = 0.0
    sent: int = 0
    missed: int = 0
    silent: list[int] = field(default_factory=list)
    reports: int = 0
    connects: float = 0.0

    def row(self, name: str) -> str:
        return (
            f"| {name} | {self.flows_s:.1f} | {self.ready_s:.1f} | {self.sent} "
            f"| {self.missed} | {len(self.silent)} |"
        )


class Load:
    """Publishes a numbered event every few milliseconds, until stopped."""

    def __init__(
        self, receivers: list[Receiver], other: "PlainPublisher | None"
    ) -> None:
        self.sent: list[str] = []
        self.stopped = False
        self._receivers = receivers
        self._other = other
        for receiver in receivers:
            receiver.bus.also = self._listener(receiver)

    async def run(self) -> None:
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

    def note(self) -> None:
        """A report is good for what was published before it."""
        for receiver in self._receivers:
            gaps, receiver.bus.gaps[:] = list(receiver.bus.gaps), []
            receiver.reports += bool(gaps)
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


Fault = Callable[[], Awaitable[None]]


@asynccontextmanager
async def two_buses(url: str, **settings: Any) -> AsyncIterator[list[Receiver]]:
    """Two processes with all users subscribed."""
    merged = {**SETTINGS, **settings}
    async with running_bus(url, 1, **merged) as a, running_bus(url, 2, **merged) as b:
        for bus in (a, b):
            await bus.ready(20)
            assert all(await asyncio.gather(*map(bus.bus.subscribe, USERS)))
        yield [Receiver(a), Receiver(b)]


async def drill(
    url: str,
    fault: Fault,
    *,
    publisher: "PlainPublisher | None" = None,
    settle_s: float = 0.0,
    **settings: Any,
) -> Result:
    """Run one fault. `settle_s`: keep publishing this long after all is well."""
    result = Result()
    async with two_buses(url, **settings) as receivers, asyncio.TaskGroup() as group:
        load = Load(receivers, publisher)
        group.create_task(load.run())
        await asyncio.sleep(0.5)
        began = time.monotonic()
        await fault()
        await _measure(load, receivers, began, result)
        await asyncio.sleep(settle_s)
        await _all_ready(receivers)
        load.stopped = True
        await _all_reported(load, receivers)
        for receiver in receivers:
            result.silent += receiver.missed_silently(load.sent)
            result.missed += len(receiver.missed(load.sent))
            result.reports = max(result.reports, receiver.reports)
        result.sent = len(load.sent)
        await limits_hold(*(receiver.bus for receiver in receivers))
        if publisher is not None:
            await publisher.aclose()
    return result


async def _all_reported(load: Load, receivers: list[Receiver]) -> None:
    """Wait for late reports: an old master may take events for ten seconds and more."""
    end = time.monotonic() + REPORTED_S
    await asyncio.sleep(0.3)
    load.note()
    while any(each.missed_silently(load.sent) for each in receivers):
        if time.monotonic() > end:
            return
        await asyncio.sleep(0.2)
        load.note()


async def _measure(
    load: Load, receivers: list[Receiver], began: float, result: Result
) -> None:
    mark = len(load.sent)
    # The fault must have shown, or be over, before anything counts as recovered.
    await asyncio.sleep(0.3)
    await until(lambda: all(r.latest >= mark + 60 for r in receivers), 40)
    result.flows_s = time.monotonic() - began
    await _all_ready(receivers)
    result.ready_s = time.monotonic() - began


async def _all_ready(receivers: list[Receiver]) -> None:
    await until(
        lambda: all(r.bus.bus.proven and r.bus.bus.commands.up for r in receivers), 40
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


def faults(always: list[Any], *more: Any) -> list[Any]:
    """The faults of every run; `more` too with DRILLS=all in the environment."""
    return [*always, *more] if os.environ.get("DRILLS") == "all" else always


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
