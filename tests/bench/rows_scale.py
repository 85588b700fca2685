"""Rows about ten thousand devices: what they weigh, and all of them coming at once."""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack

from .bench import Bench, Figure
from .load import Crowd, Script, upgrade
from .machine import Child
from .subjects import Audience, Floor, throughput

__all__ = ["growth", "idle", "storm"]

DEVICES = 10_000
USERS = 2_000
FEW = 100
EVENTS = 4_000
MB = 1_048_576
US = 1e6


def idle(bench: Bench) -> Iterator[Figure]:
    """Resident bytes of a connection that says nothing, at 10 000 connections."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in bench.rounds("idle", full=2, quick=1):
        with bench.daemon() as child:
            ours.append(_weight(child, _devices(bench)))
        with bench.relay(ping_interval=20) as child:
            theirs.append(_weight(child, [[(upgrade(), b"\r\n\r\n")]] * DEVICES))
    yield Figure(
        "idle",
        f"idle authenticated connection, RSS at {DEVICES}",
        "B",
        ours,
        "websockets.serve",
        theirs,
        0.5,
    )


def _devices(bench: Bench) -> list[Script]:
    return [bench.device(f"user_{n % USERS}") for n in range(DEVICES)]


def _weight(child: Child, scripts: list[Script]) -> float:
    # The first few hundred make the server fetch what every connection shares.
    _visit(child, scripts[:200])
    return _visit(child, scripts) / len(scripts)


def _visit(child: Child, scripts: list[Script]) -> int:
    """Bytes that the server grows by while all of these are connected."""
    child.quiesce()
    before = child.rss()
    crowd = Crowd()
    try:
        crowd.open(child.port, scripts)
        child.quiesce()
        return child.rss() - before
    finally:
        crowd.close()


def storm(bench: Bench) -> Iterator[Figure]:
    """10 000 devices lose their connections and come back in the same instant."""
    took: list[float] = []
    peak: list[float] = []
    devices = _devices(bench)
    with ExitStack() as stack:
        child = stack.enter_context(bench.daemon())
        crowd = Crowd()
        stack.callback(lambda: crowd.close())
        crowd.open(child.port, devices)
        for _ in bench.rounds("storm", full=3, quick=1):
            child.quiesce()
            child.forget_peak()
            began = time.monotonic()
            crowd.close()
            crowd = Crowd()
            # Raises when a single one is refused.
            crowd.open(child.port, devices, window=DEVICES)
            took.append(time.monotonic() - began)
            peak.append(child.peak() / MB)
    work = f"{DEVICES} devices reconnect at once"
    yield Figure("storm", f"{work}, none refused", "s", took)
    yield Figure("storm", f"{work}, the server's peak RSS", "MB", peak)


def growth(bench: Bench) -> Iterator[Figure]:
    """What an event costs when 10 000 users are connected, and when 100 are."""
    ours: dict[int, list[float]] = {FEW: [], DEVICES: []}
    with ExitStack() as stack:
        audiences = {}
        for count in ours:
            bench.tell(f"growth: {count} users connect")
            users = [f"user_{n}" for n in range(count)]
            child = stack.enter_context(bench.daemon())
            audiences[count] = Audience(bench, stack, child, users, 1)
        size = audiences[FEW].size
        chance = random.Random(1)
        for _ in bench.rounds("growth"):
            for count, audience in audiences.items():
                order = chance.choices(range(count), k=EVENTS)
                throughput(bench, audience, ours[count], EVENTS, order)
    bare: dict[int, list[float]] = {FEW: [], DEVICES: []}
    with ExitStack() as stack:
        floors = {count: Floor(bench, stack, count, size) for count in bare}
        for _ in bench.rounds("growth, bare os.write"):
            for count, floor in floors.items():
                with bench.meter.watch(floor.child, bare[count], EVENTS):
                    floor.some(EVENTS)
    for work, costs, target in (
        (f"event to one of {DEVICES} users, CPU", ours, 1.2),
        (f"bare os.write to one of {DEVICES} sockets", bare, None),
    ):
        many, few = ([US * c for c in costs[count]] for count in (DEVICES, FEW))
        yield Figure(
            "growth",
            work,
            "µs",
            many,
            f"one of {FEW}",
            few,
            target,
            shares=bench.meter.shares,
        )
