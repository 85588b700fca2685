"""The row about processes: two on two cores beside one on one.

On two cores the second server shares its core with the load and with Redis, so the
rate says more about the machine than about the daemon; how busy each core was says
which of them was full. The cost of distribution is the CPU of both servers together.
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
    """The same users: on one server, on either of two, or with half the devices on
    each of two."""
    users = [f"user_{n}" for n in range(USERS)]
    works = {
        f"two processes, users of {EACH} devices on both, CPU per delivery": 1.3,
        "the same, each user's devices on one of them": 1.15,
        "one process": None,
    }
    costs: list[list[float]] = [[] for _ in works]
    rates: list[list[float]] = [[] for _ in works]
    busy = [bench.busy() for _ in works]
    with ExitStack() as stack:
        first = stack.enter_context(bench.daemon())
        second = stack.enter_context(bench.daemon(first))
        third = stack.enter_context(bench.daemon())
        fourth = stack.enter_context(bench.daemon(third))
        alone = stack.enter_context(bench.daemon())
        audiences = [
            Audience(bench, stack, first, users, EACH, other=second),
            Audience(bench, stack, third, users, EACH, other=fourth, together=True),
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
    for who, (work, target) in enumerate(works.items()):
        if target is None:
            continue
        cores = [busy[who].shares, busy[-1].shares]
        yield Figure(
            "processes", work, "µs", [US * c for c in costs[who]],
            "one process", [US * c for c in costs[-1]], target,
            shares=shares, cores=cores,
        )  # fmt: skip
        yield Figure(
            "processes", "the same, deliveries at most", "/s", rates[who],
            "one process", rates[-1], shares=shares, cores=cores,
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
