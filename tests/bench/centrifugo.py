"""Centrifugo beside the daemon: `--centrifugo PATH`, the path of its binary.

Both check the same RS256 tokens, and both are on the server's core. Centrifugo is
configured as its manual says for one channel per user (`#ID`, subscribed on the
server) with its JSON protocol, without history or presence. Its events go to
`POST /api/publish`, pipelined over one connection; the daemon's to `PUBLISH` of Redis.
So the row with its Redis engine has the way of an event from the API to Redis and back
in Centrifugo's CPU. With its engine in memory it serves one process only.
"""

import itertools
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

from tests.tokens import public_pem

from .bench import Bench, turns
from .figure import Figure
from .load import Crowd, Publisher, Script, Speech, frame, upgrade
from .machine import Process, free_port
from .peers import PeerServer, delivery
from .report import PEERS
from .rows_scale import devices, weigh

__all__ = ["Api", "centrifugo_rows", "settings"]

ENGINES = ("memory", "redis")
PATH = b"/connection/websocket"
KEY = "bench"
HANDSHAKES = 500
CLIENTS = 50
PINGS = 5_000
PING_FRAME = b"\x89\x80" + bytes(4)
US = 1e6


def settings(engine: str, port: int, redis_url: str) -> dict[str, Any]:
    """Its configuration file: the engine, one channel per user, no timers."""
    return {
        "http_server": {"address": "127.0.0.1", "port": port},
        "engine": {"type": engine, "redis": {"address": redis_url}},
        "client": {
            "token": {"rsa_public_key": public_pem()},
            "subscribe_to_user_personal_channel": {"enabled": True},
            # Its pings would be counted as events; the daemon's are as rare.
            "ping_interval": "24h",
        },
        "http_api": {"key": KEY},
        "log": {"level": "error"},
        "usage_stats": {"disabled": True},
    }


class Api(Publisher):
    """Its HTTP API; requests are pipelined over one connection."""

    @staticmethod
    def command(prefix: str, user: str, event: bytes) -> bytes:
        """The request that publishes an event of a user."""
        body = b'{"channel":"%s","data":%s}' % (f"{prefix}{user}".encode(), event)
        return (
            b"POST /api/publish HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nX-API-Key: %s\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (KEY.encode(), len(body), body)
        )

    def send(self, commands: bytes, count: int) -> None:
        """Send `count` requests and wait for the answers."""
        self._link.sendall(commands)
        # Each is {"result":{}} or {"error":{...}}; an event that was refused is
        # missed where its arrival is awaited.
        braces = 2 * count
        while braces > 0:
            braces -= self._received().count(b"}")


class Centrifugo(PeerServer):
    """The server while it is entered."""

    def __init__(self, bench: Bench, binary: str, engine: str) -> None:
        self._bench = bench
        self._place = tempfile.TemporaryDirectory()
        port = free_port()
        file = Path(self._place.name, "config.json")
        file.write_text(json.dumps(settings(engine, port, bench.redis.url)))
        super().__init__(bench, [binary, "-c", str(file)], port, "#")
        self.speech = Speech(self.device, lambda: Api(port))

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._place.cleanup()

    def device(self, user: str) -> Script:
        """A device with the token that the daemon gets."""
        token = self._bench.token(user).encode()
        connect = b'{"id":1,"connect":{"token":"%s"}}' % token
        return [(upgrade(PATH), b"\r\n\r\n"), (frame(connect), b'"subs"')]


def centrifugo_rows(bench: Bench, binary: str) -> Iterator[Figure]:
    """Events and handshakes with each engine; pings and memory with Redis."""
    for engine in ENGINES:
        name = f"Centrifugo, {engine}"
        yield from delivery(bench, name, partial(Centrifugo, bench, binary, engine))
    for engine in ENGINES:
        yield from _handshakes(bench, binary, engine)
    yield _pings(bench, binary)
    yield _idle(bench, binary)


def _both(
    bench: Bench, stack: ExitStack, binary: str, engine: str
) -> tuple[Process, Centrifugo]:
    ours = stack.enter_context(bench.daemon())
    return ours, stack.enter_context(Centrifugo(bench, binary, engine))


def _handshakes(bench: Bench, binary: str, engine: str) -> Iterator[Figure]:
    """Accept, upgrade, JWT, subscription, answer: each of a user never seen."""
    several = {"16 at a time": 16, f"{HANDSHAKES} at once": HANDSHAKES}
    costs: dict[str, list[list[float]]] = {words: [[], []] for words in several}
    users = itertools.count()
    with ExitStack() as stack:
        ours, theirs = _both(bench, stack, binary, engine)
        for number in bench.rounds(f"Centrifugo, {engine}, handshake"):
            for words, window in several.items():
                names = [f"user_{next(users)}" for _ in range(HANDSHAKES)]
                subjects = [
                    (ours, [bench.device(name) for name in names], 0),
                    (theirs, [theirs.device(name) for name in names], 1),
                ]
                for server, scripts, who in turns(subjects, number):
                    crowd = Crowd()
                    with bench.meter.watch(server, costs[words][who], HANDSHAKES):
                        crowd.open(server.port, scripts, window=window)
                    crowd.close()
                    server.quiesce()
    for words, cost in costs.items():
        yield _figure(
            bench, f"handshake + JWT, {words}, CPU", f"Centrifugo, {engine}", cost
        )


def _pings(bench: Bench, binary: str) -> Figure:
    """Ping frames of WebSocket: its JSON protocol has none that a client sends."""
    users = [f"user_{n}" for n in range(CLIENTS)]
    costs: list[list[float]] = [[], []]
    with ExitStack() as stack:
        ours, theirs = _both(bench, stack, binary, "redis")
        crowds = [Crowd(), Crowd()]
        for crowd in crowds:
            stack.callback(crowd.close)
        crowds[0].open(ours.port, [bench.device(user) for user in users])
        crowds[1].open(theirs.port, [theirs.device(user) for user in users])
        subjects = list(zip((ours, theirs), crowds, costs, strict=True))
        each = PINGS // CLIENTS
        for number in bench.rounds("Centrifugo, ping"):
            for server, crowd, cost in turns(subjects, number):
                with bench.meter.watch(server, cost, PINGS):
                    crowd.ask({fd: repeat(PING_FRAME, each) for fd in crowd.socks})
    return _figure(
        bench, "ping frame to pong frame, CPU per round trip", "Centrifugo", costs
    )


def _idle(bench: Bench, binary: str) -> Figure:
    """Resident bytes of an idle connection, at 10 000."""
    ours: list[float] = []
    theirs: list[float] = []

    def daemon() -> None:
        with bench.daemon() as child:
            ours.append(weigh(child, devices(bench.device)))

    def peer() -> None:
        with Centrifugo(bench, binary, "redis") as child:
            theirs.append(weigh(child, devices(child.device)))

    for number in bench.rounds("Centrifugo, idle", full=2, quick=1):
        for run in turns([daemon, peer], number):
            run()
    return Figure(
        PEERS, "idle authenticated connection, RSS", "B", ours,
        "Centrifugo, redis", theirs,
    )  # fmt: skip


def _figure(bench: Bench, work: str, name: str, costs: list[list[float]]) -> Figure:
    ours, theirs = ([US * c for c in cost] for cost in costs)
    return Figure(PEERS, work, "µs", ours, name, theirs, shares=bench.meter.shares)
