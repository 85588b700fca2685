"""Turns: who has one, who waits, and that none is lost."""

import asyncio
import random

import pytest

from typelets_ws.postgres.semaphore import KeyedSemaphore

SOON = 0.02
LONG = 30.0


def within(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def settle() -> None:
    """Let who can go on go on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def whole(turns: KeyedSemaphore, each: int, user: str = "u") -> None:
    """Every permit is free, and not one more."""
    for _ in range(each):
        assert await turns.acquire(user, within(LONG))
    assert not await turns.acquire(user, within(SOON))
    for _ in range(each):
        turns.release(user)
    assert (
        vars(turns)["_busy"] == vars(turns)["_lines"] == vars(turns)["_waiting"] == {}
    )


async def test_each_user_has_so_many_at_once() -> None:
    turns = KeyedSemaphore(2, 10)
    for user in ("u", "v"):
        assert await turns.acquire(user, within(LONG))
        assert await turns.acquire(user, within(LONG))
    assert not await turns.acquire("u", within(SOON))
    turns.release("u")
    assert await turns.acquire("u", within(SOON))
    for user in ("u", "v"):
        turns.release(user)
        turns.release(user)
    await whole(turns, 2)


async def test_who_came_first_goes_first() -> None:
    turns = KeyedSemaphore(1, 10)
    assert await turns.acquire("u", within(LONG))
    order: list[int] = []

    async def wait(number: int) -> None:
        assert await turns.acquire("u", within(LONG))
        order.append(number)
        turns.release("u")

    async with asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(wait(number))
        await settle()
        assert order == []
        turns.release("u")
    assert order == [0, 1, 2, 3, 4]
    await whole(turns, 1)


async def test_the_line_has_room_for_so_many() -> None:
    turns = KeyedSemaphore(1, 2)
    for user in ("u", "v"):
        assert await turns.acquire(user, within(LONG))
    async with asyncio.TaskGroup() as tasks:
        waiting = [
            tasks.create_task(turns.acquire(user, within(LONG))) for user in ("u", "v")
        ]
        await settle()
        assert not await turns.acquire("u", within(LONG))
        waiting[0].cancel()
        await settle()
        instead = tasks.create_task(turns.acquire("u", within(LONG)))
        await settle()
        turns.release("u")
        turns.release("v")
        assert await instead
        assert await waiting[1]
    turns.release("u")
    turns.release("v")
    await whole(turns, 1)


@pytest.mark.usefixtures("loop_factory")
async def test_each_waits_until_its_own_time() -> None:
    """Also one who came later and has less time."""
    turns = KeyedSemaphore(1, 10)
    assert await turns.acquire("u", within(LONG))
    loop = asyncio.get_running_loop()

    async def wait(seconds: float) -> float:
        began = loop.time()
        assert not await turns.acquire("u", began + seconds)
        return loop.time() - began

    async with asyncio.TaskGroup() as tasks:
        patient = tasks.create_task(turns.acquire("u", within(LONG)))
        waits = {
            seconds: tasks.create_task(wait(seconds))
            for seconds in (0.2, 0.05, 0.1, 0.0, -1.0)
        }
        for seconds, task in waits.items():  # uvloop's clock has milliseconds
            assert seconds - 0.002 <= await task < max(seconds, 0) + 1
        turns.release("u")
        assert await patient
    turns.release("u")
    await whole(turns, 1)


@pytest.mark.parametrize("when", ["waiting", "granted", "expired"])
async def test_cancelled_in_any_moment_the_turn_goes_on(when: str) -> None:
    turns = KeyedSemaphore(1, 10)
    assert await turns.acquire("u", within(LONG))
    async with asyncio.TaskGroup() as tasks:
        give_up = within(SOON if when == "expired" else LONG)
        first = tasks.create_task(turns.acquire("u", give_up))
        second = tasks.create_task(turns.acquire("u", within(LONG)))
        await settle()
        if when == "granted":
            turns.release("u")
        if when == "expired":
            asyncio.get_running_loop().call_at(give_up, first.cancel)
            await asyncio.wait([first])
        first.cancel()
        await settle()
        assert first.done()
        if when != "granted":
            turns.release("u")
        assert await second
    turns.release("u")
    await whole(turns, 1)


async def test_none_is_lost_any_happens() -> None:
    rng = random.Random(4)
    turns = KeyedSemaphore(2, 20)
    busy = {"u": 0, "v": 0}

    async def visit() -> None:
        user = rng.choice("uv")
        if not await turns.acquire(user, within(rng.uniform(0, 0.01))):
            return
        busy[user] += 1
        assert busy[user] <= 2
        try:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
        finally:
            busy[user] -= 1
            turns.release(user)

    async with asyncio.TaskGroup() as tasks:
        some: list[asyncio.Task[None]] = []
        for _ in range(3_000):
            some.append(tasks.create_task(visit()))
            if rng.random() < 0.3:
                rng.choice(some[-20:]).cancel()
            if rng.random() < 0.5:
                await asyncio.sleep(0)
    await whole(turns, 2)
