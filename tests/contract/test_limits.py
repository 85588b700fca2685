"""The contract of `ports.SharedLimits`, kept by the fake and by Redis."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import pytest

from tests.fakes import FakeShared
from tests.integration.bus.running_bus import RunningBus, ready
from typelets_ws.ports import AcquireResult, SharedLimits

LIMIT = 20
GRANTED, FULL, REVOKED = (
    AcquireResult.GRANTED,
    AcquireResult.FULL,
    AcquireResult.REVOKED,
)


class Subject(Protocol):
    """Shared limits, and what the REST service does to them."""

    limits: SharedLimits

    def revoke(self, session_id: str) -> None: ...

    async def settle(self) -> None: ...


class Fake:
    def __init__(self) -> None:
        self.fake = FakeShared(LIMIT)
        self.limits: SharedLimits = self.fake

    def revoke(self, session_id: str) -> None:
        self.fake.revoked.add(session_id)

    async def settle(self) -> None:
        """Nothing is under way."""


class Real:
    def __init__(self, bus: RunningBus) -> None:
        self.bus = bus
        self.limits: SharedLimits = bus.limits

    def revoke(self, session_id: str) -> None:
        self.bus.limits.revoke_session(session_id, 60_000)

    async def settle(self) -> None:
        """Wait until Redis has answered everything."""
        assert await self.bus.bus.flush()


Opened = Callable[[], AbstractAsyncContextManager[Subject]]


@pytest.fixture(params=["fake", "redis"])
def subject(request: pytest.FixtureRequest) -> Opened:
    """Opens one of the two, in the test's loop."""
    real = request.param == "redis"
    server = request.getfixturevalue("redis_server") if real else None

    @asynccontextmanager
    async def open_subject() -> AsyncIterator[Subject]:
        if server is None:
            yield Fake()
        else:
            async with ready(server.url) as bus:
                yield Real(bus)

    return open_subject


async def test_no_more_slots_than_the_limit_are_granted(subject: Opened) -> None:
    async with subject() as one:
        asked = [one.limits.acquire("ann", f"c{n}", None) for n in range(LIMIT + 5)]
        answers = Counter(await asyncio.gather(*asked))
        assert answers == {GRANTED: LIMIT, FULL: 5}
        assert await one.limits.acquire("bob", "c0", None) is GRANTED


async def test_asking_twice_takes_one_slot(subject: Opened) -> None:
    async with subject() as one:
        for number in range(LIMIT):
            for _ in range(2):
                answer = await one.limits.acquire("ann", f"c{number}", None)
                assert answer is GRANTED
        assert await one.limits.acquire("ann", "more", None) is FULL
        assert await one.limits.acquire("ann", "c0", None) is GRANTED


async def test_a_released_slot_is_free_once(subject: Opened) -> None:
    async with subject() as one:
        for number in range(LIMIT):
            await one.limits.acquire("ann", f"c{number}", None)
        for _ in range(2):
            one.limits.release("ann", "c0")
        one.limits.release("ann", "unknown")
        one.limits.release("nobody", "c0")
        await one.settle()
        assert await one.limits.acquire("ann", "new", None) is GRANTED
        assert await one.limits.acquire("ann", "newer", None) is FULL


async def test_a_revoked_session_gets_no_slot(subject: Opened) -> None:
    async with subject() as one:
        assert not await one.limits.is_revoked("sess_1")
        assert await one.limits.acquire("ann", "c0", "sess_1") is GRANTED
        one.revoke("sess_1")
        assert await one.limits.is_revoked("sess_1")
        assert not await one.limits.is_revoked("sess_2")
        assert await one.limits.acquire("ann", "c1", "sess_1") is REVOKED
        assert await one.limits.acquire("ann", "c2", "sess_2") is GRANTED


async def test_a_nonce_is_claimed_once_for_each_user(subject: Opened) -> None:
    async with subject() as one:
        claims = [one.limits.claim_nonce("ann", b"n", 60_000) for _ in range(10)]
        assert Counter(await asyncio.gather(*claims)) == {True: 1, False: 9}
        assert await one.limits.claim_nonce("ann", b"m", 60_000)
        assert await one.limits.claim_nonce("bob", b"n", 60_000)
