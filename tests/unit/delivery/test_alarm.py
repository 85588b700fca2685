"""The alarm of recovery: it wakes the sleeper when it must, and only then."""

import asyncio
import time

from typelets_ws.delivery.alarm import Alarm

LONG_S = 60.0


async def asleep(alarm: Alarm, pause: float) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(alarm.sleep(pause))
    await asyncio.sleep(0)
    return task


async def test_it_ends_by_itself() -> None:
    await Alarm(time.monotonic).sleep(0.001)


async def test_ring_ends_the_sleep() -> None:
    alarm = Alarm(time.monotonic)
    task = await asleep(alarm, LONG_S)
    alarm.ring()
    await task


async def test_a_ring_before_the_sleep_ends_it_once() -> None:
    alarm = Alarm(time.monotonic)
    alarm.ring()
    await alarm.sleep(LONG_S)
    task = await asleep(alarm, LONG_S)
    assert not task.done()
    task.cancel()


async def test_only_what_is_due_before_the_end_of_the_sleep_ends_it() -> None:
    alarm = Alarm(time.monotonic)
    alarm.ring_by(time.monotonic())  # awake: it looks by itself
    task = await asleep(alarm, LONG_S)
    alarm.ring_by(time.monotonic() + 2 * LONG_S)
    await asyncio.sleep(0)
    assert not task.done()
    alarm.ring_by(time.monotonic() + LONG_S / 2)
    await task
