"""What every row needs: servers to measure, users to be, rounds, and progress."""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

from tests.tokens import mint, public_pem
from typelets_ws.dev import samples
from typelets_ws.dev.postgres import Postgres
from typelets_ws.dev.redis import Redis

from .load import Publisher, Script, frame, upgrade
from .machine import Child, Meter

__all__ = ["Bench", "Figure"]

ANSWER = b'"connectionId"'
PLENTY = 1_000_000


@dataclass
class Figure:
    """One line of the table. `theirs` empty: the figure is held against `target`.

    The ratio is taken round by round; `at_least` turns the target round.
    """

    row: str
    work: str
    unit: str
    ours: list[float]
    baseline: str = ""
    theirs: list[float] = field(default_factory=list)
    target: float | None = None
    at_least: bool = False
    shares: tuple[float, float] = (0.0, 0.0)

    @property
    def ratios(self) -> list[float]:
        """Ours to theirs, by round."""
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def judged(self) -> float:
        """What is held against the target."""
        return median(self.ratios if self.theirs else self.ours)

    @property
    def met(self) -> bool | None:
        """None where nothing is promised."""
        if self.target is None:
            return None
        return (self.judged >= self.target) is self.at_least or (
            self.judged == self.target
        )


class Bench:
    """One run. Servers are started when a row asks for them, and end with it."""

    def __init__(self, *, quick: bool, core: int) -> None:
        self.quick = quick
        self._core = core
        self._stack = ExitStack()
        self._tokens: dict[str, str] = {}
        self._began = time.monotonic()
        self.meter = Meter()

    def __enter__(self) -> Self:
        self.redis = self._stack.enter_context(Redis())
        self._place = self._stack.enter_context(tempfile.TemporaryDirectory())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @cached_property
    def database_url(self) -> str:
        """A real Postgres with the tables and sample rows."""
        server = self._stack.enter_context(Postgres(Path(self._place, "data")))
        samples.fill(server.url())
        return server.url()

    def daemon(self, **sections: dict[str, Any]) -> Child:
        """The daemon, its limits out of the way; `sections` change keys."""
        config: dict[str, dict[str, Any]] = {
            "server": {"port": 0},
            "admin": {"enabled": False},
            "auth": {"jwt_key": public_pem()},
            "limits": {
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
            "log": {"level": "error"},
        }
        for section, keys in sections.items():
            config[section] = config[section] | keys
        return Child("daemon", self._core, config=config)

    def relay(
        self, *, uvloop: bool = True, ping_interval: float | None = None
    ) -> Child:
        """The naive relay; without keepalive unless told otherwise."""
        return Child(
            "relay",
            self._core,
            redis_url=self.redis.url,
            uvloop=uvloop,
            ping_interval=ping_interval,
        )

    def floor(self) -> Child:
        """The bare loop of writes."""
        return Child("floor", self._core)

    def bare_updates(self, notes: list[tuple[str, str]]) -> Child:
        """The bare loop of UPDATEs, of these users' notes."""
        return Child(
            "update",
            self._core,
            uvloop=True,
            notes=notes,
            database_url=self.database_url,
        )

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

    def rounds(self, row: str, full: int = 7, quick: int = 3) -> Iterator[int]:
        """Count the rounds of a row and tell how far it is."""
        count = quick if self.quick else full
        self.meter.reset()
        for number in range(count):
            self.tell(f"{row}: round {number + 1} of {count}")
            yield number

    def tell(self, text: str) -> None:
        """The progress line, for whoever looks on."""
        elapsed = time.monotonic() - self._began
        end = "\r" if sys.stderr.isatty() else "\n"
        line = f"{elapsed:4.0f} s  {text}"
        print(f"{line:<78}", end=end, file=sys.stderr, flush=True)
