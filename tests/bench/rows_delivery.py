"""Rows about events on their way to the devices."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import median

from .bench import Bench, turns
from .figure import Figure
from .machine import Process
from .paced import Run, percentile
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
            speech=bench.relayed,
        )  # fmt: skip
        floor = Floor(bench, stack, DEVICES, ours.size)
        costs: list[list[float]] = [[], [], []]
        units = SINGLES * DEVICES
        subjects: list[tuple[Process, Callable[[int], None]]] = [
            (ours.child, ours.singles),
            (theirs.child, theirs.singles),
            (floor.child, floor.all),
        ]
        pairs = list(zip(subjects, costs, strict=True))
        for number in bench.rounds("fanout", full=21, quick=7):
            for (server, run), cost in turns(pairs, number):
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
            1.25,
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
        subjects = [(ours.burst, BURST, together), (ours.singles, SINGLES, single)]
        for number in bench.rounds("burst", full=11):
            for run, count, cost in turns(subjects, number):
                with bench.meter.watch(child, cost, count * DEVICES):
                    run(count)
        yield Figure(
            "burst",
            f"{BURST} events at once to {DEVICES} devices, CPU per delivery",
            "µs",
            [US * c for c in together],
            "one at a time",
            [US * c for c in single],
            0.05,
            shares=bench.meter.shares,
        )


def groups(bench: Bench) -> Iterator[Figure]:
    """Users with 5 devices: cost of an event, then how late at half load."""
    users = [f"user_{n}" for n in range(GROUPS)]
    with ExitStack() as stack:
        ours = Audience(bench, stack, stack.enter_context(bench.daemon()), users, EACH)
        theirs = Audience(
            bench, stack, stack.enter_context(bench.relay()), users, EACH,
            speech=bench.relayed,
        )  # fmt: skip
        order = list(range(GROUPS))
        mine: list[float] = []
        relayed: list[float] = []
        for number in bench.rounds("groups"):
            for audience, cost in turns([(ours, mine), (theirs, relayed)], number):
                throughput(bench, audience, cost, 2_000, order)
        yield Figure(
            "groups",
            f"event from Redis to users of {EACH} devices, CPU per delivery",
            "µs",
            [US * c / EACH for c in mine],
            "websockets.serve + redis-py",
            [US * c / EACH for c in relayed],
            0.55,
            shares=bench.meter.shares,
        )
        rate = 0.5 / median(mine)
        late: list[float] = []
        for _ in bench.rounds("groups, latency", full=5):
            with bench.meter.watch(ours.child, [], EVENTS):
                run = Run(ours, [n % GROUPS for n in range(EVENTS)], rate)
            late.append(1000 * percentile(run.late, 0.99))
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
