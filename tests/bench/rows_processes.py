"""The row about processes: two on two cores beside one on one.

On two cores the second server shares its core with the load and with Redis, so the
rate says more about the machine than about the daemon; how busy each core was says
which of them was full. What distribution costs is the CPU of both servers together.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack

from .bench import Bench, turns
from .figure import Figure
from .subjects import Audience

__all__ = ["processes"]

USERS = 200
EACH = 6
EVENTS = 6_000
OUTSTANDING = 50
US = 1e6


def processes(bench: Bench) -> Iterator[Figure]:
    """The same users, their devices on one server, or half of them on each of two."""
    users = [f"user_{n}" for n in range(USERS)]
    costs: list[list[float]] = [[], []]
    rates: list[list[float]] = [[], []]
    busy = [bench.busy(), bench.busy()]
    with ExitStack() as stack:
        first = stack.enter_context(bench.daemon())
        second = stack.enter_context(bench.daemon(first))
        alone = stack.enter_context(bench.daemon())
        audiences = [
            Audience(bench, stack, first, users, EACH, other=second),
            Audience(bench, stack, alone, users, EACH),
        ]
        for number in bench.rounds("processes"):
            for who, audience in turns(list(enumerate(audiences)), number):
                watched = bench.meter.watch(audience.servers, costs[who], EVENTS * EACH)
                with watched, busy[who].watch():
                    began = time.monotonic()
                    _flood(audience)
                    took = time.monotonic() - began
                rates[who].append(EVENTS * EACH / took)
    # The load keeps a server off its core too, which no other row has.
    shares = (bench.meter.busy, 0.0)
    cores = [each.shares for each in busy]
    yield Figure(
        "processes", f"two processes, users of {EACH} devices, CPU per delivery",
        "µs", [US * c for c in costs[0]], "one process", [US * c for c in costs[1]],
        shares=shares, cores=cores,
    )  # fmt: skip
    yield Figure(
        "processes", "the same, deliveries at most", "/s", rates[0],
        "one process", rates[1], shares=shares, cores=cores,
    )  # fmt: skip


def _flood(audience: Audience) -> None:
    """Events for one user after the other, the next ones before the last are there."""
    commands = audience.commands
    size = audience.size * audience.each
    sent = done = more = 0
    while done < EVENTS:
        ahead = min(EVENTS, done + OUTSTANDING * 2)
        some = [commands[n % len(commands)] for n in range(sent, ahead)]
        if some:
            audience.publisher.send(b"".join(some), len(some))
            sent = ahead
        more = audience.crowd.drain(size * OUTSTANDING - more)
        done += OUTSTANDING
