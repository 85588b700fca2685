"""Rows about ten thousand devices: idle, active, and all coming at once."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from .bench import Bench, turns
from .figure import Figure
from .load import Crowd, Script, upgrade
from .machine import Process
from .paced import PING, Pings, Run, percentile
from .subjects import Audience

__all__ = ["active", "devices", "idle", "storm", "weigh"]

DEVICES = 10_000
USERS = 2_000
EACH = DEVICES // USERS
EVENTS_PER_S = 500
SECONDS = 5
STEP = 100
MB = 1_048_576


def idle(bench: Bench) -> Iterator[Figure]:
    """Resident bytes of a connection that says nothing, at 10 000 connections."""
    ours: list[float] = []
    theirs: list[float] = []
    strangers: list[Script] = [[(upgrade(), b"\r\n\r\n")]] * DEVICES

    def daemon() -> None:
        with bench.daemon() as child:
            ours.append(weigh(child, devices(bench.device)))

    def serve() -> None:
        with bench.relay(ping_interval=20) as child:
            theirs.append(weigh(child, strangers))

    for number in bench.rounds("idle", full=2, quick=1):
        for run in turns([daemon, serve], number):
            run()
    yield Figure(
        "idle",
        f"idle authenticated connection, RSS at {DEVICES}",
        "B",
        ours,
        "websockets.serve",
        theirs,
        0.3,
    )


def devices(script: Callable[[str], Script]) -> list[Script]:
    """10 000 devices, five of each user, that sign in by this script."""
    return [script(f"user_{n % USERS}") for n in range(DEVICES)]


def weigh(child: Process, scripts: list[Script]) -> float:
    """Resident bytes of a connection."""
    # The first few hundred make the server fetch what every connection shares.
    _visit(child, scripts[:200])
    return _visit(child, scripts) / len(scripts)


def _visit(child: Process, scripts: list[Script]) -> int:
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
    curves: dict[str, list[tuple[float, float]]] = {}
    returning = devices(bench.device)
    with ExitStack() as stack:
        child = stack.enter_context(bench.daemon())
        crowd = Crowd()
        stack.callback(lambda: crowd.close())
        crowd.open(child.port, returning)
        for number in bench.rounds("storm", full=3, quick=1):
            child.quiesce()
            child.forget_peak()
            began = time.monotonic()
            crowd.close()
            crowd = Crowd()
            # Raises when a single one is refused.
            crowd.open(child.port, returning, window=DEVICES)
            took.append(time.monotonic() - began)
            peak.append(child.peak() / MB)
            moments = [moment - began for moment in crowd.served]
            curves[f"round {number + 1}"] = _counted(moments)
    work = f"{DEVICES} devices reconnect at once"
    yield Figure("storm", f"{work}, none refused", "s", took, curves=curves)
    yield Figure("storm", f"{work}, the server's peak RSS", "MB", peak)


def _counted(moments: list[float]) -> list[tuple[float, float]]:
    """How many there were at some of these moments."""
    last = len(moments)
    numbers = [1, *range(STEP, last, STEP), last]
    return [(0.0, 0.0), *((round(moments[n - 1], 4), float(n)) for n in numbers)]


def active(bench: Bench) -> Iterator[Figure]:
    """10 000 devices that all ping every 5 s, while events reach users at random.

    The rates leave the load time to sleep, so that lateness is the server's.
    """
    share: list[float] = []
    late: list[float] = []
    pongs: list[float] = []
    weight: list[float] = []
    rng = random.Random(1)
    with ExitStack() as stack:
        bench.tell(f"active: {DEVICES} devices connect")
        child = stack.enter_context(bench.daemon())
        users = [f"user_{n}" for n in range(USERS)]
        audience = Audience(bench, stack, child, users, EACH)
        socks = list(audience.crowd.socks)
        size = audience.crowd.learn(
            lambda: [sock.send(PING) for sock in audience.crowd.socks.values()]
        )
        for _ in bench.rounds("active", full=4, quick=1):
            rng.shuffle(socks)
            order = rng.choices(range(USERS), k=EVENTS_PER_S * SECONDS)
            with bench.meter.watch(child, share, SECONDS):
                run = Run(
                    audience,
                    order,
                    EVENTS_PER_S,
                    Pings(socks, DEVICES / SECONDS, size),
                )
            late.append(1000 * percentile(run.late, 0.99))
            pongs.append(1000 * percentile(run.late_pongs, 0.99))
            weight.append(child.rss() / MB)
    rates = f"{DEVICES // SECONDS} pings/s, {EVENTS_PER_S * EACH} deliveries/s"
    for what, unit, values in (
        (
            f"{DEVICES} active devices, {rates}: of a core",
            "%",
            [100 * s for s in share],
        ),
        ("the same, p99 from due to the last device", "ms", late),
        ("the same, p99 ping to pong", "ms", pongs),
        ("the same, the server's RSS", "MB", weight),
    ):
        yield Figure("active", what, unit, values, shares=bench.meter.shares)
