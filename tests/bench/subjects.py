"""Receivers of events: the devices of a server, and bare sockets beside them."""

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import cycle, islice

from .bench import Bench
from .load import Crowd, Speech
from .machine import Process

__all__ = ["OUTSTANDING", "Audience", "Floor", "throughput"]

OUTSTANDING = 8


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
    """The devices of some users on one server, and the events for them.

    With an `other` server, half of each user's devices are there; `together`: all
    devices of every other user.
    """

    def __init__(
        self, bench: Bench, stack: ExitStack, child: Process, users: Sequence[str],
        each: int, *, speech: Speech | None = None, other: Process | None = None,
        together: bool = False,
    ) -> None:  # fmt: skip
        self.child = child
        self.servers = [child, other] if other else [child]
        self.crowd = Crowd()
        stack.callback(self.crowd.close)
        speech = speech or Speech(bench.device, bench.publisher)
        self.publisher = speech.publisher()
        stack.callback(self.publisher.close)
        count = len(self.servers)
        for number, server in enumerate(self.servers):
            some = users[number::count] if together else users
            here = each if together else each // count
            self.crowd.open(
                server.port,
                [speech.script(user) for user in some for _ in range(here)],
            )
            server.settle()
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


class Floor:
    """As many sockets, and a process that does nothing but write to them."""

    def __init__(self, bench: Bench, stack: ExitStack, devices: int, size: int) -> None:
        self.child = stack.enter_context(bench.floor())
        self._size = size
        self._crowd = Crowd()
        stack.callback(self._crowd.close)
        control = Crowd()
        stack.callback(control.close)
        control.open(self.child.port, [[(b"%d\n" % devices, b"")]])
        (self._control,) = control.socks.values()
        self._crowd.open(self.child.port, [[]] * devices)
        control.drain(len(b"ready\n"))

    def all(self, times: int) -> None:
        """One message after the other to every socket."""
        for _ in range(times):
            self._control.send(b"%d\n" % self._size)
            self._crowd.drain(self._size * len(self._crowd))

    def some(self, count: int) -> None:
        """Messages to sockets chosen at random, `OUTSTANDING` at a time."""
        for _ in range(count // OUTSTANDING):
            self._control.send(b"%d %d\n" % (self._size, OUTSTANDING))
            self._crowd.drain(self._size * OUTSTANDING)


def throughput(
    bench: Bench, audience: Audience, cost: list[float], count: int, order: list[int]
) -> None:
    """`count` events, `OUTSTANDING` at a time, for the users in this order."""
    upcoming = cycle(order)
    size = audience.size * audience.each
    with bench.meter.watch(audience.servers, cost, count):
        for _ in range(count // OUTSTANDING):
            some = [audience.commands[n] for n in islice(upcoming, OUTSTANDING)]
            audience.publisher.send(b"".join(some), OUTSTANDING)
            audience.crowd.drain(size * OUTSTANDING)
