"""The fast paths: code that replaces a library for speed, each with a switch.

Invariants. With its path switched off, a part behaves the same and only takes longer;
one differential test per path in tests/fastpaths checks it, and the integration tests
run with all and with none (tests/integration/conftest.py). A path is chosen when its
part is built: no hot code reads a switch. The variable `TYPELETS_WS_FASTPATHS` is
``all`` (the default), ``none`` or names separated by commas; it is read at start.

Rule of removal: a path that gains less than 10 % of its row of scripts/bench, or that
the library has caught up with, is deleted with its switch and its test.

The connection to Redis (`redis.connection`) is not one of them: redis-py's own PubSub
reconnects silently, so there is nothing to switch to.
"""

from dataclasses import dataclass, fields
from typing import Final, NamedTuple

__all__ = ["ALL", "FAST_PATHS", "VARIABLE", "FastPath", "FastPaths"]

VARIABLE: Final = "TYPELETS_WS_FASTPATHS"


class FastPath(NamedTuple):
    """One fast path; `name` is its switch.

    `gain` is what the work costs more without it. Measured beside each other, all on
    and one off, as medians of 10 to 12 rounds on a busy machine; `tokens` by itself.
    """

    name: str
    module: str
    replaces: str
    gain: str
    invariant: str
    delete_when: str


FAST_PATHS: Final = (
    FastPath(
        "upgrade",
        "wire.upgrade",
        "websockets' ServerProtocol.accept",
        "75 % of a handshake with authentication (row handshake, 300 at once)",
        "the library would give the same 101, but for Date",
        "the library accepts an upgrade for less than twice the time",
    ),
    FastPath(
        "frames",
        "wire.frames",
        "websockets' Protocol for a read that is one whole text frame or pong",
        "130 % of a ping (row ping)",
        "only between messages; the library would give the same payload",
        "websockets parses a whole frame without a generator",
    ),
    FastPath(
        "writes",
        "websocket.writer",
        "the transport's write, while its buffer is empty",
        "11 % of a delivery (row fanout)",
        "while the transport holds bytes, all bytes pass through it",
        "uvloop writes small frames as fast",
    ),
    FastPath(
        "tokens",
        "clerk.tokens",
        "PyJWT's decoding of a token's three segments",
        "60 µs of a handshake: 94 instead of 34 for a token (row handshake)",
        "the same claims, or the same reason",
        "PyJWT decodes with typed claims",
    ),
    FastPath(
        "libpq",
        "postgres.connection",
        "psycopg's cursor",
        "60 % of a note_update (row updates)",
        "the same rows, the same errors, every statement bounded",
        "a cursor costs less than the statement",
    ),
    FastPath(
        "idle",
        "postgres.pool",
        "psycopg_pool's getconn and putconn for each statement",
        "30 % of a note_update (row updates)",
        "a connection goes back after 10 s, or when another waits for it",
        "the pool hands an idle connection over without a task",
    ),
    FastPath(
        "counters",
        "telemetry.counters",
        "prometheus_client's Counter and Histogram",
        "19 % of a ping (row ping)",
        "the same lines in /metrics, but for _created",
        "prometheus_client counts without a lock",
    ),
)


@dataclass(frozen=True, slots=True)
class FastPaths:
    """Which fast paths are on."""

    upgrade: bool = True
    frames: bool = True
    writes: bool = True
    tokens: bool = True
    libpq: bool = True
    idle: bool = True
    counters: bool = True

    @classmethod
    def named(cls, text: str) -> "FastPaths":
        """Parse the variable's value. Raises `ValueError` for an unknown name."""
        known = [field.name for field in fields(cls)]
        chosen = {name.strip() for name in text.split(",") if name.strip()}
        if chosen == {"all"}:
            return cls()
        if chosen == {"none"}:
            chosen = set()
        if unknown := sorted(chosen - set(known)):
            raise ValueError(
                f"{VARIABLE}: {', '.join(unknown)}; expected all, none or some of "
                f"{', '.join(known)}"
            )
        return cls(**{name: name in chosen for name in known})


ALL: Final = FastPaths()
