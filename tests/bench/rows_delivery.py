"""Rows about events on their way to the devices."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import median

from .bench import Bench, Figure
from .machine import Child
from .subjects import Audience, Floor, throughput

__all__ = ["burst", "fanout", "groups"]

DEVICES = 1_000
SINGLES = 6
BURST = 50
GROUPS = 200
EACH = 5
EVENTS = 10_000
US = 1e6


def fanout(bench: Bench) -> Iterator[Figure]:
    """One event to 1000 devices of one user."""
    with ExitStack() as stack:
        ours = Audience(
            bench, stack, stack.enter_context(bench.daemon()), ["user_1"], DEVICES
        )
        theirs = Audience(
            bench, stack, stack.enter_context(bench.relay()), ["user_1"], DEVICES,
            relay=True,
        )  # fmt: skip
        floor = Floor(bench, stack, DEVICES, ours.size)
        costs: list[list[float]] = [[], [], []]
        units = SINGLES * DEVICES
        subjects: list[tuple[Child, Callable[[int], None]]] = [
            (ours.child, ours.singles),
            (theirs.child, theirs.singles),
            (floor.child, floor.all),
        ]
        for _ in bench.rounds("fanout", full=21, quick=7):
            for (server, run), cost in zip(subjects, costs, strict=True):
                with bench.meter.watch(server, cost, units):
                    run(SINGLES)
        mine, relayed, bare = ([US * c for c in cost] for cost in costs)
        work = f"event to {DEVICES} devices, CPU per delivery"
        yield Figure(
            "fanout",
            work,
            "µs",
            mine,
            "bare os.write loop",
            bare,
            1.3,
            shares=bench.meter.shares,
        )
        yield Figure(
            "fanout",
            work,
            "µs",
            mine,
            "websockets.broadcast",
            relayed,
            0.75,
            shares=bench.meter.shares,
        )


def burst(bench: Bench) -> Iterator[Figure]:
    """50 events for one user in one go, beside single events to the same devices."""
    with ExitStack() as stack:
        child = stack.enter_context(bench.daemon())
        ours = Audience(bench, stack, child, ["user_1"], DEVICES)
        together: list[float] = []
        single: list[float] = []
        for _ in bench.rounds("burst", full=11):
            with bench.meter.watch(child, together, BURST * DEVICES):
                ours.burst(BURST)
            with bench.meter.watch(child, single, SINGLES * DEVICES):
                ours.singles(SINGLES)
        yield Figure(
            "burst",
            f"{BURST} events at once to {DEVICES} devices, CPU per delivery",
            "µs",
            [US * c for c in together],
            "one at a time",
            [US * c for c in single],
            0.35,
            shares=bench.meter.shares,
        )


def groups(bench: Bench) -> Iterator[Figure]:
    """Users with 5 devices: cost of an event, then how late at half load."""
    users = [f"user_{n}" for n in range(GROUPS)]
    with ExitStack() as stack:
        ours = Audience(bench, stack, stack.enter_context(bench.daemon()), users, EACH)
        theirs = Audience(
            bench, stack, stack.enter_context(bench.relay()), users, EACH, relay=True
        )
        order = list(range(GROUPS))
        mine: list[float] = []
        relayed: list[float] = []
        for _ in bench.rounds("groups"):
            throughput(bench, ours, mine, 2_000, order)
            throughput(bench, theirs, relayed, 2_000, order)
        yield Figure(
            "groups",
            f"event from Redis to users of {EACH} devices, CPU per delivery",
            "µs",
            [US * c / EACH for c in mine],
            "websockets.serve + redis-py",
            [US * c / EACH for c in relayed],
            0.8,
            shares=bench.meter.shares,
        )
        rate = 0.5 / median(mine)
        late: list[float] = []
        for _ in bench.rounds("groups, latency", full=5):
            with bench.meter.watch(ours.child, [], EVENTS):
                latencies = _latencies(ours, rate, EVENTS)
            late.append(1000 * _percentile(latencies, 0.99))
        yield Figure(
            "groups",
            f"p99 to the last device at half load, {rate:.0f}/s",
            "ms",
            late,
            "5 ms",
            [5.0] * len(late),
            1.0,
            shares=bench.meter.shares,
        )


def _latencies(audience: Audience, rate: float, count: int) -> list[float]:
    """Seconds from when an event was due to its last device, at `rate` per second.

    A user's devices get the same events, so the n-th frame of each is one event.
    """
    crowd, publisher = audience.crowd, audience.publisher
    seat = {fd: number // audience.each for number, fd in enumerate(crowd.socks)}
    waiting: list[deque[list[float]]] = [deque() for _ in audience.commands]
    position = dict.fromkeys(seat, 0)
    done = [0] * len(waiting)
    late: list[float] = []
    began, sent = time.monotonic(), 0
    while len(late) < count:
        now = time.monotonic()
        due = min(count, int((now - began) * rate))
        if due > sent:
            some = range(sent, due)
            for n in some:
                waiting[n % len(waiting)].append([began + n / rate, audience.each])
            wanted = (audience.commands[n % len(waiting)] for n in some)
            publisher.send(b"".join(wanted), len(some))
            sent = due
        # Asleep, not spinning: Redis shares the core.
        pause = began + (sent + 1) / rate - now if sent < count else 5
        for fd, size in crowd.ready(max(0.0, pause)):
            user = seat[fd]
            now = time.monotonic()
            for _ in range(size // audience.size):
                entry = waiting[user][position[fd] - done[user]]
                position[fd] += 1
                entry[1] -= 1
            while waiting[user] and waiting[user][0][1] == 0:
                late.append(now - waiting[user].popleft()[0])
                done[user] += 1
    return late


def _percentile(values: list[float], part: float) -> float:
    return sorted(values)[int(len(values) * part)]
