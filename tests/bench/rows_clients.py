"""Rows about what clients ask for: pings, handshakes, signed messages, updates."""

import base64
import hashlib
import hmac
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import repeat

import psycopg

from .bench import Bench, turns
from .figure import Figure
from .load import Crowd, Script, frame, upgrade
from .paced import PING

__all__ = ["handshake", "ping", "signed", "updates"]

CLIENTS = 50
PINGS = 5_000
HANDSHAKES = 500
SIGNED = 4_000
WRITERS = 64
UPDATES = 60 * WRITERS
US = 1e6


def ping(bench: Bench) -> Iterator[Figure]:
    """JSON ping and pong, one at a time on each of 50 connections."""
    users = [f"user_{n}" for n in range(CLIENTS)]
    each = PINGS // CLIENTS
    with ExitStack() as stack:
        costs: list[list[float]] = [[], []]
        children = [
            stack.enter_context(bench.daemon()), stack.enter_context(bench.relay())
        ]  # fmt: skip
        crowds = [Crowd(), Crowd()]
        crowds[0].open(children[0].port, [bench.device(user) for user in users])
        crowds[1].open(children[1].port, [bench.listener(user) for user in users])
        for crowd in crowds:
            stack.callback(crowd.close)
        subjects = list(zip(children, crowds, costs, strict=True))
        for number in bench.rounds("ping", full=15):
            for child, crowd, cost in turns(subjects, number):
                with bench.meter.watch(child, cost, PINGS):
                    crowd.ask({fd: repeat(PING, each) for fd in crowd.socks})
        yield Figure(
            "ping",
            "ping to pong, CPU per round trip",
            "µs",
            [US * c for c in costs[0]],
            "websockets.serve",
            [US * c for c in costs[1]],
            0.6,
            shares=bench.meter.shares,
        )


def handshake(bench: Bench) -> Iterator[Figure]:
    """Accept, upgrade, JWT, auth_success, beside a bare upgrade.

    Every connection is another user's, with a token that the server has never seen.
    A few at a time, and all at once, as after a restart.
    """
    several = {"16 at a time": 16, f"{HANDSHAKES} at once": HANDSHAKES}
    targets = dict(zip(several, (1.0, 0.65), strict=True))
    strangers: list[Script] = [[(upgrade(), b"\r\n\r\n")]] * HANDSHAKES
    costs: dict[str, dict[str, list[float]]] = {
        words: defaultdict(list) for words in several
    }
    with ExitStack() as stack:
        daemon = stack.enter_context(bench.daemon())
        gate = stack.enter_context(bench.gate())
        # asyncio's own loop is the faster one for this baseline.
        serve = stack.enter_context(bench.relay(uvloop=False, ping_interval=20))
        users = itertools.count()
        for number in bench.rounds("handshake", full=11):
            for words, window in several.items():
                devices = [
                    bench.device(f"user_{next(users)}") for _ in range(HANDSHAKES)
                ]
                visitors = [device[:1] for device in devices]
                subjects = [
                    ("whole", daemon, devices),
                    ("alone", daemon, visitors),
                    ("least", gate, devices),
                    ("serve", serve, strangers),
                ]
                for name, child, scripts in turns(subjects, number):
                    crowd = Crowd()
                    with bench.meter.watch(child, costs[words][name], HANDSHAKES):
                        crowd.open(child.port, scripts, window=window)
                    crowd.close()
                    child.quiesce()
    for words in several:
        target = targets[words]
        yield from _handshakes(words, target, costs[words], bench.meter.shares)


def _handshakes(
    words: str,
    most: float,
    costs: Mapping[str, list[float]],
    shares: tuple[float, float],
) -> Iterator[Figure]:
    """The handshakes begun so many at a time."""
    least, bare = "sockets, RSA and Redis alone", "websockets.serve, no auth"
    for work, ours, baseline, theirs, target in (
        (f"handshake + JWT + auth_success, {words}", "whole", bare, "serve", most),
        ("the same", "whole", least, "least", None),
        ("the upgrade alone", "alone", bare, "serve", None),
    ):
        yield Figure(
            "handshake",
            f"{work}, CPU",
            "µs",
            [US * c for c in costs[ours]],
            baseline,
            [US * c for c in costs[theirs]],
            target,
            shares=shares,
        )


