"""Shared by all rows: servers to measure, users, rounds, and progress."""

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.tokens import mint, public_pem
from typelets_ws.dev import samples
from typelets_ws.dev.postgres import Postgres
from typelets_ws.dev.redis import RedisServer

from .cores import Busy, Layout
from .load import Publisher, Script, Speech, frame, upgrade
from .machine import Child, Meter

__all__ = ["Bench", "turns"]

ANSWER = b'"connectionId"'
PLENTY = 1_000_000
T = TypeVar("T")


def turns(subjects: Sequence[T], number: int) -> Sequence[T]:
    """The subjects in the order of this round: there, and in the next one back.

    A machine that gets slower and slower would else favour the first.
    """
    return subjects[::-1] if number % 2 else subjects


class Bench:
    """One run. Servers are started when a row asks for them, and end with it."""

    def __init__(self, *, quick: bool, cores: Layout, full: bool = False) -> None:
        self.quick = quick
        self.full = full
        self.cores = cores
        self._stack = ExitStack()
        self._tokens: dict[str, str] = {}
        self._began = time.monotonic()
        self.meter = Meter()

    def __enter__(self) -> Self:
        self.redis = self._stack.enter_context(RedisServer())
        self._place = self._stack.enter_context(tempfile.TemporaryDirectory())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def database_url(self) -> str:
        """A real Postgres with the tables and sample rows."""
        server = self._stack.enter_context(Postgres(Path(self._place, "data")))
        samples.fill(server.url())
        return server.url()

    def daemon(self, beside: Child | None = None, **sections: dict[str, Any]) -> Child:
        """The daemon, its limits out of the way; `sections` change keys.

        `beside` another one: on the second core, hearing the same events.
        """
        config: dict[str, dict[str, Any]] = {
            "server": {"port": 0},
            "admin": {"enabled": False},
            "auth": {"jwt_key": public_pem()},
            "limits": {
                "connections": PLENTY,
                "handshakes": PLENTY,
                "devices_per_user": PLENTY,
                "accepts_per_second": PLENTY,
                "unauthenticated": PLENTY,
                "per_address": PLENTY,
                "rate_messages": PLENTY,
                "rate_window_ms": 1_000,
                "nonces_per_user": PLENTY,
                "ping_interval_s": 100_000.0,
            },
            "redis": {"url": self.redis.url},
            # A database that is not there costs a try to connect now and then.
            "database": {"url": self.database_url},
            # The events name notes that no database has: an audit would follow them
            # with deletions. The rows about recovery set their own.
            "recovery": {"audit_s": 3_600.0, "quiet_s": 0.0},
            "log": {"level": "error"},
        }
        for section, keys in sections.items():
            config[section] = config.get(section, {}) | keys
        if beside:
            return Child("daemon", self.cores.second, beside.prefix, config=config)
        return Child("daemon", self.cores.server, config=config)

    def relay(
        self, *, uvloop: bool = True, ping_interval: float | None = None
    ) -> Child:
        """The naive relay; without keepalive by default."""
        return Child(
            "relay",
            self.cores.server,
            redis_url=self.redis.url,
            uvloop=uvloop,
            ping_interval=ping_interval,
        )

    def floor(self) -> Child:
        """The bare loop of writes."""
        return Child("floor", self.cores.server)

    def gate(self) -> Child:
        """The least work of a handshake with authentication."""
        return Child(
            "gate",
            self.cores.server,
            uvloop=True,
            redis_url=self.redis.url,
            pem=public_pem(),
        )

    def bare_updates(self, notes: list[tuple[str, str]]) -> Child:
        """The bare loop of UPDATEs, of these users' notes."""
        return Child(
            "update",
            self.cores.server,
            uvloop=True,
            notes=notes,
            database_url=self.database_url,
        )

    def busy(self) -> Busy:
        """How busy the cores are while something is done again and again."""
        return Busy(self.cores.groups)

    def publisher(self) -> Publisher:
        """A link to Redis for events."""
        return Publisher(self.redis.port)

    def token(self, user: str) -> str:
        """A session token; the same one for all devices of a user."""
        if user not in self._tokens:
            self._tokens[user] = mint(user, expires_in=3_600)
        return self._tokens[user]

    def device(self, user: str) -> Script:
        """How a device of the daemon becomes one."""
        auth = b'{"type":"auth","token":"%s"}' % self.token(user).encode()
        return [(upgrade(), b"connection_established"), (frame(auth), ANSWER)]

    def listener(self, user: str) -> Script:
        """The same for the relay."""
        join = b'{"type":"join","user":"%s"}' % user.encode()
        return [(upgrade(), b"\r\n\r\n"), (frame(join), b"joined")]

    @property
    def relayed(self) -> Speech:
        """What the relay and peers that speak as it does understand."""
        return Speech(self.listener, self.publisher)

    def rounds(self, row: str, full: int = 7, quick: int = 3) -> Iterator[int]:
        """Count the rounds of a row and tell how far it is."""
        count = quick if self.quick else full
        self.meter.reset()
        for number in range(count):
            self.tell(f"{row}: round {number + 1} of {count}")
            yield number

    def tell(self, text: str) -> None:
        """The progress line."""
        elapsed = time.monotonic() - self._began
        end = "\r" if sys.stderr.isatty() else "\n"
        line = f"{elapsed:4.0f} s  {text}"
        print(f"{line:<78}", end=end, file=sys.stderr, flush=True)
