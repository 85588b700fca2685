"""Other servers beside the daemon: `--peer NAME=COMMAND`.

COMMAND starts the server. In it ``{port}`` is replaced by the loopback port to listen
on, ``{redis}`` by the URL of the bench's Redis and ``{prefix}`` by the prefix of its
channels. The server speaks what the naive relay of `servers` speaks: a client sends
``{"type":"join","user":ID}`` and is answered with a text that has ``joined`` in it;
an event published to ``{prefix}user:ID`` goes to the clients that joined as ID.
"""

import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from .bench import Bench, turns
from .figure import Figure
from .load import RefusedError
from .machine import Process, free_port
from .subjects import Audience, throughput

__all__ = ["PeerCommand", "peer_rows"]

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
    """The server of a peer on the server's core, while it is entered."""

    def __init__(self, bench: Bench, peer: PeerCommand) -> None:
        port = free_port()
        self.prefix = f"bench-{peer.name}:"
        command = peer.command
        for word, value in (
            ("{port}", str(port)),
            ("{redis}", bench.redis.url),
            ("{prefix}", self.prefix),
        ):
            command = command.replace(word, value)
        self._process = subprocess.Popen(shlex.split(command))
        super().__init__(self._process.pid, port)
        os.sched_setaffinity(self.pid, {bench.cores.server})

    def __enter__(self) -> Self:
        until = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if time.monotonic() > until or self._process.poll() is not None:
                    raise RefusedError("the peer does not listen") from None
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def peer_rows(bench: Bench, peer: PeerCommand) -> Iterator[Figure]:
    """Events to 1000 devices of one user, and to users of 5 devices."""
    users = [f"user_{n}" for n in range(GROUPS)]
    for what, names, each in (
        (f"event to {DEVICES} devices", users[:1], DEVICES),
        (f"event to users of {EACH} devices", users, EACH),
    ):
        costs: list[list[float]] = [[], []]
        with ExitStack() as stack:
            ours = stack.enter_context(bench.daemon())
            theirs = stack.enter_context(PeerServer(bench, peer))
            audiences = [
                Audience(bench, stack, ours, names, each),
                Audience(bench, stack, theirs, names, each, relay=True),
            ]
            pairs = list(zip(audiences, costs, strict=True))
            for number in bench.rounds(f"{peer.name}, {what}"):
                for audience, cost in turns(pairs, number):
                    if len(names) > 1:
                        order = list(range(GROUPS))
                        throughput(bench, audience, cost, EVENTS, order)
                    else:
                        with bench.meter.watch(audience.child, cost, SINGLES):
                            audience.singles(SINGLES)
        mine, others = ([US * c / each for c in cost] for cost in costs)
        yield Figure(
            "peers", f"{what}, CPU per delivery", "µs", mine, peer.name, others,
            shares=bench.meter.shares,
        )  # fmt: skip
