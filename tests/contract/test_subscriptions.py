"""The contract of `ports.Subscriptions`, kept by the fake and by the bus."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import pytest

from tests.daemon import eventually
from tests.fakes import FakeSubscriptions
from tests.integration.bus.running_bus import RunningBus, ready
from typelets_ws.ports import Subscriptions


class Subject(Protocol):
    """Subscriptions, and whether a user's events are received."""

    subscriptions: Subscriptions

    async def hears(self, user_id: str) -> bool: ...


class Fake:
    def __init__(self) -> None:
        self.fake = FakeSubscriptions()
        self.subscriptions: Subscriptions = self.fake

    async def hears(self, user_id: str) -> bool:
        return user_id in self.fake.held


class Real:
    def __init__(self, bus: RunningBus) -> None:
        self.bus = bus
        self.subscriptions: Subscriptions = bus.bus

    async def hears(self, user_id: str) -> bool:
        """Publish to the user and to a user who is always heard."""
        self.bus.events.clear()
        await self.bus.bus.subscribe("fence")
        self.bus.bus.publish(user_id, b"event")
        await self.bus.barrier("fence")
        return (user_id, b"event") in self.bus.events


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
            async with ready(server.url, unsubscribe_delay_s=0.01) as bus:
                yield Real(bus)

    return open_subject


async def test_a_user_is_heard_from_the_moment_subscribe_returns(
    subject: Opened,
) -> None:
    async with subject() as one:
        assert not await one.hears("ann")
        assert await one.subscriptions.subscribe("ann")
        assert await one.hears("ann")
        assert not await one.hears("bob")


async def test_subscribing_twice_is_undone_by_unsubscribing_once(
    subject: Opened,
) -> None:
    async with subject() as one:
        for _ in range(2):
            assert await one.subscriptions.subscribe("ann")
        one.subscriptions.unsubscribe("ann")

        async def silent() -> bool:
            return not await one.hears("ann")

        await eventually(silent)


async def test_unsubscribing_a_user_who_is_not_heard_does_nothing(
    subject: Opened,
) -> None:
    async with subject() as one:
        one.subscriptions.unsubscribe("ann")
        assert await one.subscriptions.subscribe("ann")
        assert await one.hears("ann")
