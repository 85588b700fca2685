"""Rows about events on their way to the devices."""

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle, islice
from statistics import median

from .bench import Bench, Figure
from .load import Crowd
from .machine import Child

__all__ = ["burst", "event", "fanout", "groups", "grow", "throughput"]

DEVICES = 1_000
SINGLES = 15
BURST = 50
GROUPS = 200
EACH = 5
OUTSTANDING = 8
US = 1e6


def event() -> bytes:
    """A note_updated whose note_sync has about 300 bytes."""
    note = "8b0f5d6e-4c31-4a27-9c0b-3f1c2d7e9a10"
    changes = '{"starred":true,"updatedAt":"2026-01-01T00:00:00.000Z"}'
    row = '{"id":"' + note + '",' + changes[1:]
    return (
        f'{{"event":"note_updated","noteId":"{note}","changes":{changes},'
        f'"updatedNote":{row}}}'
    ).encode()


class Audience:
    """The devices of some users on one server, and the events for them."""

    def __init__(
        self, bench: Bench, stack: ExitStack, child: Child, users: Sequence[str],
        each: int, *, relay: bool = False,
    ) -> None:  # fmt: skip
        self.child = child
        self.crowd = Crowd()
        stack.callback(self.crowd.close)
        self.publisher = bench.publisher()
        stack.callback(self.publisher.close)
        script = bench.listener if relay else bench.device
        self.crowd.open(child.port, [script(u) for u in users for _ in range(each)])
        child.quiesce()
        self.each = each
        self.commands = [
            self.publisher.command(child.prefix, user, event()) for user in users
        ]
        every = b"".join(self.commands)
        self.size = self.crowd.learn(lambda: self.publisher.send(every, len(users)))

    def singles(self, count: int) -> None:
        """One event after the other, each to all devices of the one user."""
        for _ in range(count):
            self.publisher.send(self.commands[0], 1)
            self.crowd.drain(self.size * len(self.crowd))

    def burst(self, count: int) -> None:
        """Many events for the one user in one go."""
        self.publisher.send(self.commands[0] * count, count)
        self.crowd.drain(self.size * len(self.crowd) * count)


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
        child = stack.enter_context(bench.floor())
        write = _floor(stack, child, ours.size)
        costs: list[list[float]] = [[], [], []]
        units = SINGLES * DEVICES
        subjects: list[tuple[Child, Callable[[int], None]]] = [
            (ours.child, ours.singles),
            (theirs.child, theirs.singles),
            (child, write),
        ]
        for _ in bench.rounds("fanout"):
            for (server, run), cost in zip(subjects, costs, strict=True):
                with bench.meter.watch(server, cost, units):
                    run(SINGLES)
        mine, relayed, bare = ([US * c for c in cost] for cost in costs)
        work = f"event to {DEVICES} devices, CPU per delivery"
        busy = bench.meter.busiest
        yield Figure(
            "fanout", work, "µs", mine, "bare os.write loop", bare, 1.3, busy=busy
        )
        yield Figure(
            "fanout", work, "µs", mine, "websockets.broadcast", relayed, 0.75, busy=busy
        )


def _floor(stack: ExitStack, child: Child, size: int) -> Callable[[int], None]:
    """Sockets of the bare loop; returns what writes to all of them, n times."""
    control = Crowd()
    stack.callback(control.close)
    control.open(child.port, [[(b"%d\n" % DEVICES, b"")]])
    (sock,) = control.socks.values()
    crowd = Crowd()
    stack.callback(crowd.close)
    crowd.open(child.port, [[]] * DEVICES)
    control.drain(len(b"ready\n"))

    def write(times: int) -> None:
        for _ in range(times):
            sock.send(b"%d\n" % size)
            crowd.drain(size * DEVICES)

    return write


def burst(bench: Bench) -> Iterator[Figure]:
    """50 events for one user in one go, beside single events to the same devices."""
    with ExitStack() as stack:
        child = stack.enter_context(bench.daemon())
        ours = Audience(bench, stack, child, ["user_1"], DEVICES)
        together: list[float] = []
        single: list[float] = []
        for _ in bench.rounds("burst"):
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
            busy=bench.meter.busiest,
        )


def throughput(
    bench: Bench, audience: Audience, cost: list[float], count: int, order: list[int]
) -> None:
    """`count` events, `OUTSTANDING` at a time, for the users in this order."""
    upcoming = cycle(order)
    size = audience.size * audience.each
    with bench.meter.watch(audience.child, cost, count):
        for _ in range(count // OUTSTANDING):
            some = [audience.commands[n] for n in islice(upcoming, OUTSTANDING)]
            audience.publisher.send(b"".join(some), OUTSTANDING)
            audience.crowd.drain(size * OUTSTANDING)


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
            busy=bench.meter.busiest,
        )
        rate = 0.5 / median(mine)
        late = [
            1000 * _percentile(_latencies(ours, rate, 10_000), 0.99)
            for _ in bench.rounds("groups, latency", full=5)
        ]
        yield Figure(
            "groups", f"p99 to the last device at half load, {rate:.0f}/s", "ms",
            late, "5 ms", [5.0] * len(late), 1.0,
        )  # fmt: skip


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
        for fd, size in crowd.ready(0 if sent < count else 5):
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


def grow(bench: Bench) -> Iterator[Figure]:
    """The cost of an event when 10 000 users are connected and when 100 are."""
    costs: dict[int, list[float]] = {100: [], 1_000: [], 10_000: []}
    with ExitStack() as stack:
        audiences = {}
        for count in costs:
            bench.tell(f"growth: {count} users connect")
            users = [f"user_{n}" for n in range(count)]
            child = stack.enter_context(bench.daemon())
            audiences[count] = Audience(bench, stack, child, users, 1)
        chance = random.Random(1)
        for _ in bench.rounds("growth"):
            for count, audience in audiences.items():
                order = chance.choices(range(count), k=4_000)
                throughput(bench, audience, costs[count], 4_000, order)
    few = [US * c for c in costs[100]]
    for count in (1_000, 10_000):
        yield Figure(
            "growth",
            f"event to one device among {count} users, CPU",
            "µs",
            [US * c for c in costs[count]],
            "among 100 users",
            few,
            1.2,
            busy=bench.meter.busiest,
        )
