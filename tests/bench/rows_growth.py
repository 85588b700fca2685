"""The row about growth: what an event costs, the more users are connected.

Memory that belongs to one of many sockets has left the cache when its turn comes; a
bare os.write pays for that as well, so it is measured at the same counts.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import median

from .bench import Bench, turns
from .figure import Figure
from .subjects import Audience, Floor, throughput

__all__ = ["growth"]

COUNTS = (100, 1_000, 3_000, 10_000)
FEW, MANY = COUNTS[0], COUNTS[-1]
EVENTS = 4_000
US = 1e6
Costs = dict[int, list[float]]
Subject = Callable[[], None]


def growth(bench: Bench) -> Iterator[Figure]:
    """The cost of an event at each count, ours and a bare os.write."""
    # One after the other: together they would need 28 000 open files.
    size, ours = _ours(bench)
    shares = bench.meter.shares
    bare = _bare(bench, size)
    bare_shares = bench.meter.shares
    lines = {
        name: [(float(count), median(costs[count])) for count in COUNTS]
        for name, costs in (("daemon", ours), ("bare os.write", bare))
    }
    yield Figure(
        "growth", f"event to one of {MANY} users, CPU", "µs", ours[MANY],
        f"one of {FEW}", ours[FEW], 1.2, shares=shares, curves=lines,
    )  # fmt: skip
    yield Figure(
        "growth", f"bare os.write to one of {MANY} sockets", "µs", bare[MANY],
        f"one of {FEW}", bare[FEW], shares=bare_shares,
    )  # fmt: skip
    yield Figure(
        "growth", f"growth from {FEW} to {MANY}, CPU per event", "µs", _grown(ours),
        "of the bare os.write", _grown(bare), shares=shares, divided=False,
    )  # fmt: skip
    for count in COUNTS[1:-1]:
        yield Figure(
            "growth", f"event to one of {count} users, CPU", "µs", ours[count],
            "bare os.write", bare[count], shares=shares,
        )  # fmt: skip


def _ours(bench: Bench) -> tuple[int, Costs]:
    """The bytes of a message, and the cost of an event."""
    rng = random.Random(1)
    costs: Costs = {count: [] for count in COUNTS}
    with ExitStack() as stack:
        subjects: list[Subject] = []
        for count in COUNTS:
            bench.tell(f"growth: {count} users connect")
            users = [f"user_{n}" for n in range(count)]
            child = stack.enter_context(bench.daemon())
            audience = Audience(bench, stack, child, users, 1)

            def run(audience: Audience = audience, count: int = count) -> None:
                order = rng.choices(range(count), k=EVENTS)
                throughput(bench, audience, costs[count], EVENTS, order)

            subjects.append(run)
        _rounds(bench, "growth", subjects)
        return audience.size, _microseconds(costs)


def _bare(bench: Bench, size: int) -> Costs:
    costs: Costs = {count: [] for count in COUNTS}
    with ExitStack() as stack:
        subjects: list[Subject] = []
        for count in COUNTS:
            floor = Floor(bench, stack, count, size)

            def run(floor: Floor = floor, count: int = count) -> None:
                with bench.meter.watch(floor.child, costs[count], EVENTS):
                    floor.some(EVENTS)

            subjects.append(run)
        _rounds(bench, "growth, bare os.write", subjects)
    return _microseconds(costs)


def _rounds(bench: Bench, name: str, subjects: list[Subject]) -> None:
    for number in bench.rounds(name, full=13):
        for run in turns(subjects, number):
            run()


def _microseconds(costs: Costs) -> Costs:
    return {count: [US * c for c in some] for count, some in costs.items()}


def _grown(costs: Costs) -> list[float]:
    return [a - b for a, b in zip(costs[MANY], costs[FEW], strict=True)]
