"""Load at a fixed rate; lateness counts from when a message was due.

Between two things to do the generator sleeps in epoll: Redis shares its core.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from .load import PATIENCE_S, RefusedError, frame
from .subjects import Audience

__all__ = ["PING", "Pace", "Pings", "Run", "percentile"]

PING = frame(b'{"type":"ping"}')


class Pace:
    """`count` things, `rate` in a second: which of them are due."""

    def __init__(self, rate: float, count: int) -> None:
        self._rate = rate
        self._count = count
        self._taken = 0
        self.began = time.monotonic()

    def at(self, number: int) -> float:
        """When this one is due."""
        return self.began + number / self._rate

    @property
    def next(self) -> float:
        """When there is something to do again; infinite after the last."""
        return self.at(self._taken) if self._taken < self._count else float("inf")

    def due(self, now: float) -> range:
        """Those that are to be done now, once."""
        first = self._taken
        until = int((now - self.began) * self._rate) + 1
        self._taken = max(first, min(self._count, until))
        return range(first, self._taken)


class Arrivals:
    """Which event a frame is: the devices of a user get the same ones in order.

    `late` has the seconds from when an event was due to the last of the devices.
    """

    def __init__(self, seats: dict[int, int], users: int, each: int) -> None:
        self.late: list[float] = []
        self._seats = seats
        self._each = each
        self._waiting: list[deque[list[float]]] = [deque() for _ in range(users)]
        self._done = [0] * users
        self._position = dict.fromkeys(seats, 0)

    def expect(self, user: int, due: float) -> None:
        """The next event of this user was due then."""
        self._waiting[user].append([due, self._each])

    def take(self, device: int, frames: int, now: float) -> None:
        """So many frames have come to a device."""
        user = self._seats[device]
        waiting = self._waiting[user]
        for _ in range(frames):
            waiting[self._position[device] - self._done[user]][1] -= 1
            self._position[device] += 1
        while waiting and not waiting[0][1]:
            self.late.append(now - waiting.popleft()[0])
            self._done[user] += 1


@dataclass
class Pings:
    """Devices that send a ping, one after the other; `size` is a pong's."""

    devices: Sequence[int]
    rate: float
    size: int


class Run:
    """Events for the users in this `order`, and pings meanwhile; then `late` ones."""

    def __init__(
        self, audience: Audience, order: Sequence[int], rate: float,
        pings: Pings | None = None,
    ) -> None:  # fmt: skip
        self._audience = audience
        self._order = order
        self._pings = pings or Pings((), 1.0, 0)
        seats = {fd: n // audience.each for n, fd in enumerate(audience.crowd.socks)}
        self._arrivals = Arrivals(seats, len(audience.commands), audience.each)
        self._asked: dict[int, float] = {}
        self.late = self._arrivals.late
        self.late_pongs: list[float] = []
        self._events_pace = Pace(rate, len(order))
        self._pings_pace = Pace(self._pings.rate, len(self._pings.devices))
        self._until = time.monotonic() + len(order) / rate + PATIENCE_S
        self._run()

    def _run(self) -> None:
        answers = len(self._order), len(self._pings.devices)
        while (len(self.late), len(self.late_pongs)) != answers:
            now = time.monotonic()
            if now > self._until:
                raise RefusedError("not everything came")
            self._publish(now)
            self._ping(now)
            upcoming = min(self._events_pace.next, self._pings_pace.next, now + 1)
            for fd, size in self._audience.crowd.ready(max(0.0, upcoming - now)):
                self._take(fd, size, time.monotonic())

    def _publish(self, now: float) -> None:
        due = self._events_pace.due(now)
        if due:
            for n in due:
                self._arrivals.expect(self._order[n], self._events_pace.at(n))
            commands = [self._audience.commands[self._order[n]] for n in due]
            self._audience.publisher.send(b"".join(commands), len(commands))

    def _ping(self, now: float) -> None:
        for n in self._pings_pace.due(now):
            fd = self._pings.devices[n]
            self._asked[fd] = self._pings_pace.at(n)
            self._audience.crowd.socks[fd].send(PING)

    def _take(self, fd: int, size: int, now: float) -> None:
        frames, rest = divmod(size, self._audience.size)
        if not size or rest not in {0, self._pings.size}:
            raise RefusedError(f"{size} bytes that are no answer")
        if rest:
            self.late_pongs.append(now - self._asked.pop(fd))
        self._arrivals.take(fd, frames, now)


def percentile(values: list[float], part: float) -> float:
    """The value that this part of them does not exceed."""
    return sorted(values)[int(len(values) * part)]
