"""Other servers beside the daemon: `--peer NAME=COMMAND`.

COMMAND starts the server. In it ``{port}`` is replaced by the loopback port to listen
on, ``{redis}`` by the URL of the bench's Redis and ``{prefix}`` by the prefix of its
channels. The server speaks what the naive relay of `servers` speaks: a client sends
``{"type":"join","user":ID}`` and is answered with a text that has ``joined`` in it;
an event published to ``{prefix}user:ID`` goes to the clients that joined as ID.
"""

import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from .bench import Bench, turns
from .figure import Figure
from .load import RefusedError
from .machine import Process, free_port
from .report import PEERS
from .subjects import Audience, throughput

__all__ = ["PeerCommand", "PeerServer", "delivery", "peer_rows"]

START_S = 20.0
GROUPS = 200
EACH = 5
DEVICES = 1_000
SINGLES = 6
EVENTS = 2_000
US = 1e6


@dataclass(frozen=True)
class PeerCommand:
    """One `--peer`."""

    name: str
    command: str

    @classmethod
    def named(cls, text: str) -> "PeerCommand":
        """Read NAME=COMMAND. Raises `ValueError`."""
        name, _, command = text.partition("=")
        if not name or not command:
            raise ValueError(f"{text!r} is not NAME=COMMAND")
        return cls(name, command)


class PeerServer(Process):
    """A server of others on the server's core, while it is entered."""

    def __init__(
        self, bench: Bench, command: Sequence[str], port: int, prefix: str
    ) -> None:
        self.prefix = prefix
        self.speech = bench.relayed
        # Before it starts: a program may count the cores once, and start threads.
        bound = ["taskset", "-c", str(bench.cores.server), *command]
        self._process = subprocess.Popen(bound)
        super().__init__(self._process.pid, port)

    def __enter__(self) -> Self:
        until = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if time.monotonic() > until or self._process.poll() is not None:
                    self.__exit__()
                    raise RefusedError("the peer does not listen") from None
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def peer_rows(bench: Bench, peer: PeerCommand) -> Iterator[Figure]:
    """Events to the devices of a server that speaks as the naive relay does."""

    def start() -> PeerServer:
        port = free_port()
        prefix = f"bench-{peer.name}:"
        command = peer.command
        for word, value in (
            ("{port}", str(port)),
            ("{redis}", bench.redis.url),
            ("{prefix}", prefix),
        ):
            command = command.replace(word, value)
        return PeerServer(bench, shlex.split(command), port, prefix)

    yield from delivery(bench, peer.name, start)


def delivery(
    bench: Bench, name: str, start: Callable[[], PeerServer]
) -> Iterator[Figure]:
    """Events to 1000 devices of one user, and to users of 5 devices."""
    # Names of one length: a peer may repeat them in each message.
    users = [f"user_{n:03}" for n in range(GROUPS)]
    for what, names, each in (
        (f"event to {DEVICES} devices", users[:1], DEVICES),
        (f"event to users of {EACH} devices", users, EACH),
    ):
        costs: list[list[float]] = [[], []]
        with ExitStack() as stack:
            ours = stack.enter_context(bench.daemon())
            theirs = stack.enter_context(start())
            audiences = [
                Audience(bench, stack, ours, names, each),
                Audience(bench, stack, theirs, names, each, speech=theirs.speech),
            ]
            pairs = list(zip(audiences, costs, strict=True))
            for number in bench.rounds(f"{name}, {what}"):
                for audience, cost in turns(pairs, number):
                    if len(names) > 1:
                        order = list(range(GROUPS))
                        throughput(bench, audience, cost, EVENTS, order)
                    else:
                        with bench.meter.watch(audience.child, cost, SINGLES):
                            audience.singles(SINGLES)
        mine, others = ([US * c / each for c in cost] for cost in costs)
        sizes = " and ".join(f"{audience.size} B" for audience in audiences)
        yield Figure(
            PEERS, f"{what} ({sizes}), CPU per delivery", "µs", mine, name, others,
            shares=bench.meter.shares,
        )  # fmt: skip