def signed(bench: Bench) -> Iterator[Figure]:
    """leave_note with a payload of 2 KB, signed and not."""
    plain_text = json.dumps(
        {"type": "leave_note", "noteId": _note(1), "padding": "x" * 1_940}
    )
    plain = frame(plain_text.encode())
    users = [f"user_{n}" for n in range(CLIENTS)]
    for shared in (False, True):
        with ExitStack() as stack:
            child = stack.enter_context(bench.daemon(redis={"shared_nonces": shared}))
            crowd = Crowd()
            stack.callback(crowd.close)
            crowd.open(child.port, [bench.device(user) for user in users])
            with_: list[float] = []
            without: list[float] = []
            count = SIGNED // CLIENTS
            where = "with nonces in Redis" if shared else "nonces on this process"
            for number in bench.rounds(f"signed, {where}", full=13):
                messages = {
                    fd: iter([
                        _envelope(plain_text, _secret(heard), f"{number}-{fd}-{n}")
                        for n in range(count)
                    ])
                    for fd, heard in crowd.heard.items()
                }  # fmt: skip
                unsigned = {fd: repeat(plain, count) for fd in crowd.socks}
                subjects: list[tuple[Mapping[int, Iterator[bytes]], list[float]]] = [
                    (messages, with_),
                    (unsigned, without),
                ]
                for said, cost in turns(subjects, number):
                    with bench.meter.watch(child, cost, SIGNED):
                        crowd.ask(said)
            more = [US * (a - b) for a, b in zip(with_, without, strict=True)]
            yield Figure(
                "signed",
                f"signature of 2 KB, {where}, CPU on top",
                "µs",
                more,
                "25 µs",
                [25.0] * len(more),
                None if shared else 1.0,
                shares=bench.meter.shares,
            )


def _secret(heard: bytes) -> str:
    message = json.loads(heard[heard.index(b"{") :])
    return str(message["sessionSecret"])


def _envelope(payload: str, secret: str, nonce: str) -> bytes:
    now = int(time.time() * 1000)
    text = f'{{"payload":{payload},"timestamp":{now},"nonce":"{nonce}"}}'
    mac = hmac.digest(secret.encode(), text.encode(), hashlib.sha256)
    signature = base64.b64encode(mac).decode()
    return frame(f'{text[:-1]},"signature":"{signature}"}}'.encode())


def _note(number: int) -> str:
    return f"00000000-0000-4000-a000-{number:012d}"


def updates(bench: Bench) -> Iterator[Figure]:
    """note_update, Postgres included, beside the bare UPDATE over as many links."""
    notes = [(f"writer_{n}", _note(n)) for n in range(WRITERS)]
    with psycopg.connect(bench.database_url, autocommit=True) as db:
        for user, note in notes:
            db.execute("INSERT INTO users (id, email) VALUES (%s, %s)", (user, user))
            db.execute(
                "INSERT INTO notes (id, user_id, title) VALUES (%s, %s, 't')",
                (note, user),
            )
    with ExitStack() as stack:
        child = stack.enter_context(bench.daemon())
        crowd = Crowd()
        stack.callback(crowd.close)
        crowd.open(child.port, [bench.device(user) for user, _ in notes])
        # The notes are new: recovery sends them to who signs in.
        child.settle()
        crowd.hush()
        text = '{"type":"note_update","noteId":"%s","changes":{"content":"c"}}'
        wanted = {
            fd: frame((text % note).encode())
            for fd, (_, note) in zip(crowd.socks, notes, strict=True)
        }
        bare = stack.enter_context(bench.bare_updates(notes))
        loop = Crowd()
        stack.callback(loop.close)
        loop.open(bare.port, [[(b"64\n", b"done")]])
        (control,) = loop.socks.values()

        def update_bare() -> None:
            control.send(b"%d\n" % UPDATES)
            loop.drain(len(b"done\n"))

        def update() -> None:
            crowd.ask({fd: repeat(m, UPDATES // WRITERS) for fd, m in wanted.items()})

        subjects = [(child, 0, update), (bare, 1, update_bare)]
        busy = [bench.busy(), bench.busy()]
        costs: list[list[float]] = [[], []]
        rates: list[list[float]] = [[], []]
        for number in bench.rounds("updates", full=21):
            for server, who, run in turns(subjects, number):
                with bench.meter.watch(server, costs[who], UPDATES), busy[who].watch():
                    began = time.monotonic()
                    run()
                    rates[who].append(UPDATES / (time.monotonic() - began))
    yield Figure(
        "updates",
        "note_update through Postgres, 8 links",
        "/s",
        rates[0],
        "bare UPDATE loop",
        rates[1],
        0.75,
        at_least=True,
        shares=bench.meter.shares,
        cores=[each.shares for each in busy],
    )
    yield Figure(
        "updates",
        "the same, CPU per update",
        "µs",
        [US * c for c in costs[0]],
        "bare UPDATE loop",
        [US * c for c in costs[1]],
        shares=bench.meter.shares,
    )
